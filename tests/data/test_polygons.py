# SPDX-License-Identifier: Apache-2.0
"""Polygons of COCO and YOLO files: from the file through the index and the loader to copy-paste."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_sets import BOXES, SIZES, write_coco, write_yolo

from fastdet.cli import main
from fastdet.data import DataError, layout, open_dataset
from fastdet.data.augmentation import RECIPES, augmented_sample
from fastdet.data.augmentation.box_geometry import polygon_mask
from fastdet.data.check import check_dataset
from fastdet.data.coco import read_coco
from fastdet.data.loader import Loader, PictureCache
from fastdet.data.polygons import joined


def corners(x1, y1, x2, y2):
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def coco_with_polygons(root):
    """Every box of a and b has its rectangle as polygon, the second of a in two parts; a crowd has run lengths."""
    write_coco(root)
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            row["segmentation"] = [corners(x, y, x + width, y + height)]
        first = content["annotations"][1]
        x, y, width, height = first["bbox"]
        first["segmentation"] = [corners(x, y, x + 9.5, y + height), corners(x + 20, y, x + width, y + height)]
        crowd = {"counts": [4, 8], "size": [40, 60]}
        content["annotations"].append({**first, "id": 90, "iscrowd": 1, "segmentation": crowd})
        path.write_text(json.dumps(content))
    return root


def rings_of(dataset):
    return [[[ring.tolist() for ring in own] for own in picture.polygons] for picture in dataset.pictures]


def test_coco_polygons_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    root, cache = coco_with_polygons(tmp_path / "set"), tmp_path / "cache"
    plain = open_dataset(root, "val", cache=cache)
    assert all(picture.polygons is None for picture in plain.pictures) and not plain.pictures.columns.has_polygons
    read = [open_dataset(root, "val", polygons=True, cache=cache) for _ in range(2)]
    assert len(list(cache.iterdir())) == 2 and read[1].pictures.columns.file is not None
    annotations = root / "annotations" / "instances_val.json"
    read.append(read_coco(annotations, root / "images" / "val", polygons=True))
    for data in read:
        a, b, c = rings_of(data)
        assert a[0] == [np.reshape(corners(6, 4, 36, 24), (4, 2)).tolist()] and len(a[1]) == 2 and not c
        assert a[1][0][1] == [21.5, 8] and b == [[np.reshape(corners(8, 8, 24, 16), (4, 2)).tolist()]]
        assert all(picture.polygons == () for picture in data.pictures[2:])
    assert plain.pictures.columns.nbytes() < read[0].pictures.columns.nbytes()
    again = open_dataset(root, "val", polygons=True, cache=cache, report=print)  # read once more
    assert rings_of(again) == rings_of(read[0])


def test_yolo_polygons(tmp_path):
    root = write_yolo(tmp_path / "set")
    label = root / "labels" / "val" / "a.txt"
    label.write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n1 0.2 0.2 1 0.2 1 1 0.2 1 0.1 0.5\n")
    a, b, c = open_dataset(root, "val", polygons=True).pictures
    height, width = SIZES["a"]
    wanted = (np.array([[0.1, 0.1], [0.6, 0.1], [0.6, 0.6]]) * (width, height)).astype(np.float32)
    assert len(a.polygons) == 2 and a.polygons[0][0].tolist() == wanted.tolist() and len(a.polygons[1][0]) == 5
    assert b.polygons == ((),) and c.polygons == () and b.boxes.tolist() == [list(BOXES["b"][0][1:])]
    label.write_text(label.read_text().replace("0.2 0.2", "+0.2 0.2"))  # which is left to Python
    again = open_dataset(root, "val", polygons=True).pictures[0]
    assert all((x[0] == y[0]).all() for x, y in zip(again.polygons, a.polygons, strict=True))
    plain = open_dataset(root, "val").pictures
    assert plain[0].polygons is None and plain[0].boxes.tolist() == a.boxes.tolist()
    (root / "labels" / "val" / "b.txt").unlink()
    label.unlink()
    assert all(picture.polygons is None for picture in open_dataset(root, "val", polygons=True).pictures)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([[1, 2, 3, 4, 5, float("nan")]], "'segmentation[0]' must be finite numbers x1, y1, x2, y2, ..., got [1, 2,"),
        ([1, 2, 3, 4, 5, 6], "'segmentation[0]' must be finite numbers x1, y1, x2, y2, ..., got 1"),
        ("x", "'segmentation' must be a list of polygons, got 'x'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, value, reason):
    root = coco_with_polygons(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][2]["segmentation"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        open_dataset(root, "val", polygons=True)
    assert str(caught.value).startswith(f"{path}: annotations[2]: {reason}")
    told = []
    data = open_dataset(root, "val", polygons=True, report=told.append)
    assert [(problem.level, problem.kind) for problem in told] == [("error", "polygon")]
    assert len(data.annotations) == len(open_dataset(root, "val").annotations) == 4  # only the polygon is left out


def test_polygons_too_short_are_left_out(tmp_path):
    """As COCO's own files have some: training goes on, natively too, and ``check`` tells which."""
    root = coco_with_polygons(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    entry = content["annotations"][2]
    good = [1, 2, 3, 4, 5, 7]
    entry["segmentation"] = [[1, 2, 3, 4], good, [1, 2, 3, 4, 5, 6, 7], []]
    path.write_text(json.dumps(content))
    data = open_dataset(root, "val", polygons=True)
    place = next(i for i, row in enumerate(data.annotations) if row.id == entry["id"])
    assert [ring.reshape(-1).tolist() for ring in data.pictures.columns.rings(place)] == [good]
    assert len(data.annotations) == 4
    report, asked = check_dataset(root), check_dataset(root, polygons=True)
    assert not report.harmful and asked.harmful and len(report.problems) == 3
    assert [(each.level, each.kind) for each in report.problems] == [("note", "polygon")] * 3
    text = "'segmentation[0]' must have x and y of 3 points or more to be used, got 4 numbers"
    assert str(report.problems[0]) == f"{path}: annotations[2]: {text} (annotation {entry['id']})"
    assert [dataclasses.replace(each, level="note") for each in asked.problems] == report.problems
    assert {each.level for each in asked.problems} == {"warning"}
    entry["segmentation"] = ["x"]
    path.write_text(json.dumps(content))
    assert main(["check", str(root)]) == 0 and main(["check", str(root), "--polygons"]) == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4))
