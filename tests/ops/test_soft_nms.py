# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS: the case table, the published loop in float64, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import PICTURES, RESCORED, cases_of, classes, plain, presented

from fastdet import ops
from fastdet.testing.ops import check, check_torch

METHODS = ("linear", "gaussian")


def problem(method, n, iou_threshold=0.3, sigma=0.5, threshold=0.001, groups=0, dtype=np.int64, **kw):
    boxes, scores = plain(n, **kw)
    idxs = classes(n, groups, dtype=dtype) if groups else None
    return boxes, scores, idxs, method, iou_threshold, sigma, threshold


SETTINGS = {
    **PICTURES,
    **RESCORED,
    "block": {"n": 64, "seed": 3, "threshold": 0.0},
    "many": {"n": 600, "seed": 1, "size": 300.0, "threshold": 0.2},
    "ties": {"n": 200, "ties": 4, "threshold": 0.1},
    "all-ties": {"n": 90, "kind": "same", "ties": 1, "threshold": 0.0},
    "same": {"n": 60, "kind": "same", "threshold": 0.0},
    "high-threshold": {"n": 100, "threshold": 0.9},
    "nothing-left": {"n": 50, "threshold": 1.0},
    "degenerate": {"n": 120, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"n": 120, "kind": "lattice", "iou_threshold": 0.5},
    "threshold-0": {"n": 80, "iou_threshold": 0.0},
    "threshold-1": {"n": 80, "iou_threshold": 1.0, "kind": "same"},
    "huge": {"n": 100, "kind": "huge", "threshold": 0.0},
    "sigma-1e-30": {"n": 80, "sigma": 1e-30, "threshold": 0.0},
}
CASES = cases_of(ops.SOFT_NMS, problem, SETTINGS, [(method,) for method in METHODS])


@pytest.mark.parametrize(("case", "variant"), presented(CASES), ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("linear-prime", "gaussian-groups")], ids=str)
def test_torch_library(case):
    check_torch(case)


def published(boxes, scores, method, iou_threshold, sigma):
    """The paper's loop, one number at a time in float64: {index: new score}."""
    iou = ops.box_iou(boxes, boxes).astype(np.float64)
    left, new = {i: float(s) for i, s in enumerate(scores)}, {}
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        new[best] = left.pop(best)
        for i in left:
            if method == "gaussian":
                left[i] *= math.exp(-(iou[best, i] ** 2) / sigma)
            elif iou[best, i] >= iou_threshold:
                left[i] *= 1 - iou[best, i]
    return new


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(METHODS),
    threshold=st.sampled_from([0.0, 0.1]),
)
def test_scores_are_those_of_the_published_loop(n, seed, method, threshold):
    boxes, scores = plain(n, seed)
    want = {i: s for i, s in published(boxes, scores, method, 0.3, 0.5).items() if s > threshold}
    got = ops.soft_nms(boxes, scores, method=method, score_threshold=threshold)
    new = dict(zip(got.index.tolist(), got.scores.tolist()))
    assert all(abs(new.get(i, threshold) - want.get(i, threshold)) < 1e-5 for i in {*want, *new})
    assert (np.diff(got.scores) <= 0).all()


@settings(max_examples=40)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS))
def test_scores_only_fall_and_the_threshold_only_cuts(n, seed, method):
    boxes, scores = plain(n, seed)
    everything = ops.soft_nms(boxes, scores, method=method, score_threshold=0.0)
    assert (everything.scores <= scores[everything.index]).all() and everything.index[0] == np.argmax(scores)
    some = ops.soft_nms(boxes, scores, method=method, score_threshold=0.3)
    cut = int((everything.scores.astype(np.float64) > 0.3).sum())
    np.testing.assert_array_equal(some.index, everything.index[:cut])
    np.testing.assert_array_equal(some.scores, everything.scores[:cut])


def test_by_hand():
    """IoU of neighbours is 1/3, and a box exactly on the threshold of the linear method falls."""
    boxes = np.array([[0, 0, 20, 10], [10, 0, 30, 10], [20, 0, 40, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    third = float(np.float32(1) / np.float32(3))
    got = ops.soft_nms(boxes, scores, method="linear", iou_threshold=third)
    assert got.index.tolist() == [0, 2, 1]
    np.testing.assert_allclose(got.scores, [0.9, 0.7, 0.8 * (2 / 3) ** 2], rtol=1e-6)
    above = float(np.nextafter(np.float32(third), np.float32(1)))
    np.testing.assert_array_equal(ops.soft_nms(boxes, scores, method="linear", iou_threshold=above).scores, scores)
    got = ops.soft_nms(boxes, scores, sigma=0.5)
    np.testing.assert_allclose(got.scores, [0.9, 0.7, 0.8 * math.exp(-4 / 9)], rtol=1e-6)


def test_wrong_threshold():
    boxes, scores = plain(6)
    with pytest.raises(ValueError, match=r"soft_nms: iou_threshold must lie in \[0, 1\], got 1.5"):
        ops.soft_nms(boxes, scores, iou_threshold=1.5)
