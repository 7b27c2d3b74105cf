# SPDX-License-Identifier: Apache-2.0
"""Label files of the YOLO ecosystem: a text file a picture, a line an object, everything divided by the picture's size.

``class cx cy w h``; or a polygon, ``class x1 y1 x2 y2 x3 y3 ...``, of which the box is taken; or, when the data set has
keypoints, ``class cx cy w h`` and the keypoints, which are left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.data.dataset import (
    MAX_BOXES_PER_PICTURE,
    DataError,
    Problem,
    Report,
    box_problem,
    problem_of,
    read_text,
    real_inside,
    refusal,
    strict,
)
from fastdet.data.file_names import FileNames, shared_folder, texts_of
from fastdet.data.index import Index, make_index
from fastdet.image_files import ImageError, read_size

LABEL_LIMIT = 64 << 20  # bytes of a label file
SLACK = 0.01  # how far a coordinate may lie outside [0, 1]; rounding does that


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file: ``box`` cx, cy, w, h and ``polygon`` x1, y1, x2, ... as fractions of the picture."""

    line: int
    label: int
    box: tuple[float, float, float, float]
    polygon: tuple[float, ...] = ()


def read_labels(path: str | Path, classes: int, *, keypoint_values: int = 0, report: Report = strict) -> list[LabelRow]:
    """Read a label file and check every line of it; equal lines are taken once.

    Args:
        classes: number of classes K; a class is an integer in [0, K).
        keypoint_values: numbers that follow the box on each line, keypoints times their dimensions.
        report: called with each Problem; by default the first error is raised.

    Raises:
        DataError: the file is no text or holds too many lines, or (by default) one of its lines is wrong; names the
            file and the line.
    """
    path = Path(path)
    rows: dict[tuple[float, ...], LabelRow] = {}
    polygons: bool | None = None
    objects = 0
    for number, text in enumerate(read_text(path, LABEL_LIMIT).split("\n"), start=1):
        words = text.split()
        if not words:
            continue
        objects += 1
        if objects > MAX_BOXES_PER_PICTURE:  # equal ones, too: each would be told
            raise DataError(f"{path}: has more than {MAX_BOXES_PER_PICTURE} boxes")
        try:
            polygon = _is_polygon(len(words), keypoint_values)
            if polygons not in (None, polygon):
                raise _Fault("label-columns", "boxes and polygons are mixed in one file")
            polygons = polygon
            row = LabelRow(number, *_parse(words, polygon, classes))
        except _Fault as fault:
            report(Problem("error", fault.args[0], path, str(number), fault.args[1]))
            continue
        first = rows.setdefault((row.label, *map(float, words[1:])), row)
        if first is not row:
            report(Problem("warning", "box-repeated", path, str(number), f"says what line {first.line} says"))
    return list(rows.values())


class _Fault(Exception):
    """A line that is left out: (kind, message)."""


def _is_polygon(columns: int, keypoint_values: int) -> bool:
    if columns == 5 + keypoint_values:
        return False
    if keypoint_values:
        raise _Fault("label-columns", f"must have {5 + keypoint_values} columns (box and keypoints), got {columns}")
    if columns < 7 or columns % 2 == 0:
        raise _Fault("label-columns", f"must have 5 columns (class cx cy w h) or 7, 9, 11 ... (polygon), got {columns}")
    return True