def test_joined_polygons_show_the_same_pixels(seed, count):
    random = np.random.default_rng(seed)
    rings = [random.uniform(0, 40, (int(random.integers(3, 9)), 2)).astype(np.float32) for _ in range(count)]
    mask = np.sum([polygon_mask(ring, (0, 0), (40, 40)) for ring in rings], axis=0) % 2
    whole = joined(rings)
    assert len(whole) == sum(map(len, rings)) + 2 * (count - 1) and whole.dtype == np.float64
    np.testing.assert_array_equal(polygon_mask(whole, (0, 0), (40, 40)), mask)


def test_many_corners_are_joined_quickly():
    angle = np.linspace(0, 6, 200_000)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 50
    whole = joined([ring, ring + 200])
    assert len(whole) == 400_002 and (np.abs(np.diff(whole, axis=0)).max(axis=0) > 100).all()


RECIPE = dataclasses.replace(
    RECIPES["yolov9"], mosaic=0.0, copy_paste=1.0, copy_paste_rule="ranked", translate=0.0, scale=(1.0, 1.0), mixup=0.0,
    hsv=(0.0, 0.0, 0.0), flip_horizontal=0.0, max_aspect=1e9,
)  # fmt: skip


def triangle_set(root):
    """One white triangle on black, at the left of a picture of 64 x 64, as COCO has it."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    triangle = np.array([[4, 10], [24, 10], [4, 40]], np.float64)
    pixels[polygon_mask(triangle, (0, 0), (64, 64)) == 1] = 255
    (root / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(root / "images" / "1.png")
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 10, 20, 30], "area": 300, "iscrowd": 0}
    row["segmentation"] = [triangle.reshape(-1).tolist()]
    image = {"id": 1, "file_name": "1.png", "height": 64, "width": 64}
    content = {"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "t"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return pixels


def test_objects_of_a_coco_set_are_pasted_by_their_polygons(tmp_path):
    pixels = triangle_set(tmp_path / "set")
    for polygons, objects in ((False, 1), (True, 2)):
        data = open_dataset(tmp_path / "set", "train", polygons=polygons)
        sample = augmented_sample(PictureCache(data.pictures), 0, recipe=RECIPE, size=(64, 64))
        assert len(sample.boxes) == objects and (sample.polygons is not None) == polygons
        wanted = np.maximum(pixels, pixels[:, ::-1]) if polygons else pixels
        np.testing.assert_array_equal(sample.image, wanted)
        if polygons:
            assert sorted(sample.boxes.tolist()) == [[4, 10, 24, 40], [40, 10, 60, 40]]
    loaders = [
        Loader(data, RECIPE, size=(64, 64), batch_size=1, workers=workers, worker_kind="process") for workers in (0, 1)
    ]
    for loader in loaders:
        with loader:
            (batch,) = loader
            assert len(batch.boxes[0]) == 2
            np.testing.assert_array_equal(batch.images[0].transpose(1, 2, 0), wanted)


def test_reduced_pictures_have_reduced_polygons(tmp_path):
    root = tmp_path / "set"
    triangle_set(root)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "images" / "1.png", format="JPEG")
    pictures = open_dataset(root, "train", polygons=True).pictures
    sample = PictureCache(pictures, draft=(32, 32))(0)
    assert sample.size == (32, 32) and sample.boxes.tolist() == [[2, 5, 12, 20]]
    assert sample.polygons[0].tolist() == [[2, 5], [12, 5], [2, 20]]


def test_an_object_without_polygons_leaves_its_picture_without(tmp_path):
    root = coco_with_polygons(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["segmentation"]
    path.write_text(json.dumps(content))
    cache = PictureCache(open_dataset(root, "val", polygons=True).pictures)
    assert [cache(row).polygons is None for row in range(3)] == [True, False, False]
    assert cache(1).polygons[0].tolist() == np.reshape(corners(8, 8, 24, 16), (4, 2)).tolist()


@pytest.mark.parametrize(("recipe", "asked"), [("yolov9", True), ("yolov5", False), ("fastdet", False)])
def test_training_asks_for_polygons_where_its_recipe_pastes(tmp_path, monkeypatch, recipe, asked):
    pytest.importorskip("torch")
    from fastdet.train import loop
    from fastdet.train.config import TrainConfig

    seen = {}

    def remember(data, split, **options):
        seen[split] = options["polygons"]
        if len(seen) == 2:
            raise DataError("enough")
        return layout.open_dataset(data, split, **options)

    monkeypatch.setattr(loop, "open_dataset", remember)
    root = write_yolo(tmp_path / "set")
    with pytest.raises(DataError, match="enough"):
        loop.train(TrainConfig(data=str(root), output=str(tmp_path / "out"), recipe=recipe))
    assert seen == {"train": asked, "val": False}
