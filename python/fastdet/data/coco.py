# SPDX-License-Identifier: Apache-2.0
"""Strict reader of COCO detection files (``images``, ``annotations``, ``categories``)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

MAX_BOXES_PER_PICTURE = 100_000
MAX_PICTURE_SIDE = 65_535


class DataError(ValueError):
    """A data set file that cannot be used; the message starts with the file and says what is wrong and where."""


@dataclass(frozen=True)
class Annotation:
    """One entry of ``annotations`` as published: nothing clipped, crowds included."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


@dataclass(frozen=True)
class Picture:
    """One picture with the boxes it is trained on: crowds removed, clipped to the picture, degenerate ones dropped."""

    id: int
    path: Path
    height: int
    width: int
    boxes: np.ndarray  # [M, 4] float32, x1 y1 x2 y2 in pixels
    labels: np.ndarray  # [M] int64, contiguous


@dataclass(frozen=True)
class CocoDataset:
    """What a COCO file says. ``pictures`` is for training, ``annotations`` (as published) for evaluation."""

    path: Path
    pictures: tuple[Picture, ...]
    annotations: tuple[Annotation, ...]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]  # label -> category id

    def __len__(self) -> int:
        return len(self.pictures)


def read_coco(annotation_file: str | Path, image_root: str | Path, *, allow_outside: bool = False) -> CocoDataset:
    """Read a COCO detection file and check every entry of it.

    Category ids become contiguous labels in rising order of id. Pictures are kept in the order of the file, those
    without a box included; the picture files themselves are opened only by the loader.

    Args:
        annotation_file: JSON, UTF-8 with or without a byte order mark.
        image_root: folder to which every ``file_name`` is relative.
        allow_outside: accept picture paths that are absolute or lead out of ``image_root``.

    Returns:
        CocoDataset with M_i boxes per picture as float32 corners in pixels.

    Raises:
        DataError: the file cannot be read, is not COCO, or one of its entries is wrong; names file and entry.
    """
    path = Path(annotation_file)
    root = Path(image_root)
    if not root.is_dir():
        _fail(path, f"the picture folder {root} does not exist")
    content = _read_json(path)
    names, category_ids = _read_categories(path, content)
    rows = _read_images(path, content, root, allow_outside)
    annotations = _read_annotations(path, content, {row["id"] for row in rows}, set(category_ids))
    return CocoDataset(path, _pictures(path, rows, annotations, category_ids), annotations, names, category_ids)


def resolve_inside(root: Path, name: str) -> Path | None:
    """Path of ``name`` below ``root`` after following links, or None when it is absolute or leads outside."""
    drive = len(name) >= 2 and name[1] == ":"
    if not name or "\x00" in name or "\\" in name or drive or name.startswith("/"):
        return None
    real_root = root.resolve()
    try:
        target = (real_root / name).resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return target if target != real_root and target.is_relative_to(real_root) else None


def _fail(path: Path, reason: str) -> NoReturn:
    raise DataError(f"{path}: {reason}")


def _read_json(path: Path) -> dict[str, Any]:
    def no_constant(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a JSON number")

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=no_constant)
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
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list):
            _fail(path, f"'{key}' must be a list, got {type(entries).__name__}")
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                _fail(path, f"{key}[{index}] must be an object, got {type(entry).__name__}")
    return content


def _integer(path: Path, where: str, entry: dict[str, Any], key: str, low: int, high: int) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _fail(path, f"{where}: '{key}' must be an integer in {low}..{high}, got {value!r}")
    return value


def _unique(path: Path, where: str, value: int, seen: set[int]) -> int:
    if value in seen:
        _fail(path, f"{where}: id {value} occurs twice")
    seen.add(value)
    return value


