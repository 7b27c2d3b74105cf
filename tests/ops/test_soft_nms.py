# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS: the case table, the published loop in float64, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import classes, plain

from fastdet import ops
from fastdet.testing.ops import VARIANTS, Case, check, check_torch

METHODS = ("linear", "gaussian")


def problem(n, method, iou_threshold=0.3, sigma=0.5, threshold=0.001, groups=0, dtype=np.int64, **kw):
    boxes, scores = plain(n, **kw)
    idxs = classes(n, groups, dtype=dtype) if groups else None
    return boxes, scores, idxs, method, iou_threshold, sigma, threshold


SETTINGS = {
    "empty": {"n": 0},
    "one": {"n": 1},
    "two": {"n": 2},
    "prime": {"n": 127},
    "block": {"n": 64, "seed": 3, "threshold": 0.0},
    "many": {"n": 600, "seed": 1, "size": 300.0, "threshold": 0.2},
    "ties": {"n": 200, "ties": 4, "threshold": 0.1},
    "all-ties": {"n": 90, "kind": "same", "ties": 1, "threshold": 0.0},
    "same": {"n": 60, "kind": "same", "threshold": 0.0},
    "high-threshold": {"n": 100, "threshold": 0.9},
    "nothing-left": {"n": 50, "threshold": 1.0},
    "non-finite": {"n": 100, "kind": "bad"},
    "degenerate": {"n": 120, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"n": 120, "kind": "lattice", "iou_threshold": 0.5},
    "threshold-0": {"n": 80, "iou_threshold": 0.0},
    "threshold-1": {"n": 80, "iou_threshold": 1.0, "kind": "same"},
    "tiny": {"n": 100, "kind": "tiny"},
    "huge": {"n": 100, "kind": "huge", "threshold": 0.0},
    "far": {"n": 120, "kind": "far"},
    "sigma-1e-30": {"n": 80, "sigma": 1e-30, "threshold": 0.0},
    "groups": {"n": 250, "groups": 4},
    "groups-int32": {"n": 150, "groups": 3, "dtype": np.int32, "ties": 3},
    "groups-many": {"n": 150, "groups": 100},
    "groups-empty": {"n": 0, "groups": 3},
}
CASES = [
    Case(
        f"{method}-{name}",
        ops.SOFT_NMS,
        lambda method=method, options=options: problem(method=method, **options),
        floats=(0, 1),
    )
    for name, options in SETTINGS.items()
    for method in METHODS
]
ESSENTIAL = ("numpy-plain", "torch-float16", "cuda-forward", "cuda-reverse", "cuda-shuffled")
LAYOUTS_TOO = tuple(f"-{name}" for name in ("prime", "empty", "ties", "groups", "degenerate"))
TABLE = [(c, v) for c in CASES for v in VARIANTS if v in ESSENTIAL or c.name.endswith(LAYOUTS_TOO)]


@pytest.mark.parametrize(("case", "variant"), TABLE, ids=str)
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


@pytest.mark.parametrize("method", METHODS)
def test_classes_do_not_change_one_another(method):
    boxes, scores = plain(200, seed=8)
    idxs = classes(200, 7)
    got = ops.soft_nms(boxes, scores, idxs=idxs, method=method)
    new = dict(zip(got.index.tolist(), got.scores.tolist()))
    alone = {}
    for c in np.unique(idxs):
        members = np.flatnonzero(idxs == c)
        part = ops.soft_nms(boxes[members], scores[members], method=method)
        alone.update(zip(members[part.index].tolist(), part.scores.tolist()))
    assert new == alone


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


def test_gradients_are_refused():
    import torch

    boxes, scores = (torch.from_numpy(a) for a in plain(5))
    with pytest.raises(ValueError, match="soft_nms"):
        ops.soft_nms(boxes, scores.requires_grad_())


BOXES, SCORES = plain(6)
WRONG = [
    ((BOXES[:, :3], SCORES), {}, ValueError, r"soft_nms: boxes must be \(N, 4\), got \(6, 3\)"),
    ((BOXES, SCORES[:5]), {}, ValueError, r"scores must be \(N,\) .* got \(5,\)"),
    ((BOXES, SCORES), {"iou_threshold": 1.5}, ValueError, r"iou_threshold must lie in \[0, 1\], got 1.5"),
    ((BOXES, SCORES), {"sigma": 0.0}, ValueError, r"sigma must lie in \[1e-30, 1e30\], got 0"),
    ((BOXES, SCORES), {"score_threshold": -0.1}, ValueError, "score_threshold must not be negative, got -0.1"),
    ((BOXES.astype(np.float64), SCORES), {}, TypeError, "boxes must be float32, .* got float64"),
    ((BOXES, SCORES), {"idxs": np.zeros(5, np.int64)}, ValueError, r"idxs must be \(N,\)"),
    ((BOXES, SCORES), {"method": "naive"}, ValueError, "method must be one of linear, gaussian, got naive"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.soft_nms(*args, **options)
