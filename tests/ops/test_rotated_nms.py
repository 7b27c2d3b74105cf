# SPDX-License-Identifier: Apache-2.0
"""Rotated NMS, of one picture and of batches: case tables, the polygon IoU against clipping in float64, properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import PICTURES, cases_of, classes, clipped_overlap, plain, presented, rotated

from fastdet import ops
from fastdet.ops.rotated_nms import _Gaussians, _Polygons
from fastdet.testing.ops import check, check_torch

MEASURES, SEMANTICS = ("polygon", "probiou"), ("greedy", "fast")


def problem(measure, semantics, n, threshold=0.4, groups=0, degrees=False, dtype=np.int64, **kw):
    boxes, scores = rotated(n, **kw)
    if degrees:
        boxes[:, 4] *= np.float32(180 / np.pi)
    idxs = classes(n, groups, dtype=dtype) if groups else None
    return boxes, scores, idxs, threshold, measure, semantics, degrees


SETTINGS = {
    **PICTURES,
    "chunk": {"n": 128, "seed": 3, "threshold": 0.2},
    "many": {"n": 700, "seed": 1, "size": 600.0},
    "ties": {"n": 300, "ties": 4},
    "all-ties": {"n": 150, "kind": "same", "ties": 1},
    "threshold-0": {"n": 100, "threshold": 0.0},
    "threshold-1": {"n": 100, "threshold": 1.0},
    "threshold-0.999": {"n": 100, "threshold": 0.999, "kind": "same"},
    "degenerate": {"n": 120, "kind": "degenerate", "threshold": 0.1},
    "degenerate-0": {"n": 60, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"n": 150, "kind": "lattice", "threshold": 0.5},
    "lattice-0": {"n": 150, "kind": "lattice", "threshold": 0.0},
    "quarter": {"n": 150, "kind": "quarter", "threshold": 0.3},
    "thin": {"n": 150, "kind": "thin", "threshold": 0.2},
    "tiny": {"n": 100, "kind": "tiny", "threshold": 0.7},
    "huge": {"n": 100, "kind": "huge", "threshold": 0.1},
    "degrees": {"n": 150, "degrees": True},
}
FORMS = [(measure, semantics) for measure in MEASURES for semantics in SEMANTICS]
CASES = cases_of(ops.ROTATED_NMS, problem, SETTINGS, FORMS)


def batch(
    measure, semantics, b, n, c, score=0.25, threshold=0.4, max_det=300, most=30000, agnostic=False, multi=False,
    degrees=False, levels=0, **kw
):  # fmt: skip
    rng = np.random.default_rng(kw.get("seed", 0))
    boxes = np.stack([rotated(n, **{**kw, "seed": i})[0] for i in range(b)]) if b else np.zeros((0, n, 5), np.float32)
    if degrees:
        boxes[..., 4] *= np.float32(180 / np.pi)
    scores = rng.random((b, n, c)) ** 2
    if levels:
        scores = np.round(scores * levels) / levels
    if kw.get("kind") == "bad":
        scores[:, ::5] = rng.choice([np.nan, np.inf, -np.inf, 0.9], scores[:, ::5].shape)
    return (
        boxes,
        scores.astype(np.float32),
        score,
        threshold,
        max_det,
        most,
        agnostic,
        multi,
        measure,
        semantics,
        degrees,
    )


BATCHES = {
    "no-images": {"b": 0, "n": 7, "c": 3},
    "no-boxes": {"b": 2, "n": 0, "c": 3},
    "no-classes": {"b": 2, "n": 7, "c": 0},
    "one": {"b": 1, "n": 1, "c": 1, "score": 0.0},
    "prime": {"b": 2, "n": 127, "c": 3, "max_det": 31},
    "multi": {"b": 2, "n": 90, "c": 4, "multi": True, "max_det": 50},
    "multi-cut": {"b": 2, "n": 90, "c": 4, "multi": True, "most": 100, "levels": 5},
    "agnostic": {"b": 2, "n": 130, "c": 3, "agnostic": True},
    "agnostic-multi": {"b": 1, "n": 80, "c": 3, "agnostic": True, "multi": True},
    "cut": {"b": 3, "n": 200, "c": 2, "most": 40},
    "cut-to-0": {"b": 1, "n": 20, "c": 2, "most": 0},
    "no-rows": {"b": 2, "n": 20, "c": 2, "max_det": 0},
    "few-rows": {"b": 2, "n": 300, "c": 1, "max_det": 5, "threshold": 0.9},
    "ties": {"b": 2, "n": 120, "c": 3, "levels": 3, "max_det": 40},
    "all-ties": {"b": 1, "n": 60, "c": 2, "levels": 1, "kind": "same", "score": -1.0},
    "every-score": {"b": 1, "n": 70, "c": 2, "score": float("-inf"), "multi": True},
    "nothing": {"b": 2, "n": 50, "c": 2, "score": 1.0},
    "non-finite": {"b": 2, "n": 100, "c": 3, "kind": "bad", "multi": True},
    "degenerate": {"b": 1, "n": 100, "c": 2, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"b": 1, "n": 120, "c": 2, "kind": "lattice", "threshold": 0.5},
    "tiny": {"b": 1, "n": 80, "c": 2, "kind": "tiny"},
    "degrees": {"b": 2, "n": 90, "c": 2, "degrees": True},
}
RUNS = {"runs": {"b": 1, "n": 1100, "c": 2, "multi": True, "score": 0.0, "size": 900.0, "max_det": 600}}
BATCH_CASES = [
    replace(case, batch=((0, 0), (1, 0)))
    for table, forms in ((BATCHES, FORMS), (RUNS, FORMS[::3]))  # runs: the reference takes a second for each
    for case in cases_of(ops.ROTATED_MULTICLASS_NMS, batch, table, forms)
]


@pytest.mark.parametrize(("case", "variant"), presented(CASES), ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(("case", "variant"), presented(BATCH_CASES, ("-prime",)), ids=str)
def test_batch(case, variant):
    check(case, variant)


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in (*CASES, *BATCH_CASES)
        if c.name in ("polygon-greedy-two", "probiou-fast-groups", "probiou-fast-multi")
    ],
    ids=str,
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


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    measure=st.sampled_from(MEASURES),
    semantics=st.sampled_from(SEMANTICS),
    multi=st.booleans(),
    agnostic=st.booleans(),
    levels=st.sampled_from([0, 4]),
)
def test_a_batch_is_one_picture_after_the_other(seed, measure, semantics, multi, agnostic, levels):
    """Each picture by itself is ``rotated_nms`` of its candidates above the threshold, with their classes."""
    boxes, scores, *_ = batch(measure, semantics, 2, 40, 3, levels=levels, seed=seed)
    words = {"measure": measure, "semantics": semantics}
    kept = ops.rotated_multiclass_nms(
        boxes, scores, score_threshold=0.2, iou_threshold=0.3, class_agnostic=agnostic, multi_label=multi, **words
    )
    for b in range(2):
        if multi:
            anchor, label = (a.ravel() for a in np.indices(scores[b].shape))
        else:
            anchor, label = np.arange(40), scores[b].argmax(1)
        score = scores[b][anchor, label]
        above = score > np.float32(0.2)
        anchor, label, score = anchor[above], label[above], score[above]
        keep = ops.rotated_nms(boxes[b, anchor], score, 0.3, idxs=None if agnostic else label, **words)
        n = int(kept.count[b])
        np.testing.assert_array_equal(kept.index[b, :n], anchor[keep])
        np.testing.assert_array_equal(kept.labels[b, :n], label[keep])
        np.testing.assert_array_equal(kept.scores[b, :n], score[keep])
        np.testing.assert_array_equal(kept.boxes[b, :n], boxes[b, anchor[keep]])
        assert (kept.index[b, n:] == -1).all() and (kept.labels[b, n:] == -1).all()
        assert (kept.boxes[b, n:] == 0).all() and (kept.scores[b, n:] == 0).all()


def test_the_batch_form_does_not_wait_and_has_no_gradient():
    boxes, scores = (torch.from_numpy(a) for a in batch("polygon", "greedy", 2, 20, 3)[:2])
    kept = ops.rotated_multiclass_nms(boxes.to("meta"), scores.to("meta"), max_det=9)
    assert [tuple(a.shape) for a in kept] == [(2, 9, 5), (2, 9), (2, 9), (2, 9), (2,)]
    with pytest.raises(ValueError, match="rotated_multiclass_nms: has no gradient"):
        ops.rotated_multiclass_nms(boxes.requires_grad_(), scores)


def test_more_images_than_a_grid_is_high():
    boxes, scores = np.zeros((65_537, 1, 5), np.float32), np.ones((65_537, 1, 1), np.float32)
    kept = ops.rotated_multiclass_nms(boxes + 2, scores, max_det=1)
    assert (kept.count == 1).all() and (kept.boxes == 2).all()


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


BATCH, TABLES = (np.stack([a, a]) for a in (BOXES, np.stack([SCORES] * 3, 1)))
WRONG_BATCH = [
    ((BOXES, TABLES), {}, ValueError, "boxes must have 3 dimensions"),
    ((BATCH[..., :4], TABLES), {}, ValueError, r"rotated_multiclass_nms: boxes must be \(B, N, 5\), got \(2, 6, 4\)"),
    ((BATCH[:, :5].transpose(0, 2, 1)[..., :4], TABLES), {}, ValueError, "did you mean boxes.swapaxes"),
    ((BATCH, TABLES[:, :5]), {}, ValueError, r"scores must be \(B, N, C\) .* got \(2, 5, 3\)"),
    ((BATCH, TABLES), {"iou_threshold": -0.5}, ValueError, r"iou_threshold must lie in \[0, 1\], got -0.5"),
    ((BATCH, TABLES), {"score_threshold": float("nan")}, ValueError, "score_threshold must be a number, got nan"),
    ((BATCH, TABLES), {"max_det": -1}, ValueError, "max_det must be at least 0, got -1"),
    ((BATCH, TABLES), {"max_candidates": -1}, ValueError, "max_candidates must be at least 0, got -1"),
    ((BATCH.astype(np.float64), TABLES), {}, TypeError, "boxes must be float32, .* got float64"),
    ((BATCH, TABLES), {"measure": "iou"}, ValueError, "measure must be one of polygon, probiou, got iou"),
    (
        (BATCH, TABLES),
        {"angle_unit": "turns"},
        ValueError,
        "rotated_multiclass_nms: angle_unit must be radians or degrees",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG_BATCH)
def test_wrong_batches(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.rotated_multiclass_nms(*args, **options)


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.rotated_nms(*args, **options)
