# SPDX-License-Identifier: Apache-2.0
"""Objects that are taken for others are refused by name. Numbers: test_attributes.py."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fastdet import ops


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ops.HeadFormat("dfl", strides=8), TypeError, "strides must be a list of numbers, got 8"),
        (lambda: ops.HeadFormat("dfl", strides=("a",)), TypeError, "strides must be a number, got 'a'"),
        (lambda: ops.HeadFormat("dfl", offset=None), TypeError, "offset must be a number, got None"),
        (lambda: ops.HeadFormat("cxcywh", image_size=640), TypeError, "image_size must be a list of numbers"),
        (lambda: ops.HeadFormat("anchors", anchors=((10, 13, 16),) * 3), ValueError, "as many .width, height."),
        (
            lambda: ops.HeadFormat("anchors", anchors=([(1, 2)], [(1, 2)] * 3, [(1, 2)] * 2)),
            ValueError,
            "as many .width, height. on each level",
        ),
    ],
)
def test_descriptions(make, error, message):
    with pytest.raises(error, match=f"HeadFormat: .*{message}"):
        make()


def test_objects_that_are_taken_for_others():
    maps = [np.zeros((1, 68, 4, 4), np.float32)]
    head = ops.HeadFormat("dfl", strides=(8,))
    for function in (ops.decode_boxes, ops.decode_candidates, ops.detect):
        with pytest.raises(TypeError, match=f"^{function.__name__}: head must be a HeadFormat, got str"):
            function(*head.split(maps, 4), "dfl")
    with pytest.raises(TypeError, match="split: maps must be a list of one array for each level"):
        head.split(maps[0], 4)
    _, geometry = ops.letterbox(np.zeros((8, 8, 3), np.uint8), 32)
    kept = ops.detect(*head.split(maps, 4), head)
    with pytest.raises(TypeError, match=r"to_image: boxes must be an array .*got Kept; pass its \.boxes"):
        geometry.to_image(kept)
    assert geometry.to_image(kept.boxes).shape == kept.boxes.shape


@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer reports what cannot be allocated")
def test_results_that_do_not_fit_into_memory_are_one_line():
    import torch

    boxes, scores = torch.zeros(1, 1, 4), torch.zeros(1, 1, 1)
    with pytest.raises(RuntimeError, match=r"output of shape .* could not be allocated") as caught:
        ops.multiclass_nms(boxes, scores, max_det=10**13)
    assert "\n" not in str(caught.value)