def _read_categories(path: Path, content: dict[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    found: dict[int, str] = {}
    seen: set[int] = set()
    for index, entry in enumerate(content["categories"]):
        where = f"categories[{index}]"
        identity = _unique(path, where, _integer(path, where, entry, "id", 0, 2**31 - 1), seen)
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            _fail(path, f"{where}: 'name' must be a text, got {name!r}")
        found[identity] = name
    if not found:
        _fail(path, "'categories' is empty")
    ids = tuple(sorted(found))
    return tuple(found[identity] for identity in ids), ids


def _read_images(path: Path, content: dict[str, Any], root: Path, allow_outside: bool) -> list[dict[str, Any]]:
    rows = []
    seen: set[int] = set()
    for index, entry in enumerate(content["images"]):
        where = f"images[{index}]"
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or "\x00" in name:
            _fail(path, f"{where}: 'file_name' must be a text, got {name!r}")
        target = root / name if allow_outside else resolve_inside(root, name)
        if target is None:
            _fail(path, f"{where}: file_name {name!r} leads out of {root}; allow_outside=True accepts that")
        rows.append(
            {
                "id": _unique(path, where, _integer(path, where, entry, "id", 0, 2**63 - 1), seen),
                "path": target,
                "height": _integer(path, where, entry, "height", 1, MAX_PICTURE_SIDE),
                "width": _integer(path, where, entry, "width", 1, MAX_PICTURE_SIDE),
            }
        )
    if not rows:
        _fail(path, "'images' is empty")
    return rows


def _read_annotations(
    path: Path, content: dict[str, Any], image_ids: set[int], category_ids: set[int]
) -> tuple[Annotation, ...]:
    result = []
    seen: set[int] = set()
    for index, entry in enumerate(content["annotations"]):
        where = f"annotations[{index}]"
        identity = _unique(path, where, _integer(path, where, entry, "id", 0, 2**63 - 1), seen)
        image_id = _integer(path, where, entry, "image_id", 0, 2**63 - 1)
        if image_id not in image_ids:
            _fail(path, f"{where}: image_id {image_id} is not in 'images'")
        category_id = _integer(path, where, entry, "category_id", 0, 2**31 - 1)
        if category_id not in category_ids:
            _fail(path, f"{where}: category_id {category_id} is not in 'categories'")
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
            _fail(path, f"{where}: 'bbox' must be four finite numbers x, y, width, height, got {bbox!r}")
        if bbox[2] < 0 or bbox[3] < 0:
            _fail(path, f"{where}: 'bbox' has a negative size, got {bbox!r}")
        area = entry.get("area", bbox[2] * bbox[3])
        if not _is_number(area):
            _fail(path, f"{where}: 'area' must be a finite number, got {area!r}")
        crowd = _integer(path, where, entry, "iscrowd", 0, 1) if "iscrowd" in entry else 0
        box = (float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3]))
        result.append(Annotation(identity, image_id, category_id, box, float(area), crowd))
    return tuple(result)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _pictures(
    path: Path, rows: list[dict[str, Any]], annotations: tuple[Annotation, ...], category_ids: tuple[int, ...]
) -> tuple[Picture, ...]:
    label_of = {identity: label for label, identity in enumerate(category_ids)}
    grouped: dict[int, list[Annotation]] = {row["id"]: [] for row in rows}
    for annotation in annotations:
        if not annotation.iscrowd:
            grouped[annotation.image_id].append(annotation)
    pictures = []
    for row in rows:
        own = grouped[row["id"]]
        if len(own) > MAX_BOXES_PER_PICTURE:
            _fail(path, f"picture {row['path'].name} has {len(own)} boxes, the limit is {MAX_BOXES_PER_PICTURE}")
        corners = np.array([annotation.bbox for annotation in own], dtype=np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        corners[:, 0::2] = corners[:, 0::2].clip(0, row["width"])
        corners[:, 1::2] = corners[:, 1::2].clip(0, row["height"])
        labels = np.array([label_of[annotation.category_id] for annotation in own], dtype=np.int64)
        solid = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        pictures.append(
            Picture(
                row["id"], row["path"], row["height"], row["width"], corners[solid].astype(np.float32), labels[solid]
            )
        )
    return tuple(pictures)
