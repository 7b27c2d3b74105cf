# SPDX-License-Identifier: Apache-2.0
"""Rotated NMS: the case table, the polygon IoU against clipping in float64, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import classes, clipped_overlap, plain, rotated

from fastdet import ops
from fastdet.ops.rotated_nms import _Gaussians, _Polygons
from fastdet.testing.ops import VARIANTS, Case, check, check_torch

MEASURES, SEMANTICS = ("polygon", "probiou"), ("greedy", "fast")


def problem(n, measure, semantics, threshold=0.4, groups=0, degrees=False, dtype=np.int64, **kw):
    boxes, scores = rotated(n, **kw)
    if degrees:
        boxes[:, 4] *= np.float32(180 / np.pi)
    idxs = classes(n, groups, dtype=dtype) if groups else None
    return boxes, scores, idxs, threshold, measure, semantics, degrees


SETTINGS = {
    "empty": {"n": 0},
    "one": {"n": 1},
    "two": {"n": 2},
    "prime": {"n": 127},
    "chunk": {"n": 128, "seed": 3, "threshold": 0.2},
    "many": {"n": 700, "seed": 1, "size": 600.0},
    "ties": {"n": 300, "ties": 4},
    "all-ties": {"n": 150, "kind": "same", "ties": 1},
    "threshold-0": {"n": 100, "threshold": 0.0},
    "threshold-1": {"n": 100, "threshold": 1.0},
    "threshold-0.999": {"n": 100, "threshold": 0.999, "kind": "same"},
    "non-finite": {"n": 100, "kind": "bad"},
    "degenerate": {"n": 120, "kind": "degenerate", "threshold": 0.1},
    "degenerate-0": {"n": 60, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"n": 150, "kind": "lattice", "threshold": 0.5},
    "lattice-0": {"n": 150, "kind": "lattice", "threshold": 0.0},
    "quarter": {"n": 150, "kind": "quarter", "threshold": 0.3},
    "thin": {"n": 150, "kind": "thin", "threshold": 0.2},
    "tiny": {"n": 100, "kind": "tiny", "threshold": 0.7},
    "huge": {"n": 100, "kind": "huge", "threshold": 0.1},
    "far": {"n": 150, "kind": "far"},
    "degrees": {"n": 150, "degrees": True},
    "groups": {"n": 300, "groups": 4},
    "groups-int32": {"n": 150, "groups": 3, "dtype": np.int32, "ties": 3},
    "groups-many": {"n": 200, "groups": 150},
    "groups-empty": {"n": 0, "groups": 3},
}
CASES = [
    Case(
        f"{measure}-{semantics}-{name}",
        ops.ROTATED_NMS,
        lambda measure=measure, semantics=semantics, options=options: problem(
            measure=measure, semantics=semantics, **options
        ),
        floats=(0, 1),
    )
    for name, options in SETTINGS.items()
    for measure in MEASURES
    for semantics in SEMANTICS
]
ESSENTIAL = ("numpy-plain", "torch-float16", "cuda-forward", "cuda-reverse", "cuda-shuffled")


LAYOUTS_TOO = tuple(f"-{name}" for name in ("prime", "empty", "ties", "groups", "degenerate"))
TABLE = [(c, v) for c in CASES for v in VARIANTS if v in ESSENTIAL or c.name.endswith(LAYOUTS_TOO)]


@pytest.mark.parametrize(("case", "variant"), TABLE, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in ("polygon-greedy-prime", "probiou-fast-groups")], ids=str
)
def test_torch_library(case):
    check_torch(case)


def pairwise(boxes, kind=_Polygons, threshold=0.0):
    prepared = kind(boxes, False, threshold)
    everyone = np.arange(len(boxes))
    with np.errstate(all="ignore"):
        near = np.stack([prepared.near(i, everyone) for i in everyone])
        return np.where(near, np.stack([prepared.similarity(i, everyone) for i in everyone]), 0)


@pytest.mark.parametrize("kind", ["plain", "quarter", "lattice", "same", "thin", "tiny"])
def test_polygon_iou_is_that_of_clipped_polygons(kind):
    boxes, _ = rotated(50, seed=5, size=80.0, kind=kind)
    want = np.array([[clipped_overlap(a, b) for b in boxes] for a in boxes])
    np.testing.assert_allclose(pairwise(boxes), want, rtol=0, atol=5e-4 if kind == "thin" else 5e-6)


def test_probabilistic_iou_is_that_of_box_iou():
    boxes, _ = rotated(60, seed=6)
    dense = ops.probabilistic_box_iou(boxes, boxes, eps=1e-7)
    nothing_far_is_similar = np.where(pairwise(boxes, _Gaussians) == 0, dense, 0).max()
    assert nothing_far_is_similar < 0.01
    keep = ops.rotated_nms(boxes, np.arange(60, 0, -1).astype(np.float32), 0.3, measure="probiou", semantics="fast")
    np.testing.assert_array_equal(keep, np.flatnonzero(~(np.triu(dense, 1) > 0.3).any(0)))


@settings(max_examples=60)
@given(n=st.integers(1, 50), seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.0, 0.1, 0.35, 0.7]))
def test_without_an_angle_it_is_nms(n, seed, threshold):
    corners, scores = plain(n, seed)
    corners = np.round(corners)  # then both ways are exact but for the last division
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    boxes = np.concatenate([boxes, np.zeros((n, 1), np.float32)], 1).astype(np.float32)
    np.testing.assert_array_equal(ops.rotated_nms(boxes, scores, threshold), ops.nms(corners, scores, threshold))


@settings(max_examples=60)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    threshold=st.floats(0, 1),
    measure=st.sampled_from(MEASURES),
    kind=st.sampled_from(["plain", "lattice", "degenerate", "thin", "tiny"]),
)
def test_what_is_kept_and_what_is_dropped(n, seed, threshold, measure, kind):
    boxes, scores = rotated(n, seed, kind=kind)
    scores = np.random.default_rng(seed).permutation(n).astype(np.float32)
    kind = _Polygons if measure == "polygon" else _Gaussians
    above = pairwise(boxes, kind, threshold).astype(np.float64) > threshold
    keep = ops.rotated_nms(boxes, scores, threshold, measure=measure)
    assert not np.triu(above[np.ix_(keep, keep)], 1).any()
    for i in np.setdiff1d(np.arange(n), keep):
        assert any(above[k, i] for k in keep if scores[k] > scores[i])
    fast = ops.rotated_nms(boxes, scores, threshold, measure=measure, semantics="fast")
    order = np.argsort(-scores)
    np.testing.assert_array_equal(fast, order[~np.triu(above[np.ix_(order, order)], 1).any(0)])
    assert set(fast) <= set(keep)


@settings(max_examples=60)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    measure=st.sampled_from(MEASURES),
    semantics=st.sampled_from(SEMANTICS),
    groups=st.booleans(),
)
def test_result_does_not_depend_on_input_order(n, seed, measure, semantics, groups):
    boxes, _ = rotated(n, seed)
    scores = np.random.default_rng(seed).permutation(n).astype(np.float32)  # no ties
    idxs = classes(n, 3, seed) if groups else np.zeros(n, np.int64)
    shuffle = np.random.default_rng(seed + 1).permutation(n)
    options = {"measure": measure, "semantics": semantics}
    np.testing.assert_array_equal(
        shuffle[ops.rotated_nms(boxes[shuffle], scores[shuffle], 0.3, idxs=idxs[shuffle], **options)],
        ops.rotated_nms(boxes, scores, 0.3, idxs=idxs, **options),
    )


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("measure", MEASURES)
def test_classes_do_not_compete(measure, semantics):
    boxes, scores = rotated(200, seed=8)
    idxs = classes(200, 7)
    options = {"measure": measure, "semantics": semantics}
    expected = np.concatenate(
        [
            np.flatnonzero(idxs == c)[ops.rotated_nms(boxes[idxs == c], scores[idxs == c], 0.2, **options)]
            for c in np.unique(idxs)
        ]
    )
    expected = expected[np.lexsort((expected, -scores[expected]))]
    np.testing.assert_array_equal(ops.rotated_nms(boxes, scores, 0.2, idxs=idxs, **options), expected)


def test_chains_tell_the_semantics_apart():
    """Each box overlaps the next one only: greedy keeps every second, fast the first alone."""
    boxes = np.array([[10 * i, 0, 20, 10, 0] for i in range(5)], np.float32)
    scores = np.arange(5, 0, -1).astype(np.float32)
    assert ops.rotated_nms(boxes, scores, 0.2).tolist() == [0, 2, 4]
    assert ops.rotated_nms(boxes, scores, 0.2, semantics="fast").tolist() == [0]


def test_units_of_angles():
    boxes = np.array([[0, 0, 40, 10, 0], [0, 0, 10, 40, 90]], np.float32)  # one rectangle, told twice
    scores = np.array([0.9, 0.8], np.float32)
    assert ops.rotated_nms(boxes, scores, 0.99, angle_unit="degrees").tolist() == [0]
    assert ops.rotated_nms(boxes, scores, 0.99).tolist() == [0, 1]


BOXES, SCORES = rotated(6)
WRONG = [
    ((BOXES[:, :4], SCORES, 0.5), {}, ValueError, r"rotated_nms: boxes must be \(N, 5\), got \(6, 4\)"),
    ((BOXES[0], SCORES, 0.5), {}, ValueError, "boxes must have 2 dimensions"),
    ((BOXES, SCORES[:5], 0.5), {}, ValueError, r"scores must be \(N,\) .* got \(5,\)"),
    ((BOXES, SCORES, 1.5), {}, ValueError, r"iou_threshold must lie in \[0, 1\], got 1.5"),
    ((BOXES, SCORES, float("nan")), {}, ValueError, "iou_threshold must lie"),
    ((BOXES.astype(np.float64), SCORES, 0.5), {}, TypeError, "boxes must be float32, .* got float64"),
    ((BOXES, SCORES, 0.5), {"idxs": SCORES}, TypeError, "idxs must be int64 or int32"),
    ((BOXES, SCORES, 0.5), {"idxs": np.zeros(5, np.int64)}, ValueError, r"idxs must be \(N,\)"),
    ((BOXES, SCORES, 0.5), {"measure": "iou"}, ValueError, "measure must be one of polygon, probiou, got iou"),
    ((BOXES, SCORES, 0.5), {"semantics": "slow"}, ValueError, "semantics must be one of greedy, fast, got slow"),
    ((BOXES, SCORES, 0.5), {"angle_unit": "turns"}, ValueError, "angle_unit must be radians or degrees"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.rotated_nms(*args, **options)
