# SPDX-License-Identifier: Apache-2.0
"""Strict reader of COCO detection files (``images``, ``annotations``, ``categories``)."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fastdet import _core
from fastdet.data.dataset import (
    MAX_BOXES_PER_PICTURE,
    MAX_PICTURE_SIDE,
    Annotation,
    DataError,
    Dataset,
    Problem,
    Report,
    box_problem,
    refusal,
    resolve_inside,
    strict,
)
from fastdet.data.index import MAX_COORDINATE, Index, make_index
from fastdet.data.index_rows import IndexBuilder

MAX_DEPTH = 64  # lists and objects in each other


class _Fault(Exception):
    """An entry that is left out: (kind, message)."""


@dataclass(frozen=True)
class _Image:
    id: int
    path: Path
    size: tuple[int, int]  # height, width


def read_coco(
    annotation_file: str | Path,
    image_root: str | Path,
    *,
    allow_outside: bool = False,
    polygons: bool = False,
    report: Report = strict,
) -> Dataset:
    """Read a COCO detection file and check every entry of it.

    Category ids become contiguous labels in rising order of id. Pictures are kept in the order of the file, those
    without a box included; the picture files themselves are opened only by the loader.

    Args:
        annotation_file: JSON, UTF-8 with or without a byte order mark.
        image_root: folder to which every ``file_name`` is relative.
        allow_outside: accept picture paths that are absolute or lead out of ``image_root``.
        polygons: read ``segmentation``, too: lists of polygons; run lengths, which crowds have, are none.
        report: called with each Problem; by default the first error is raised.

    Returns:
        Dataset with M_i boxes per picture as float32 corners in pixels.

    Raises:
        DataError: the file cannot be read, is not COCO, or one of its entries is wrong; names file and entry.
    """
    path = Path(annotation_file)
    options = CocoOptions(allow_outside, polygons)
    return Dataset.of(path, coco_index(path, Path(image_root), options, report))


@dataclass(frozen=True)
class CocoOptions:
    """See ``read_coco``."""

    allow_outside: bool
    polygons: bool


def coco_index(path: Path, root: Path, options: CocoOptions, report: Report) -> Index:
    """What ``read_coco`` reads, as columns. Raises DataError."""
    if not root.is_dir():
        _fail(path, f"the picture folder {root} does not exist")
    index = _clean_index(path, root, options, report) or _checked_index(path, root, options, report)
    counts = np.diff(index.starts)
    if counts.max() > MAX_BOXES_PER_PICTURE:
        row = int(np.argmax(counts > MAX_BOXES_PER_PICTURE))
        name = index.path(row).name
        _fail(path, f"picture {name} has {counts[row]} boxes, the limit is {MAX_BOXES_PER_PICTURE}")
    return index


def _clean_index(path: Path, root: Path, options: CocoOptions, report: Report) -> Index | None:
    """The index of a file in which every entry is right, read natively; None where something must be said about it."""
    if sys.getfilesystemencoding() != "utf-8":  # names are taken as they are written
        return None
    found = _core.dataset_read_coco(os.fsencode(path), options.polygons)
    if found is None or (found.pop("suspicious") and report is not strict):
        return None
    allow_outside = options.allow_outside
    real = root if allow_outside else root.resolve()
    prefix = os.fsencode(real / "x")[:-1]
    special = np.flatnonzero(_core.dataset_not_plain(prefix, found["paths"], found["path_starts"], not allow_outside))
    if len(special):
        if allow_outside:
            return None  # pathlib decides what such a name means
        inside = [_name_inside(root, prefix, found, row) for row in special.tolist()]
        if None in inside:
            return None
        found["paths"], found["path_starts"] = _replaced(found["paths"], found["path_starts"], special, inside)
    names = tuple(name.decode() for name in found.pop("names"))
    return make_index(names, tuple(found.pop("category_ids")), prefix=prefix, notes=None, **found)


def _name_inside(root: Path, prefix: bytes, found: dict[str, Any], row: int) -> bytes | None:
    """What the name in ``row`` leads to, without the prefix; None when that lies outside."""
    first, last = found["path_starts"][row : row + 2].tolist()
    target = resolve_inside(root, found["paths"][first:last].tobytes().decode())
    return None if target is None else os.fsencode(target)[len(prefix) :]


def _replaced(letters: np.ndarray, starts: np.ndarray, rows: np.ndarray, texts: list[Any]) -> tuple[Any, Any]:
    """``letters`` and ``starts`` with ``texts`` in the place of some rows."""
    pieces, at = [], 0
    lengths = np.diff(starts)
    for row, text in zip(rows.tolist(), texts, strict=True):
        pieces += [letters[at : starts[row]], np.frombuffer(text, np.uint8)]
        lengths[row], at = len(text), starts[row + 1]
    return np.concatenate([*pieces, letters[at:]]), np.concatenate([[0], lengths.cumsum()])


def _checked_index(path: Path, root: Path, options: CocoOptions, report: Report) -> Index:
    """The same entry by entry; what is wrong is reported."""
    content = _read_json(path)
    entries = _Entries(path, content, report)
    names, category_ids = _read_categories(entries)
    images = _read_images(entries, root, options.allow_outside)
    known = {image.id: image for image in images}
    annotations = _read_annotations(entries, known, set(category_ids), options.polygons)
    label_of = {identity: label for label, identity in enumerate(category_ids)}
    row_of = {image.id: row for row, image in enumerate(images)}
    builder = IndexBuilder()
    for image in images:
        builder.picture(image.id, image.path, image.size)
    for each, rings in annotations:
        row, label = row_of[each.image_id], label_of[each.category_id]
        builder.annotation(each.id, row, label, each.bbox, each.area, each.iscrowd, rings)
    return builder.index(names, category_ids)


def _fail(path: Path, reason: str) -> NoReturn:
    raise DataError(f"{path}: {reason}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # NaN is judged where it stands
    except OSError as error:
        _fail(path, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        _fail(path, f"is not UTF-8 text (byte {error.start})")
    except RecursionError:
        _fail(path, "is nested too deeply to be COCO")
    except ValueError as error:  # json.JSONDecodeError is one, with line and column in its text
        _fail(path, f"is not valid JSON: {error}")
    if not isinstance(content, dict):
        _fail(path, f"must hold a JSON object, got {type(content).__name__}")
    _check_depth(path, content)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            _fail(path, f"'{key}' must be a list, got {type(content.get(key)).__name__}")
    return content


def _check_depth(path: Path, content: Any) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, (dict, list))]
        if not level:
            return
    _fail(path, f"is nested too deeply to be COCO, more than {MAX_DEPTH}")


class _Entries:
    """The entries of a list of the file; faults of one are reported with its place, and it is left out."""

    def __init__(self, path: Path, content: dict[str, Any], report: Report) -> None:
        self.path, self.content, self.report = path, content, report

    def each(self, key: str, read: Any) -> list[Any]:
        """What ``read(entry, where)`` makes of each entry of the list ``key``."""
        found = []
        for index, entry in enumerate(self.content[key]):
            try:
                if not isinstance(entry, dict):
                    raise _Fault("entry", f"must be an object, got {type(entry).__name__}")
                found.append(read(entry, f"{key}[{index}]"))
            except _Fault as fault:
                self.report(Problem("error", fault.args[0], self.path, f"{key}[{index}]", fault.args[1]))
        return found


def _integer(entry: dict[str, Any], key: str, low: int, high: int, kind: str = "entry") -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _Fault(kind, f"'{key}' must be an integer in {low}..{high}, got {value!r:.100}")
    return value


def _unique(value: int, seen: set[int]) -> int:
    if value in seen:
        raise _Fault("id-repeated", f"id {value} occurs twice")
    seen.add(value)
    return value


def _read_categories(entries: _Entries) -> tuple[tuple[str, ...], tuple[int, ...]]:
    found: dict[int, str] = {}
    seen: set[int] = set()

    def read(entry: dict[str, Any], where: str) -> None:
        identity = _unique(_integer(entry, "id", 0, 2**31 - 1), seen)
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise _Fault("entry", f"'name' must be a text, got {name!r:.100}")
        found[identity] = name

    entries.each("categories", read)
    if not found:
        _fail(entries.path, "'categories' is empty")
    ids = tuple(sorted(found))
    return tuple(found[identity] for identity in ids), ids


def _read_images(entries: _Entries, root: Path, allow_outside: bool) -> list[_Image]:
    seen: set[int] = set()

    def read(entry: dict[str, Any], where: str) -> _Image:
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or "\x00" in name or not _is_file_name(name):
            raise _Fault("path", f"'file_name' must be a text, got {name!r:.200}")
        target = root / name if allow_outside else resolve_inside(root, name)
        if target is None:
            raise _Fault("path-outside", f"file_name {name!r:.200} {refusal(root, name)}")
        identity = _unique(_integer(entry, "id", 0, 2**63 - 1), seen)
        height = _integer(entry, "height", 1, MAX_PICTURE_SIDE)
        return _Image(identity, target, (height, _integer(entry, "width", 1, MAX_PICTURE_SIDE)))

    images: list[_Image] = entries.each("images", read)
    if not images:
        _fail(entries.path, "'images' is empty")
    return images


def _read_annotations(
    entries: _Entries, images: dict[int, _Image], category_ids: set[int], polygons: bool
) -> list[tuple[Annotation, list[list[float]]]]:
    """Each with its polygons, where these are read."""
    seen: set[int] = set()

    def read(entry: dict[str, Any], where: str) -> tuple[Annotation, list[list[float]]]:
        identity = _unique(_integer(entry, "id", 0, 2**63 - 1), seen)
        image_id = _integer(entry, "image_id", 0, 2**63 - 1)
        if image_id not in images:
            raise _Fault("picture-unknown", f"image_id {image_id} is not in 'images'")
        category_id = _integer(entry, "category_id", 0, 2**31 - 1, "class-unknown")
        if category_id not in category_ids:
            raise _Fault("class-unknown", f"category_id {category_id} is not in 'categories'")
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
            message = f"'bbox' must be four finite numbers x, y, width, height, got {bbox!r:.200}"
            raise _Fault("box-not-finite", message)
        if bbox[2] < 0 or bbox[3] < 0:
            raise _Fault("box-inverted", f"'bbox' has a negative size, got {bbox!r}")
        area = entry.get("area", bbox[2] * bbox[3])
        if not _is_number(area):
            raise _Fault("area", f"'area' must be a finite number, got {area!r:.100}")
        crowd = _integer(entry, "iscrowd", 0, 1) if "iscrowd" in entry else 0
        rings = _polygons(entry, identity, entries, where) if polygons else []
        box = (float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3]))
        bad = box_problem(box, images[image_id].size)
        if bad is not None:
            entries.report(Problem("warning", bad[0], entries.path, where, bad[1]))
        return Annotation(identity, image_id, category_id, box, float(area), crowd), rings

    return entries.each("annotations", read)


def _polygons(entry: dict[str, Any], identity: int, entries: _Entries, where: str) -> list[list[float]]:
    """Those of an annotation that are some; it is kept without the others."""
    found = entry.get("segmentation")
    if found is None or isinstance(found, dict):  # a dict has run lengths
        return []

    def report(level: str, message: str) -> None:
        text = f"{message} (annotation {identity})"
        entries.report(Problem(level, "polygon", entries.path, where, text))

    if not isinstance(found, list):
        report("error", f"'segmentation' must be a list of polygons, got {found!r:.100}")
        return []
    kept = []
    for number, ring in enumerate(found):
        name = f"'segmentation[{number}]'"
        if not isinstance(ring, list) or not all(_is_number(value) and abs(value) <= MAX_COORDINATE for value in ring):
            report("error", f"{name} must be finite numbers x1, y1, x2, y2, ..., got {ring!r:.100}")
            break  # a list of numbers in place of lists would be told once for each
        elif len(ring) < 6 or len(ring) % 2:  # COCO's own files have such
            message = f"{name} must have x and y of 3 points or more to be used, got {len(ring)} numbers"
            report("warning", message)
        else:
            kept.append(ring)
    return kept


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    return True


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
