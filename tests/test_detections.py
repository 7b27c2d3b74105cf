# SPDX-License-Identifier: Apache-2.0
"""The result type: what it accepts, what comes out of it, and that its boxes keep their meaning on the way."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from broken_pictures import pattern
from fastdet import Detections, ImageError, boxes

IMAGE = pattern(60, 80)
NAMES = ("RBC", "WBC", "Platelets")


def some(**changes) -> Detections:
    fields = {
        "boxes": [[4, 5, 30, 40], [20.5, 10, 70, 55.25], [60, 40, 75, 52]],
        "scores": [0.9, 0.8, 0.4],
        "labels": [0, 0, 2],
        "names": NAMES,
        "image_size": (60, 80),
        "image": IMAGE,
    }
    return Detections(**{**fields, **changes})


def test_arrays_are_of_one_kind():
    given = some()
    for other in (
        given,
        some(boxes=torch.tensor(given.boxes, requires_grad=True), scores=torch.tensor(given.scores).double()),
        some(labels=torch.tensor([0, 0, 2], dtype=torch.int32), names=dict(enumerate(NAMES))),
    ):
        assert (other.boxes.dtype, other.scores.dtype, other.labels.dtype) == (np.float32, np.float32, np.int64)
        assert np.array_equal(other.boxes, given.boxes) and np.array_equal(other.scores, np.float32([0.9, 0.8, 0.4]))
        assert other.names == NAMES and other.image_size == (60, 80) and len(other) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.scores = None


@pytest.mark.parametrize("empty", [{"boxes": [], "scores": [], "labels": []}, {"boxes": np.zeros((0, 4))}])
def test_nothing_found(empty):
    none = some(**{"scores": [], "labels": [], **empty})
    assert len(none) == 0 and none.boxes.shape == (0, 4) and list(none) == [] and none.to_coco() == []
    assert np.array_equal(none.plot(), IMAGE) and "nothing" in repr(none) and none.counts() == {}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"boxes": np.zeros((3, 5))}, ValueError, r"boxes must be \(D, 4\), got \(3, 5\)"),
        ({"scores": [0.1]}, ValueError, r"scores must be \(3,\), got \(1,\)"),
        ({"labels": [[0, 0, 2]]}, ValueError, r"labels must be \(3,\), got \(1, 3\)"),
        ({"labels": [0, 0, 3]}, ValueError, r"labels must be in \[0, 3\)"),
        ({"labels": [0, -1, 2]}, ValueError, r"labels must be in \[0, 3\)"),
        ({"labels": [0.0, 1.0, 2.0]}, TypeError, "labels must be int64, got dtype float64"),
        ({"boxes": np.zeros((3, 4), complex)}, TypeError, "boxes must be float32"),
        ({"scores": [0.1, np.nan, 0.2]}, ValueError, "finite"),
        ({"boxes": np.full((3, 4), np.inf)}, ValueError, "finite"),
        ({"image_size": (0, 80)}, ValueError, r"image_size must be \(height, width\)"),
        ({"image_size": 80}, ValueError, r"image_size must be \(height, width\), got 80"),
        ({"names": "abc"}, TypeError, "names must be a list of class names, got 'abc'"),
        ({"image": IMAGE[:10]}, ValueError, r"image must be \(60, 80, 3\) uint8 RGB"),
        ({"image": IMAGE.astype(float)}, ValueError, "float64"),
    ],
)
def test_wrong_fields(changes, error, message):
    with pytest.raises(error, match=message):
        some(**changes)


def test_indexing_and_iteration():
    found = some()
    first = found[0]
    assert (first.label, first.name) == (0, "RBC") and first.score == np.float32(0.9)
    assert np.array_equal(found[-1].box, found.boxes[2]) and [each.name for each in found] == [
        "RBC",
        "RBC",
        "Platelets",
    ]
    for index in (slice(1, None), found.scores < 0.85, [1, 2], np.array([1, 2]), [False, True, True]):
        part = found[index]
        assert isinstance(part, Detections) and np.array_equal(part.boxes, found.boxes[1:])
        assert np.array_equal(part.labels, [0, 2]) and part.names == NAMES and part.image is IMAGE
    assert len(found[[]]) == 0 and len(found[found.labels == 1]) == 0
    for index, error in ((3, IndexError), ("a", TypeError), (1.5, TypeError), ([True], IndexError)):
        with pytest.raises(error, match="Detections"):
            found[index]
    assert found.counts() == {"RBC": 2, "Platelets": 1}
    assert repr(found) == "Detections(3 on 80x60: 2 RBC, 1 Platelets; best score 0.90)"


def test_coco_and_dict_are_unrounded_json():
    found = some()
    rows = json.loads(json.dumps(found.to_coco(7, category_ids=[1, 2, 3])))
    assert [row["category_id"] for row in rows] == [1, 1, 3] and {row["image_id"] for row in rows} == {7}
    back = boxes.xywh_to_xyxy(np.array([row["bbox"] for row in rows]))
    assert np.array_equal(back.astype(np.float32), found.boxes)
    assert np.array_equal(np.float32([row["score"] for row in rows]), found.scores)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["image_size"] == [60, 80] and content["path"] is None
    assert np.array_equal(np.float32([row["box"] for row in content["detections"]]), found.boxes)
    assert [row["name"] for row in content["detections"]] == ["RBC", "RBC", "Platelets"]


def test_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(RuntimeError, match="pip install supervision"):
        some().to_supervision()
    package = types.ModuleType("supervision")
    package.Detections = lambda **fields: fields
    monkeypatch.setitem(sys.modules, "supervision", package)
    fields = some().to_supervision()
    assert fields["xyxy"].shape == (3, 4) and fields["class_id"].tolist() == [0, 0, 2]
    assert fields["data"]["class_name"].tolist() == ["RBC", "RBC", "Platelets"]


def test_save_writes_what_plot_draws(tmp_path):
    found = some()
    path = found.save(tmp_path / "deep" / "out.png")
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), found.plot())
    assert [each.name for each in path.parent.iterdir()] == ["out.png"]
    with Image.open(found.save(tmp_path / "out.jpg")) as picture:
        assert np.abs(np.asarray(picture).astype(int) - found.plot()).mean() < 5
    with pytest.raises(ValueError, match="path must end in"):
        found.save(tmp_path / "out.xyz")


def test_picture_is_read_again_from_its_file(tmp_path):
    source = tmp_path / "a.png"
    Image.fromarray(IMAGE).save(source)
    found = some(image=None, path=source)
    assert np.array_equal(found.plot(), some().plot())
    with pytest.raises(ValueError, match="overwritten"):
        found.save(source)
    Image.fromarray(IMAGE[:30]).save(source)
    with pytest.raises(ValueError, match=r"image must be \(60, 80, 3\)"):
        found.plot()
    source.unlink()
    with pytest.raises(ImageError, match="no such file"):
        found.plot()
    with pytest.raises(ValueError, match="there is no picture"):
        some(image=None).plot()


@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
def test_box_formats_invert_each_other(kind):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 4000, (5, 7, 2, 2)), axis=2).reshape(5, 7, 4) / 8
    if kind == "torch":
        corners = torch.tensor(corners, requires_grad=True)
    given = corners.tolist() if kind == "list" else corners
    for there, back in (
        (boxes.xyxy_to_cxcywh, boxes.cxcywh_to_xyxy),
        (boxes.xyxy_to_xywh, boxes.xywh_to_xyxy),
        (lambda b: boxes.xyxy_to_norm(b, (512, 1024)), lambda b: boxes.norm_to_xyxy(b, (512, 1024))),
    ):
        middle = there(given)
        assert type(middle) is type(corners) and bool((back(middle) == corners).all())
    area = boxes.box_area(given)
    wide = boxes.xyxy_to_xywh(corners)
    assert bool((area == wide[..., 2] * wide[..., 3]).all())
    if kind == "torch":
        area.sum().backward()
        assert corners.grad is not None and corners.grad.abs().sum() > 0


def test_box_geometry_by_hand():
    assert boxes.xyxy_to_cxcywh([[1, 2, 5, 10]]).tolist() == [[3, 6, 4, 8]]
    assert boxes.xyxy_to_xywh([[1, 2, 5, 10]]).tolist() == [[1, 2, 4, 8]]
    assert boxes.xyxy_to_norm([10, 20, 50, 100], (100, 200)).tolist() == pytest.approx([0.05, 0.2, 0.25, 1.0])
    assert boxes.clip_boxes([[-3, 5, 90, 70], [200, 1, 300, 2]], (60, 80)).tolist() == [[0, 5, 80, 60], [80, 1, 80, 2]]
    assert boxes.box_area([[0, 0, 3, 4], [3, 0, 0, 4], [1, 1, 1, 5]]).tolist() == [12, 0, 0]
    for bad in (np.zeros((3, 5)), np.zeros(())):
        with pytest.raises(ValueError, match=r"boxes must be \(..., 4\)"):
            boxes.box_area(bad)
    for size in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(ValueError, match=r"\(height, width\)"):
            boxes.xyxy_to_norm(np.zeros((1, 4)), size)
