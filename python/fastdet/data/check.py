# SPDX-License-Identifier: Apache-2.0
"""``check_dataset``: everything that is wrong with a data set, not only the first of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.data.dataset import DataError, Dataset, Picture, Problem, distinct
from fastdet.data.duplicates import groups_of_equal, near_pairs, thumbnail
from fastdet.data.layout import Layout, open_dataset, recognise
from fastdet.data.picture_notes import picture_notes, unread_files
from fastdet.data.yolo import label_path
from fastdet.image_files import PICTURE_SUFFIXES, ImageError, read_image

__all__ = ["CheckReport", "SplitReport", "check_dataset"]

# What a picture that cannot be read is called, by the words of its ImageError.
PICTURE_KINDS = (
    ("missing", r"no such file"),
    ("empty", r"file is empty|has no pixels"),
    ("truncated", r"truncated"),
    ("too-large", r"bomb|more than \d+ pixels|larger than|not enough memory|more than \d+ scans"),
    ("animated", r"frames"),
    ("no-picture", r"text file|HTML|not a picture"),
    ("no-file", r"is a folder|regular file|symbolic links"),
    ("unreadable", r"permission|denied|input/output"),
    ("pixels", r"pixels of kind"),
)

NO_LABELS = ("classes.txt", "labels.txt", "train.txt", "val.txt", "test.txt")  # lists that lie beside labels


@dataclass
class SplitReport:
    """Counts of one split: ``classes`` name -> objects, ``sizes`` COCO's small, medium, large -> objects."""

    name: str
    pictures: int = 0
    background: int = 0
    objects: int = 0
    crowds: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class CheckReport:
    """What ``check_dataset`` found; ``harmful`` when something in it would harm training."""

    path: Path
    kind: str
    splits: list[SplitReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sets: dict[str, Dataset] = field(default_factory=dict, repr=False)  # what could be read of each split

    @property
    def harmful(self) -> bool:
        """Whether one of the problems is more than a note."""
        return any(problem.level != "note" for problem in self.problems)

    def counts(self) -> dict[str, int]:
        """Kind of problem -> how many, most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        problems = [
            {"level": p.level, "kind": p.kind, "path": str(p.path), "where": p.where, "message": p.message}
            for p in self.problems
        ]
        splits = [vars(split) for split in self.splits]
        head = {"path": str(self.path), "format": self.kind, "harmful": self.harmful}
        return {**head, "splits": splits, "counts": self.counts(), "problems": problems}


def check_dataset(
    data: str | Path,
    *,
    images: str | Path | None = None,
    allow_outside: bool = False,
    polygons: bool = False,
    on_picture: Callable[[int], None] | None = None,
) -> CheckReport:
    """Read all splits of a data set, decode every picture, and list what is wrong.

    Problems have a level: "error" (training refuses it), "warning" (training goes on, and is harmed: boxes without
    area or out of the picture, repeated boxes, classes without an object to learn from, pictures of one split in
    another) or "note" (may be meant: the same picture twice in a split, a ``download`` entry).

    Args:
        data, images, allow_outside: as ``open_dataset`` has them.
        polygons: training will cut objects out by them (recipes with copy-paste): one of COCO's that is none is more
            than a note then. They are looked at in any case.
        on_picture: called with the number of pictures of all splits after each that was decoded.

    Raises:
        DataError: there is no data set. ModuleNotFoundError: PyYAML or Pillow is needed and not installed.
    """
    layout = recognise(data)
    report = CheckReport(layout.path, layout.kind)
    sets = report.sets

    def note(problem: Problem) -> None:
        unasked = problem.kind == "polygon" and not polygons  # a detector learns from boxes
        report.problems.append(replace(problem, level="note") if unasked else problem)

    for split in _order(layout):
        try:
            sets[split] = open_dataset(
                data, split, images=images, allow_outside=allow_outside, polygons=True, report=note
            )
        except DataError as error:
            if split == "" and layout.kind in ("pictures", "list"):
                raise
            report.problems.append(_whole(error, layout))
            continue
        report.splits.append(_count(split, sets[split]))
        _repeated(sets[split], report)
    if layout.kind == "yolo":
        yaml = next(iter(layout.splits.values()))
        _note_download(yaml, report)
        _orphans(Path(os.path.realpath(yaml.parent)), sets, report)
    if layout.kind == "pictures":
        _unread_labels(layout.path, sets[""], report)
    if layout.kind in ("yolo", "voc") and sets and not any(dataset.annotations for dataset in sets.values()):
        text = "no picture has a label; are the label files where they are looked for?"
        report.problems.append(Problem("warning", "no-labels", report.path, "", text))
    _classes(sets, report)
    _pictures(sets, report, on_picture)
    report.problems = list(dict.fromkeys(report.problems))  # a file that two splits name is one problem
    return report


def _order(layout: Layout) -> list[str]:
    """Splits, that of training first; VOC's ``trainval`` is no split beside the two that it joins."""
    names = [name for name in layout.splits if name != "trainval" or not {"train", "val"} <= layout.splits.keys()]
    return sorted(names, key=lambda name: (not name.startswith("train"), name.startswith("test")))


def _whole(error: DataError, layout: Layout) -> Problem:
    """The error that ended the reading of a split; its message begins with the file."""
    path, _, message = str(error).partition(": ")
    return Problem("error", "unreadable", Path(path), "", message or str(error))


def _count(name: str, dataset: Dataset) -> SplitReport:
    report = SplitReport(name or "all", len(dataset.pictures))
    name_of = dict(zip(dataset.category_ids, distinct(dataset.names), strict=True))
    areas = np.array([row.area for row in dataset.annotations if not row.iscrowd])
    found = Counter(row.category_id for row in dataset.annotations if not row.iscrowd)
    report.classes = {name_of[identity]: found.get(identity, 0) for identity in dataset.category_ids}
    report.objects, report.crowds = len(areas), len(dataset.annotations) - len(areas)
    with_objects = {row.image_id for row in dataset.annotations}
    report.background = sum(picture.id not in with_objects for picture in dataset.pictures)
    small, large = int((areas < 32**2).sum()), int((areas > 96**2).sum())
    report.sizes = {"small": small, "medium": len(areas) - small - large, "large": large}
    return report


def _repeated(dataset: Dataset, report: CheckReport) -> None:
    """The same box of the same class twice on a picture; a crowd is another thing than an object."""
    keys = [(row.image_id, row.category_id, row.iscrowd, row.bbox) for row in dataset.annotations]
    path_of = {picture.id: picture.path for picture in dataset.pictures}
    for group in groups_of_equal(keys):
        row = dataset.annotations[group[0]]
        box = ", ".join(f"{value:g}" for value in row.bbox)
        text = f"the box {box} (x, y, width, height) is there {len(group)} times"
        report.problems.append(Problem("warning", "box-repeated", path_of[row.image_id], "", text))


def _note_download(path: Path, report: CheckReport) -> None:
    from fastdet.data.yolo_yaml import read_yaml

    download = read_yaml(path, allow_outside=True).download
    if download:
        text = f"'download' is shown here and never run: {download!r:.200}"
        report.problems.append(Problem("note", "download", path, "", text))


def _orphans(root: Path, sets: dict[str, Dataset], report: CheckReport) -> None:
    """Label files to which no picture belongs, in the folders where labels are looked for."""
    wanted = {label_path(picture.path, root) for dataset in sets.values() for picture in dataset.pictures}
    # of a picture that could not be read the label file is none too many
    wanted |= {label_path(problem.path, root) for problem in report.problems if problem.kind == "picture"}
    pictures = (picture.path for dataset in sets.values() for picture in dataset.pictures)
    wanted |= {label_path(path, root) for path in _beside(pictures)}
    for folder in sorted({path.parent for path in wanted}):
        for path in sorted(folder.glob("*.txt")):
            if path not in wanted and path.name not in NO_LABELS:
                report.problems.append(Problem("warning", "label-orphan", path, "", "no picture belongs to it"))


def _unread_labels(folder: Path, dataset: Dataset, report: CheckReport) -> None:
    """Labels in a folder that is taken for pictures alone."""
    root = Path(os.path.realpath(folder))
    places = ((picture.path, label_path(picture.path, root)) for picture in dataset.pictures)
    label = next((label for path, label in places if label.parent != path.parent and label.is_file()), None)
    if label is not None:
        text = "is not read, nor are other label files: a data YAML is missing that names the classes"
        report.problems.append(Problem("warning", "no-labels", label, "", text))
    for path in sorted(itertools.chain(root.glob("*.json"), root.glob("annotations/*.json"))):
        text = "is not read; a COCO file can be given as DATA, with --images"
        report.problems.append(Problem("note", "labels-unread", path, "", text))


def _beside(pictures: Iterable[Path]) -> Iterator[Path]:
    """All pictures in the folders of ``pictures``: lists need not name each."""
    for folder in {path.parent for path in pictures}:
        with contextlib.suppress(OSError):  # it is not there, which is said elsewhere
            names = os.listdir(folder)
            yield from (folder / name for name in names if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES)


def _classes(sets: dict[str, Dataset], report: CheckReport) -> None:
    """Splits must agree on the classes; a class that is judged must be trained on."""
    names = {dataset.names for dataset in sets.values()}
    if len(names) > 1:
        text = "; ".join(f"{split}: {', '.join(dataset.names)}"[:200] for split, dataset in sets.items())
        message = f"the splits' classes differ: {text}"
        report.problems.append(Problem("error", "classes-differ", report.path, "", message))
    names_of_one = max(names, key=len, default=())
    for name in dict.fromkeys(each for each in names_of_one if names_of_one.count(each) > 1):
        same = [row for row, each in zip(distinct(names_of_one), names_of_one, strict=True) if each == name]
        used = sum(any(split.classes.get(row) for split in report.splits) for row in same)
        text = f"{len(same)} classes are called {name}, {used} of them have objects"
        report.problems.append(Problem("warning" if used > 1 else "note", "class-repeated", report.path, "", text))
    train = next((split for split in report.splits if split.name.startswith("train")), None)
    for split in report.splits:
        for name, count in split.classes.items():
            if train is not None and split is not train and count and not train.classes.get(name):
                text = f"{split.name} has {count} objects of class {name}, {train.name} has none"
                report.problems.append(Problem("warning", "class-not-trained", report.path, "", text))
    if train is not None:
        for name in train.classes:
            if not any(split.classes.get(name) for split in report.splits):
                text = f"no split has an object of class {name}"
                report.problems.append(Problem("note", "class-empty", report.path, "", text))


@dataclass
class _Seen:
    """A decoded picture: where, the hash of its bytes, and its small copy."""

    split: str
    path: Path
    digest: bytes
    small: np.ndarray


def _pictures(sets: dict[str, Dataset], report: CheckReport, on_picture: Callable[[int], None] | None) -> None:
    total = sum(len(dataset) for dataset in sets.values())
    seen: list[_Seen] = []
    broken = {problem.path for problem in report.problems if problem.kind == "picture"}
    report.problems = [_with_kind(problem) for problem in report.problems]
    for split, dataset in sets.items():
        for picture in dataset.pictures:
            if picture.path not in broken:
                _look(split, picture, seen, report)
            if on_picture is not None:
                on_picture(total)
    report.problems += unread_files(picture.path for dataset in sets.values() for picture in dataset.pictures)
    _same(seen, report)


def _with_kind(problem: Problem) -> Problem:
    if problem.kind != "picture":
        return problem
    return Problem(problem.level, _kind(problem.message), problem.path, problem.where, problem.message)


def _kind(reason: str) -> str:
    return "picture-" + next((kind for kind, form in PICTURE_KINDS if re.search(form, reason, re.I)), "damaged")


def _look(split: str, picture: Picture, seen: list[_Seen], report: CheckReport) -> None:
    try:
        image = read_image(picture.path)
        data = picture.path.read_bytes()
        report.problems += picture_notes(picture.path, data)
        digest = hashlib.blake2b(data, digest_size=16).digest()
    except (ImageError, OSError) as error:
        reason = error.reason if isinstance(error, ImageError) else str(error)
        text = f"cannot be decoded: {reason}"
        report.problems.append(Problem("error", _kind(reason), picture.path, "", text))
        return
    if image.shape[:2] != (picture.height, picture.width):
        text = f"is {image.shape[1]} x {image.shape[0]} pixels, the annotations say {picture.width} x {picture.height}"
        report.problems.append(Problem("error", "picture-size", picture.path, "", text))
    seen.append(_Seen(split, picture.path, digest, thumbnail(image)))


def _same(seen: list[_Seen], report: CheckReport) -> None:
    """Equal and near pictures: across splits a leak, within one a duplicate."""
    copies: set[int] = set()
    for group in groups_of_equal([each.digest for each in seen]):
        first = group[0]  # splits come one after the other, so a copy in another split stands against this one
        for place in group[1:]:
            copies.add(place)
            _pair(seen[first], seen[place], "is the same file as", "", report)
    distinct = [place for place in range(len(seen)) if place not in copies]
    if not distinct:
        return
    for i, j in near_pairs(np.stack([seen[place].small for place in distinct])):
        _pair(seen[distinct[i]], seen[distinct[j]], "shows nearly what", "near-", report)


def _pair(one: _Seen, other: _Seen, what: str, prefix: str, report: CheckReport) -> None:
    if one.path == other.path and one.split == other.split:
        text = f"is listed twice in {one.split or 'the data set'}"
        report.problems.append(Problem("note", "duplicate", other.path, "", text))
        return
    shows = " shows" if prefix else ""
    if one.split != other.split:
        text = f"{what} {one.path}{shows}: {other.split} would be judged on pictures of {one.split}"
        report.problems.append(Problem("warning", f"{prefix}leak", other.path, "", text))
    else:
        report.problems.append(Problem("note", f"{prefix}duplicate", other.path, "", f"{what} {one.path}{shows}"))
