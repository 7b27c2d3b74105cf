# SPDX-License-Identifier: Apache-2.0
"""``fastdet check``: what is wrong with a data set, before it is trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastdet.arguments import Parser, add_arguments, build_config
from fastdet.data.augmentation import contact_sheet, recipe_named
from fastdet.data.check import CheckReport, check_dataset
from fastdet.data.pictures import PictureCache
from fastdet.detections import SAVE_SUFFIXES
from fastdet.drawing import encode
from fastdet.files import write_atomic
from fastdet.progress import Progress, aligned, printable

EXAMPLE = """\
example: fastdet check bccd --json report.json --png labels.png

DATA: a data set in COCO, YOLO (folder or data YAML) or VOC format, a folder or a list of pictures.
Every picture is decoded. Exit code 1 when something would harm training; notes do not count."""

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class CheckCommand:
    """What ``fastdet check`` takes."""

    images: str | None = field(
        default=None, metadata={"help": "folder of the pictures of a COCO file", "metavar": "DIR"}
    )
    allow_outside: bool = field(default=False, metadata={"help": "accept files outside the data set's folder"})
    polygons: bool = field(default=False, metadata={"help": "polygons are trained with (copy-paste): theirs count too"})
    show: int = field(default=20, metadata={"help": "problems of a kind to show; 0 for all"})
    json: str | None = field(default=None, metadata={"help": "write everything there", "metavar": "FILE"})
    png: str | None = field(default=None, metadata={"help": "write a picture of the labels there", "metavar": "FILE"})
    sheet: str | None = field(
        default=None, metadata={"help": "write augmented training pictures with boxes there", "metavar": "FILE"}
    )
    recipe: str = field(default="fastdet", metadata={"help": "augmentation on the sheet: fastdet, yolov5, ... (docs)"})


def run(words: list[str]) -> int:
    """Run the command with ``words``; returns the exit code."""
    usage = "fastdet check DATA [OPTIONS]"
    parser = Parser(prog="fastdet check", usage=usage, description="What is wrong with a data set.", epilog=EXAMPLE)
    parser.add_argument("data", metavar="DATA", help="folder, data YAML, COCO file or list of pictures")
    add_arguments(parser, CheckCommand)
    given = parser.parse_args(words)
    command: CheckCommand = build_config(CheckCommand, given)
    recipe_named(command.recipe)  # before the long work
    for option, file in (("--png", command.png), ("--sheet", command.sheet)):
        if file and Path(file).suffix.lower() not in SAVE_SUFFIXES:
            parser.error(f"{option} must end in one of {', '.join(sorted(SAVE_SUFFIXES))}, got {file!r}")
    with Progress(0, "pictures") as progress:

        def on_picture(total: int) -> None:
            progress.total = total
            progress.step()

        report = check_dataset(
            given.data,
            images=command.images,
            allow_outside=command.allow_outside,
            polygons=command.polygons,
            on_picture=on_picture,
        )
    print("\n".join(map(printable, _lines(report, command.show))), flush=True)  # whatever becomes of the files
    if command.json:
        write_atomic(Path(command.json), (json.dumps(report.to_dict(), indent=1) + "\n").encode())
    if command.png:
        from fastdet.data.label_sheet import label_sheet

        sheet = label_sheet(report.sets, f"{report.path}, {report.kind}")
        write_atomic(Path(command.png), encode(sheet, Path(command.png).suffix))
    if command.sheet:
        _write_sheet(Path(command.sheet), command.recipe, report)
    return 1 if report.harmful else 0


def _write_sheet(path: Path, recipe: str, report: CheckReport) -> None:
    """Training samples of the pictures that can be read; of the first split where none is for training."""
    if not report.sets:
        raise ValueError(f"{report.path}: there is nothing to draw on a sheet")
    split = next((name for name in report.sets if name.startswith("train")), next(iter(report.sets)))
    dataset = report.sets[split]
    bad = {problem.path for problem in report.problems if problem.level == "error"}
    readable = dataset.pictures.where(np.array([picture.path not in bad for picture in dataset.pictures], bool))
    sheet = contact_sheet(PictureCache(readable), recipe_named(recipe), names=dataset.names or None)
    write_atomic(path, encode(sheet, path.suffix))


def _lines(report: CheckReport, show: int) -> list[str]:
    splits = [("split", "pictures", "background", "objects", "crowds", "small", "medium", "large")]
    for split in report.splits:
        numbers = (split.pictures, split.background, split.objects, split.crowds, *split.sizes.values())
        splits.append((split.name, *map(str, numbers)))  # type: ignore[arg-type] # as many as the head
    lines = [f"{report.path}: {report.kind}", "", *aligned(splits)]
    names = list(dict.fromkeys(name for split in report.splits for name in split.classes))
    if names:
        rows = [[name, *(str(split.classes.get(name, 0)) for split in report.splits)] for name in names]
        lines += ["", *aligned([["class", *(split.name for split in report.splits)], *rows])]
    worst: dict[str, int] = {}
    for problem in report.problems:
        level = LEVELS.index(problem.level)
        worst[problem.kind] = min(worst.get(problem.kind, level), level)
    for kind, count in sorted(report.counts().items(), key=lambda item: worst[item[0]]):
        own = [problem for problem in report.problems if problem.kind == kind]
        shown = own[: show or None]
        lines += ["", f"{LEVELS[worst[kind]]} {kind}: {count}", *(f"  {problem}" for problem in shown)]
        if len(own) > len(shown):
            lines.append(f"  and {len(own) - len(shown)} more; --show 0 or --json FILE has all")
    harm = sum(problem.level != "note" for problem in report.problems)
    notes = len(report.problems) - harm
    verdict = f"{harm} problem{'s' * (harm != 1)} would harm training" if harm else "nothing would harm training"
    return [*lines, "", f"{verdict}; {notes} note{'s' * (notes != 1)}"]
