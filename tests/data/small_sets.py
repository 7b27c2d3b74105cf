# SPDX-License-Identifier: Apache-2.0
"""Small data sets in every format, the same three pictures and boxes in each."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from broken_pictures import pattern

NAMES = ("cell", "disc")
SIZES = {"a": (40, 60), "b": (32, 32), "c": (50, 20)}  # height, width
# picture -> (label, x1, y1, x2, y2) in pixels; c is background
BOXES = {"a": [(0, 6.0, 4.0, 36.0, 24.0), (1, 12.0, 8.0, 60.0, 40.0)], "b": [(1, 8.0, 8.0, 24.0, 16.0)], "c": []}


def write_pictures(folder: Path, suffix: str = ".png", offset: int = 0) -> None:
    """The three pictures, their content chosen by ``offset``."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        Image.fromarray(pattern(height, width, seed + offset)).save(folder / f"{name}{suffix}")


def yolo_lines(name: str) -> str:
    """The label file of a picture."""
    height, width = SIZES[name]
    lines = []
    for label, x1, y1, x2, y2 in BOXES[name]:
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(label), *map(repr, values)]))
    return "\n".join(lines) + "\n"


def write_yolo(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """A data set of the YOLO ecosystem; returns the folder."""
    for number, split in enumerate(splits):
        write_pictures(root / "images" / split, offset=10 * number)
        (root / "labels" / split).mkdir(parents=True)
        for name in SIZES:
            if BOXES[name]:
                (root / "labels" / split / f"{name}.txt").write_text(yolo_lines(name))
    lines = [f"{split}: images/{split}" for split in splits]
    text = "\n".join([*lines, "names:", *(f"  {label}: {name}" for label, name in enumerate(NAMES))])
    (root / "data.yaml").write_text(text + "\n")
    return root


def voc_xml(name: str, suffix: str = ".png") -> str:
    """The annotation file of a picture."""
    height, width = SIZES[name]
    objects = [
        f"  <object>\n    <name>{NAMES[label]}</name><difficult>0</difficult>\n    <bndbox><xmin>{x1 + 1:g}</xmin>"
        f"<ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox>\n"
        "    <part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>\n  </object>\n"
        for label, x1, y1, x2, y2 in BOXES[name]
    ]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    body = "".join(objects)
    return (
        f'<?xml version="1.0"?>\n<annotation>\n  <filename>{name}{suffix}</filename>\n  {size}\n{body}</annotation>\n'
    )


def write_voc(root: Path) -> Path:
    """A data set as Pascal VOC lays it out; returns the folder."""
    write_pictures(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name in SIZES:
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(name))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\nb\nc\n")
    (root / "ImageSets" / "Main" / "cell_val.txt").write_text("a 1\nb -1\nc -1\n")
    return root


def write_coco(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """The same in COCO's format; returns the folder."""
    (root / "annotations").mkdir(parents=True)
    for number, split in enumerate(splits):
        write_pictures(root / "images" / split, offset=10 * number)
        images, annotations = [], []
        for identity, (name, (height, width)) in enumerate(SIZES.items()):
            images.append({"id": identity, "file_name": f"{name}.png", "height": height, "width": width})
            for label, x1, y1, x2, y2 in BOXES[name]:
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"id": len(annotations), "image_id": identity, "category_id": label, "bbox": box}
                annotations.append({**row, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": label, "name": name} for label, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
