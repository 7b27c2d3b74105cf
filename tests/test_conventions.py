# SPDX-License-Identifier: Apache-2.0
"""What docs/conventions.md claims, paragraph by paragraph; a paragraph without a test fails."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdet import ops

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conventions.md"
BOX = [0.0, 0.0, 10.0, 10.0]
BACKENDS = ("reference", "cpu")


def keeps(boxes, scores=None, threshold=0.0, backend="cpu"):
    boxes = np.array(boxes, np.float32)
    scores = np.linspace(1, 0.5, len(boxes)) if scores is None else scores
    with ops.backend(backend):
        return ops.nms(boxes, np.array(scores, np.float32), threshold).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes(backend):
    # With +1 the neighbours would share a column; the empty and the inverted box overlap nothing.
    assert keeps([BOX, [10, 0, 20, 10]], backend=backend) == [0, 1]
    assert keeps([BOX, [5, 5, 5, 9], [9, 9, 1, 1]], backend=backend) == [0, 1, 2]


def test_pixels_and_sizes():
    picture = np.zeros((100, 200, 3), np.uint8)
    batch, letterbox = ops.letterbox([picture], (64, 96))
    assert batch.shape == (1, 3, 64, 96)
    # The whole picture spans 0 to W and 0 to H on both sides of the mapping.
    whole = np.array([[0, 0, 200, 100]], np.float32)
    inside = letterbox.to_input(whole, 0)
    np.testing.assert_allclose(inside[0, [0, 2]], [0, 96], atol=1e-4)
    np.testing.assert_allclose(letterbox.to_image(inside, 0), whole, atol=1e-3)
    assert tuple(letterbox.input_size) == (64, 96)
    assert [tuple(size) for size in letterbox.image_sizes] == [(100, 200)]


def test_letters():
    used = re.findall(r"\(([A-Z](?:, [A-Z0-9])+)\)", ops.multiclass_nms.__doc__)
    letters = {letter for shape in used for letter in shape.split(", ") if letter.isalpha()}
    assert letters == set("BNCD")


def test_scores():
    kept = ops.multiclass_nms(np.array([[BOX]], np.float32), np.array([[[0.2, 0.9]]], np.float32), max_det=2)
    assert kept.labels.tolist() == [[1, -1]]
    nobody = np.zeros((1, 0, 4), np.float32), np.zeros((1, 0), np.int64), np.zeros(1, np.int64)
    predicted = np.ones((1, 1, 3), np.float32), np.zeros((1, 1, 4), np.float32), np.zeros((1, 2), np.float32)
    free = ops.task_aligned_assign(*predicted, *nobody)
    assert free.matched_gt.tolist() == [[-1]] and free.labels.tolist() == [[3]] and free.label_scores.tolist() == [[0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_order(backend):
    apart = [[40.0 * i, 0, 40.0 * i + 10, 10] for i in range(4)]
    assert keeps(apart, [0.5, 0.9, 0.5, 0.9], 0.5, backend) == [1, 3, 0, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_iou(backend):
    # Intersection 6, union 10: float32(0.6) is above 0.6 as a double, and float32(0.5) equals 0.5.
    assert keeps([[0, 0, 10, 1], [0, 0, 6, 1]], threshold=0.6, backend=backend) == [0]
    assert keeps([[0, 0, 10, 1], [0, 0, 5, 1]], threshold=0.5, backend=backend) == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(backend, bad):
    assert keeps([BOX, [0, 0, bad, 10], BOX], [0.5, 0.9, 0.4], 0.5, backend) == [0]
    assert keeps([BOX, BOX, [50, 0, 60, 10]], [0.5, bad, 0.4], 0.5, backend) == [0, 2]


def test_arrays():
    boxes = np.array([[[0, 0, 10, 10], [50, 0, 60, 10]]], np.float32)
    boxes.flags.writeable = False
    scores = np.asfortranarray(np.array([[[0.1, 0.9], [0.8, 0.3]]], np.float32))
    from_numpy = ops.multiclass_nms(boxes[:, ::-1], scores, max_det=3)
    from_torch = ops.multiclass_nms(torch.tensor(boxes[:, ::-1].copy()), torch.tensor(scores), max_det=3)
    for a, b in zip(from_numpy, from_torch):
        assert isinstance(a, np.ndarray) and isinstance(b, torch.Tensor)
        assert a.flags.c_contiguous and b.is_contiguous()
        np.testing.assert_array_equal(a, b.numpy())
    assert from_numpy.count.tolist() == [2]
    assert from_numpy.index[0, 2] == -1 and from_numpy.labels[0, 2] == -1
    assert not from_numpy.boxes[0, 2].any() and from_numpy.scores[0, 2] == 0


def test_precision():
    boxes = np.array([[[0, 0, 2048, 2048], [0, 0, 2047, 2048]]], np.float16)
    # The area is beyond float16; in float32 the IoU is 0.9995.
    kept = ops.multiclass_nms(boxes, np.array([[[0.9], [0.8]]], np.float16), iou_threshold=0.99, max_det=2)
    assert kept.count.tolist() == [1] and kept.boxes.dtype == kept.scores.dtype == np.float32


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, (np.zeros((4, 7), np.float32), np.zeros(7, np.float32), 0.5)),
        (ValueError, (np.zeros((7, 4), np.float32), np.zeros(7, np.float32), 1.5)),
        (TypeError, (np.zeros((7, 4), np.int64), np.zeros(7, np.float32), 0.5)),
        (TypeError, ("boxes", np.zeros(7, np.float32), 0.5)),
    ],
)
def test_errors(error, arguments):
    with pytest.raises(error, match=r"^nms: \w+ must .*, got .+"):
        ops.nms(*arguments)


def test_every_paragraph_has_its_test():
    paragraphs = re.findall(r"^\*\*(.+?)\.?\*\*", PAGE.read_text(), flags=re.M)
    tests = " ".join(name for name in globals() if name.startswith("test_"))
    missing = [p for p in paragraphs if p.lower().replace(" ", "_") not in tests]
    assert len(paragraphs) > 8 and not missing, missing
