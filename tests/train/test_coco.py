# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastdet.data.coco import read_coco
from fastdet.data.dataset import DataError, resolve_inside

GOOD = {
    "images": [
        {"id": 5, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.jpg", "height": 9, "width": 9},
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 4, "bbox": [-5, 30.5, 20, 20]},
        {"id": 3, "image_id": 5, "category_id": 4, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        {"id": 4, "image_id": 5, "category_id": 4, "bbox": [10, 10, 0, 5]},
        {"id": 5, "image_id": 5, "category_id": 4, "bbox": [70, 10, 5, 5]},
    ],
    "categories": [{"id": 9, "name": "nine"}, {"id": 4, "name": "four"}],
}  # fmt: skip


def read(folder: Path, content: object, **options: bool):
    path = folder / "labels.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_coco(path, folder, **options)


def changed(where: str, index: int, **values: object) -> dict:
    content = copy.deepcopy(GOOD)
    content[where][index] |= values
    return content


def test_reads_clips_and_drops(tmp_path):
    data = read(tmp_path, GOOD)
    assert data.names == ("four", "nine") and data.category_ids == (4, 9)
    assert [picture.id for picture in data.pictures] == [5, 2]
    first, second = data.pictures
    assert first.path == tmp_path.resolve() / "a.jpg" and (first.height, first.width) == (40, 60)
    np.testing.assert_array_equal(first.boxes, np.array([[1, 2, 4, 6], [0, 30.5, 15, 40]], np.float32))
    np.testing.assert_array_equal(first.labels, [1, 0])
    assert first.boxes.dtype == np.float32 and first.labels.dtype == np.int64
    assert second.boxes.shape == (0, 4) and second.labels.shape == (0,)
    assert len(data.annotations) == 5 and data.annotations[2].iscrowd == 1
    assert data.annotations[1].bbox == (-5.0, 30.5, 20.0, 20.0) and data.annotations[1].area == 400.0


def test_accepts_a_byte_order_mark_and_crlf(tmp_path):
    text = "\ufeff" + json.dumps(GOOD, indent=1).replace("\n", "\r\n")
    assert len(read(tmp_path, text.encode())) == 2


MALFORMED = {
    "empty": (b"", "not valid JSON"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "cut": (json.dumps(GOOD).encode()[:-20], "not valid JSON"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "list": ([1, 2], "must hold a JSON object, got list"),
    "no images": ({**GOOD, "images": None}, "'images' must be a list, got NoneType"),
    "empty images": ({**GOOD, "images": []}, "'images' is empty"),
    "empty categories": ({**GOOD, "categories": [], "annotations": []}, "'categories' is empty"),
    "annotation not an object": ({**GOOD, "annotations": [3]}, "annotations[0]: must be an object, got int"),
    "NaN": (
        json.dumps(changed("annotations", 0, bbox=[float("nan"), 1, 2, 3])).encode(),
        "annotations[0]: 'bbox' must be four finite",
    ),
    "huge": (json.dumps(changed("annotations", 0, area=7)).replace("7", "1e999").encode(), "must be a finite number"),
    "three numbers": (changed("annotations", 0, bbox=[1, 2, 3]), "annotations[0]: 'bbox' must be four finite numbers"),
    "text in box": (changed("annotations", 1, bbox=[1, 2, 3, "4"]), "annotations[1]: 'bbox'"),
    "true in box": (changed("annotations", 1, bbox=[1, 2, 3, True]), "annotations[1]: 'bbox'"),
    "negative size": (changed("annotations", 1, bbox=[1, 2, -3, 4]), "negative size"),
    "unknown picture": (changed("annotations", 2, image_id=77), "annotations[2]: image_id 77 is not in 'images'"),
    "unknown category": (changed("annotations", 2, category_id=0), "category_id 0 is not in 'categories'"),
    "float id": (changed("annotations", 2, image_id=5.0), "'image_id' must be an integer"),
    "crowd 2": (changed("annotations", 2, iscrowd=2), "'iscrowd' must be an integer in 0..1, got 2"),
    "annotation twice": (changed("annotations", 2, id=1), "annotations[2]: id 1 occurs twice"),
    "picture twice": (changed("images", 1, id=5), "images[1]: id 5 occurs twice"),
    "category twice": (changed("categories", 1, id=9), "categories[1]: id 9 occurs twice"),
    "no name": (changed("categories", 1, name=""), "categories[1]: 'name' must be a text"),
    "zero height": (changed("images", 0, height=0), "images[0]: 'height' must be an integer in 1..65535, got 0"),
    "no file name": (changed("images", 0, file_name=3), "images[0]: 'file_name' must be a text, got 3"),
    "outside": (changed("images", 0, file_name="../a.jpg"), "leads out of"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_named(tmp_path, name):
    content, reason = MALFORMED[name]
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "labels.json")) and reason in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_coco(tmp_path / "none.json", tmp_path / "none")


OUTSIDE = ["", "..", "../x.jpg", "a/../../x.jpg", "/etc/passwd", "C:/x.jpg", "c:x.jpg", "..\\x.jpg", "\\\\host\\x.jpg",
           "a\x00.jpg", ".", "a/..", "link/x.jpg", "loop/x.jpg"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_that_lead_outside(tmp_path, name):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    os.symlink(tmp_path, root / "link")
    os.symlink(root / "loop", root / "loop")
    assert resolve_inside(root, name) is None


def test_paths_inside(tmp_path):
    (tmp_path / "a").mkdir()
    assert resolve_inside(tmp_path, "a/b c.jpg") == tmp_path.resolve() / "a" / "b c.jpg"
    assert resolve_inside(tmp_path, "a/../x.jpg") == tmp_path.resolve() / "x.jpg"
    outside = changed("images", 0, file_name="../a.jpg")
    assert read(tmp_path, outside, allow_outside=True).pictures[0].path == tmp_path / ".." / "a.jpg"
