# SPDX-License-Identifier: Apache-2.0
"""``fastdet predict``: pictures in, a table of detections out."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdet.arguments import Parser, add_arguments, build_config
from fastdet.detections import SAVE_SUFFIXES, Detections
from fastdet.detector import WEIGHTS, PredictOptions, default_pictures, load
from fastdet.files import write_atomic
from fastdet.progress import Progress
from fastdet.sources import ImageError, expand

EXAMPLE = """\
example: fastdet predict cells/ more/*.jpg --weights mine.safetensors --save out --json out.json

SOURCE: pictures, folders, globs, .txt lists; none: the pictures that come with the package.
A picture that cannot be read is named on standard error; the others are done; exit code 1."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """What ``fastdet predict`` takes beside ``PredictOptions``."""

    sources: tuple[str, ...] = field(
        default=(), metadata={"help": "pictures to look at", "positional": True, "metavar": "SOURCE"}
    )
    weights: str = field(
        default="default", metadata={"help": "file (.safetensors, .pt, .pth), model name, or default", "metavar": "W"}
    )
    save: str | None = field(default=None, metadata={"help": "write the pictures with boxes there", "metavar": "DIR"})
    json: str | None = field(default=None, metadata={"help": "write COCO results there", "metavar": "FILE"})
    trace: str | None = field(
        default=None,
        metadata={"help": "write every stage there, to see where a wrong box comes from", "metavar": "DIR"},
    )
    device: str = field(default="cpu", metadata={"help": "torch device: cpu, cuda, cuda:1", "metavar": "DEVICE"})


def run(words: list[str]) -> int:
    """Run the command with ``words``; returns the exit code."""
    usage = "fastdet predict [SOURCE ...] [OPTIONS]"
    parser = Parser(prog="fastdet predict", usage=usage, description="Find objects on pictures.", epilog=EXAMPLE)
    add_arguments(parser, PredictCommand)
    add_arguments(parser, PredictOptions)
    given = parser.parse_args(words)
    try:
        command: PredictCommand = build_config(PredictCommand, given)
        options: PredictOptions = build_config(PredictOptions, given)
        items = expand(list(command.sources) or default_pictures())
        saved = SavePaths(command.save, items)
    except ValueError as error:
        parser.error(str(error).removeprefix("predict: "))
    _make_places(command)
    detector = load(command.weights, device=command.device)
    on_stage = None
    if command.trace:
        from fastdet.trace import Trace

        on_stage = Trace(command.trace, detector.spec, detector.names, options.score_threshold)
    failed: list[ImageError] = []
    count = 0
    started = time.perf_counter()
    with Progress(len(items), "pictures") as progress:

        def on_error(error: ImageError) -> None:
            failed.append(error)
            progress.note(f"fastdet predict: {error}")
            progress.step()

        try:
            results = detector.predict(items, stream=True, on_error=on_error, on_stage=on_stage, **vars(options))
        except ValueError as error:  # of --classes, which only the weights can judge
            parser.error(str(error).removeprefix("predict: "))
        table = Table([_shown(item) for item in items if isinstance(item, Path)], detector.names)
        rows: list[dict[str, Any]] = []
        ids: dict[Path, int] = {}
        for number, item in enumerate(items):
            ids.setdefault(item, number)
        for found in results:
            count += len(found)
            for line in table.lines(found):
                progress.note(line, sys.stdout)
            if command.save:
                found.save(saved.paths[found.path])
            if command.json:
                rows += [{"file_name": str(found.path), **row} for row in found.to_coco(ids[found.path])]
            progress.step()
    seconds = time.perf_counter() - started
    if command.json:
        write_atomic(Path(command.json), (json.dumps(rows, indent=1) + "\n").encode())
    _report(command, len(items), failed, count, seconds)
    return 1 if failed else 0


def _make_places(command: PredictCommand) -> None:
    """Make the folders to write to, so that what cannot be written is known before the work. Raises OSError."""
    for folder in (command.save, command.trace, command.json and os.path.dirname(command.json)):
        if folder:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    if command.json and os.path.isdir(command.json):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), command.json)


def _report(command: PredictCommand, pictures: int, failed: list[ImageError], count: int, seconds: float) -> None:
    done = pictures - len(failed)
    line = f"{count} detection{'s' * (count != 1)} on {done} picture{'s' * (done != 1)} in {seconds:.2f} s"
    if failed:
        line += f"; {len(failed)} could not be read"
    places = [place for place in (command.save, command.json, command.trace) if place]
    if places:
        line += f"; written to {', '.join(places)}"
    elif not command.sources:
        line += "; --save DIR writes the pictures with their boxes"
    print(line, file=sys.stderr, flush=True)


def _shown(path: Path | None) -> str:
    """``path`` as it was given; of the pictures in the package the name alone."""
    return path.name if path is not None and path.parent == WEIGHTS else str(path)


class Table:
    """Detections as aligned lines, the widths fixed by what can come; the head comes with the first ones."""

    def __init__(self, pictures: Sequence[str], names: Sequence[str]) -> None:
        self.wide = max([len("picture"), *map(len, pictures)])
        self.class_wide = max([len("class"), *map(len, names)])
        self.begun = False

    def lines(self, found: Detections) -> list[str]:
        """The lines of one picture; one that says so when there is nothing on it."""
        lines = []
        if not self.begun:
            lines.append(self._line("picture", "class", "score", "x1", "y1", "x2", "y2"))
            self.begun = True
        if not len(found):
            lines.append(self._line(_shown(found.path), "-", "-", *"----"))
        for box, score, _, name in found:
            lines.append(self._line(_shown(found.path), name, f"{score:.2f}", *(f"{side:.1f}" for side in box)))
        return lines

    def _line(self, picture: str, name: str, score: str, *sides: str) -> str:
        numbers = "".join(f"{side:>9}" for side in sides)
        return f"{picture:<{self.wide}}  {name:<{self.class_wide}}  {score:>5}{numbers}"


class SavePaths:
    """Where each picture goes under ``folder``: its own name, numbered where two have the same, never onto a source.

    Raises ValueError when a picture would be written over one of the sources.
    """

    def __init__(self, folder: str | None, items: Sequence[Any]) -> None:
        self.paths: dict[Path, Path] = {}
        taken: set[str] = set()
        # realpath, because Path.resolve raises on a loop of links
        sources = {os.path.realpath(item) for item in items if isinstance(item, Path)} if folder else set()
        for item in items if folder else ():
            if not isinstance(item, Path) or item in self.paths:
                continue
            suffix = item.suffix if item.suffix.lower() in SAVE_SUFFIXES else ".png"
            name, number = item.stem + suffix, 1
            while name.lower() in taken:
                number += 1
                name = f"{item.stem}_{number}{suffix}"
            taken.add(name.lower())
            path = Path(str(folder)) / name
            if os.path.realpath(path) in sources:
                raise ValueError(f"--save {folder} would overwrite the source {path}; choose another folder")
            self.paths[item] = path