def _parse(
    words: list[str], polygon: bool, classes: int
) -> tuple[int, tuple[float, float, float, float], tuple[float, ...]]:
    try:
        # float() reads words of other scripts and underscores too
        if not all(word.isascii() and "_" not in word for word in words):
            raise ValueError
        values = [float(word) for word in words]
    except ValueError:
        raise _Fault("label-number", f"must be numbers, got {' '.join(words)[:80]!r}") from None
    if not values[0].is_integer():
        raise _Fault("class-unknown", f"the class must be an integer, got {words[0][:40]}")
    if not 0 <= values[0] < classes:
        raise _Fault("class-unknown", f"the class must be in 0..{classes - 1}, got {words[0][:40]}")
    shape = values[1:] if polygon else values[1:5]
    if not all(map(math.isfinite, shape)):
        raise _Fault("box-not-finite", f"coordinates must be finite, got {' '.join(words)[:80]!r}")
    if not polygon and min(shape[2:]) < 0:
        raise _Fault("box-inverted", f"the box has a negative size, {shape[2]:g} x {shape[3]:g}")
    if not -SLACK <= min(shape) <= max(shape) <= 1 + SLACK:
        hint = "; are these pixels?" if max(shape) > 2 else ""
        raise _Fault("box-outside", f"coordinates must lie in [0, 1], got {min(shape):g} to {max(shape):g}{hint}")
    points = tuple(shape) if polygon else ()
    if polygon:
        x, y = shape[0::2], shape[1::2]
        shape = [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
    return int(values[0]), (shape[0], shape[1], shape[2], shape[3]), points


def label_path(picture: Path, root: Path) -> Path:
    """Where the labels of ``picture`` lie: the last folder ``images`` of its path below ``root`` becomes ``labels``."""
    inside = picture.relative_to(root) if picture.is_relative_to(root) else picture
    parts = list(inside.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return (root / Path(*parts)).with_suffix(".txt")


@dataclass(frozen=True)
class LabelRules:
    """How label files are read; ``classes`` 0: not at all. They must not lead out of ``root``, itself without links.

    ``polygons``: they are kept, beside their boxes.
    """

    root: Path
    classes: int
    keypoint_values: int
    allow_outside: bool
    polygons: bool = False


def label_names(files: FileNames, root: Path) -> FileNames:
    """``label_path`` of many."""
    numbers, folders = files.folders()
    beside = [str(label_path(Path(f"{folder}x.jpg"), root))[: -len("x.txt")] for folder in folders]
    prefix = shared_folder(beside)
    below = texts_of([folder[len(prefix) :] for folder in beside])
    names, special = _core.dataset_label_names(files.letters, files.starts, numbers, *below)
    # pathlib knows what the suffix of such a name is
    paths = [str(label_path(Path(files[row]), root)) for row in special.tolist()]
    return FileNames(prefix, *names).replaced(special, [os.fsencode(path[len(prefix) :]) for path in paths])


def yolo_index(files: Sequence[str], names: tuple[str, ...], rules: LabelRules, report: Report) -> Index:
    """Sizes and objects of picture ``files``; label files lie beside them, in ``labels`` for ``images``.

    A picture without a label file is background. The sizes of pictures are read from their headers. Files that are
    clean are read natively, the others by ``read_size`` and ``read_labels``, which say what is wrong.
    """
    files = FileNames.of(files)
    clean = _read_clean(files, rules)
    counts = clean["counts"]
    keep = np.ones(len(files), bool)
    objects = _Spliced(clean)
    for row in np.flatnonzero(clean["unclean"]).tolist():
        found = _read_picture(Path(files[row]), rules, report)
        if found is None:
            keep[row] = False
            continue
        (clean["height"][row], clean["width"][row]), own = found
        counts[row] = len(own)
        objects.put(row, own)
    label, box, corners, point = objects.columns()
    kept = files.keep(keep)
    return make_index(
        names,
        tuple(range(len(names))),
        prefix=os.fsencode(kept.prefix),
        notes=None,
        paths=kept.letters,
        path_starts=kept.starts,
        picture_id=np.arange(len(kept)),
        height=clean["height"][keep],
        width=clean["width"][keep],
        annotation_id=np.arange(len(box)),
        picture=np.repeat(np.arange(len(kept)), counts[keep]),
        label=label,
        box=box,
        area=box[:, 2] * box[:, 3],
        crowd=np.zeros(len(box), np.uint8),
        **_polygon_columns(corners, point),
    )


def _polygon_columns(corners: np.ndarray, point: np.ndarray) -> dict[str, np.ndarray]:
    """Of objects with ``corners`` [M] points each; none where nothing has any."""
    if not len(point):
        return {}
    has = corners > 0
    starts = {"ring_starts": corners[has], "polygon_starts": has}
    return {"point": point} | {name: np.concatenate([[0], counts]).cumsum() for name, counts in starts.items()}


class _Spliced:
    """What was read natively of all pictures, and between it what was read in Python of some."""

    NAMES = ("label", "box", "corners", "point")

    def __init__(self, clean: dict[str, Any]) -> None:
        self._clean = clean
        self._ends = clean["counts"].cumsum()  # in the native columns
        self._pieces: dict[str, list[np.ndarray]] = {name: [] for name in self.NAMES}
        self._at = self._point = 0

    def put(self, row: int, objects: list[_Object]) -> None:
        """Put those of picture ``row`` in their place; rows rise."""
        self._take(int(self._ends[row]))
        made: dict[str, np.ndarray] = {
            "label": np.array([each.label for each in objects], np.int32),
            "box": np.array([each.box for each in objects], np.float64).reshape(-1, 4),
            "corners": np.array([len(each.polygon) for each in objects], np.int64),
            "point": np.concatenate([np.zeros((0, 2), np.float32), *(each.polygon for each in objects)]),
        }
        for name, column in made.items():
            self._pieces[name].append(column)

    def _take(self, end: int) -> None:
        """The native ones up to ``end``."""
        clean = self._clean
        point = self._point + int(clean["corners"][self._at : end].sum())
        for name in self.NAMES:
            piece = clean[name][self._point : point] if name == "point" else clean[name][self._at : end]
            self._pieces[name].append(piece)
        self._at, self._point = end, point

    def columns(self) -> list[np.ndarray]:
        """All of ``NAMES``."""
        if not self._at and not self._pieces["box"]:
            return [self._clean[name] for name in self.NAMES]
        self._take(len(self._clean["box"]))
        return [np.concatenate(self._pieces[name]) for name in self.NAMES]


def _read_clean(files: FileNames, rules: LabelRules) -> dict[str, Any]:
    """What is read natively; ``unclean`` marks the rest."""
    labels = label_names(files, rules.root) if rules.classes else FileNames.of([])
    left = _outside(labels, rules) if rules.classes else np.zeros(len(files), np.uint8)
    columns = (os.fsencode(labels.prefix), labels.letters, labels.starts, left)
    numbers = (rules.classes, rules.keypoint_values, rules.polygons)
    return _core.dataset_read_yolo(os.fsencode(files.prefix), files.letters, files.starts, *columns, *numbers)


def _outside(labels: FileNames, rules: LabelRules) -> np.ndarray:
    """[N] uint8: 1 where the folder of a label file leads out of the root."""
    if rules.allow_outside:
        return np.zeros(len(labels), np.uint8)
    numbers, folders = labels.folders()
    outside = [not real_inside(rules.root, Path(folder)) for folder in folders]
    return np.array(outside, np.uint8)[numbers]


Size = tuple[int, int]  # height, width
Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class _Object:
    label: int
    box: Box
    polygon: np.ndarray  # [n, 2] float32 in pixels; n is 0 for a box


def _read_picture(file: Path, rules: LabelRules, report: Report) -> tuple[Size, list[_Object]] | None:
    """Size and objects of a picture; None when it is left out."""
    try:
        size = read_size(file)
    except ImageError as error:
        report(Problem("error", "picture", file, "", f"cannot be decoded: {error.reason}"))
        return None
    labels = label_path(file, rules.root)
    if not rules.classes or not os.path.lexists(labels):
        return size, []
    try:
        if not rules.allow_outside and not real_inside(rules.root, labels):
            raise DataError(f"{labels}: {refusal(rules.root, '')}")
        rows = read_labels(labels, rules.classes, keypoint_values=rules.keypoint_values, report=report)
    except DataError as error:
        report(problem_of(error, labels, "label-file"))
        return size, []
    return size, [
        _Object(row.label, _pixels(row, size, labels, report), _polygon(row if rules.polygons else None, size))
        for row in rows
    ]


def _polygon(row: LabelRow | None, size: Size) -> np.ndarray:
    points = np.array(row.polygon if row else (), np.float64).reshape(-1, 2)
    return (points * (size[1], size[0])).astype(np.float32)


def _pixels(row: LabelRow, size: Size, path: Path, report: Report) -> Box:
    height, width = size
    cx, cy, w, h = np.array(row.box) * (width, height, width, height)
    box = (float(cx - w / 2), float(cy - h / 2), float(w), float(h))
    bad = box_problem(box, size)
    if bad is not None:
        report(Problem("warning", bad[0], path, str(row.line), bad[1]))
    return box
