# SPDX-License-Identifier: Apache-2.0
"""NMS: the case table, and the facts that are special to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastdet import ops
from fastdet.testing import run_vector, shared_dir
from fastdet.testing.ops import VARIANTS, Case, check, check_torch


def boxes_and_scores(n, seed=0, size=400.0, ties=0, dtype=np.float32):
    """Boxes in clusters, so that about half overlap; ``ties`` rounds scores to that many levels."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, size, (max(1, n // 4), 2))[rng.integers(0, max(1, n // 4), n)] + rng.normal(0, 4, (n, 2))
    half = rng.uniform(4, 40, (n, 2))
    scores = rng.random(n)
    if ties:
        scores = np.round(scores * ties) / ties
    return np.concatenate([centre - half, centre + half], 1).astype(dtype), scores.astype(dtype)


def single(n, seed=0, threshold=0.5, ties=0, **kw):
    boxes, scores = boxes_and_scores(n, seed, ties=ties)
    for fault, value in kw.items():
        if fault == "bad":  # non-finite values, one kind after another
            for i, v in enumerate((np.nan, np.inf, -np.inf) * value):
                (boxes if i % 2 else scores.reshape(-1, 1))[(7 * i) % n, i % (4 if i % 2 else 1)] = v
        elif fault == "degenerate":
            boxes[::5, 2:] = boxes[::5, :2]
            boxes[1::5] = boxes[1::5][:, [2, 3, 0, 1]]
        elif fault == "same":
            boxes[:] = boxes[:1]
        elif fault == "far":
            boxes += value
    return boxes, scores, threshold


def multi(
    b, n, c, seed=0, score=0.25, iou=0.5, max_det=300, max_candidates=30000, agnostic=False, multi_label=False, levels=0
):
    rng = np.random.default_rng(seed)
    boxes = np.stack([boxes_and_scores(n, seed + i)[0] for i in range(b)]) if b else np.zeros((0, n, 4), np.float32)
    scores = rng.random((b, n, c)) ** 2
    if levels:
        scores = np.round(scores * levels) / levels
    return boxes, scores.astype(np.float32), score, iou, max_det, max_candidates, agnostic, multi_label


def grouped(n, classes, seed=0, threshold=0.5, dtype=np.int64):
    boxes, scores = boxes_and_scores(n, seed)
    return boxes, scores, (np.random.default_rng(seed).integers(0, classes, n) - 1).astype(dtype) * 10**6, threshold


def by_diou(make, *args, **kw):
    return *make(*args, **kw), "diou"


def case(name, op, make, *args, **kw):
    return Case(name, op, lambda: make(*args, **kw), floats=(0, 1))


CASES = [
    case("empty", ops.NMS, single, 0),
    case("one", ops.NMS, single, 1),
    case("two", ops.NMS, single, 2),
    case("prime", ops.NMS, single, 127),
    case("chunk", ops.NMS, single, 128, 3, 0.3),
    case("many", ops.NMS, single, 3001, 1, 0.6),
    case("ties", ops.NMS, single, 500, 2, 0.5, 4),
    case("all-ties", ops.NMS, single, 300, 2, 0.5, 1, same=True),
    case("threshold-0", ops.NMS, single, 200, 4, 0.0),
    case("threshold-1", ops.NMS, single, 200, 4, 1.0),
    case("non-finite", ops.NMS, single, 200, 5, 0.5, bad=6),
    case("degenerate", ops.NMS, single, 200, 6, 0.4, degenerate=True),
    case("far", ops.NMS, single, 200, 7, 0.5, far=1e7),
    case("groups-empty", ops.BATCHED_NMS, grouped, 0, 3),
    case("groups", ops.BATCHED_NMS, grouped, 700, 5),
    case("groups-int32", ops.BATCHED_NMS, grouped, 300, 3, 1, 0.3, np.int32),
    case("groups-many", ops.BATCHED_NMS, grouped, 500, 400),
    case("batch-0", ops.MULTICLASS_NMS, multi, 0, 10, 3),
    case("no-boxes", ops.MULTICLASS_NMS, multi, 2, 0, 3),
    case("no-classes", ops.MULTICLASS_NMS, multi, 2, 10, 0),
    case("one-class", ops.MULTICLASS_NMS, multi, 2, 300, 1),
    case("best-class", ops.MULTICLASS_NMS, multi, 3, 331, 7),
    case("best-class-wide", ops.MULTICLASS_NMS, multi, 1, 150, 80, 3, 0.9),
    case("multi-label", ops.MULTICLASS_NMS, multi, 2, 311, 6, 1, 0.05, multi_label=True),
    case("multi-label-wide", ops.MULTICLASS_NMS, multi, 2, 41, 131, 1, 0.6, multi_label=True),
    case("best-class-wider", ops.MULTICLASS_NMS, multi, 2, 70, 131, 4, 0.5, levels=40),
    case("truncated", ops.MULTICLASS_NMS, multi, 2, 700, 5, 1, 0.05, 0.6, 20, 500, multi_label=True),
    case("truncated-ties", ops.MULTICLASS_NMS, multi, 2, 600, 5, 2, 0.05, 0.6, 50, 333, multi_label=True, levels=3),
    case("more-rows-than-boxes", ops.MULTICLASS_NMS, multi, 2, 20, 3, 1, 0.1, 0.5, 64),
    case("agnostic", ops.MULTICLASS_NMS, multi, 2, 300, 4, 1, 0.1, agnostic=True),
    case("agnostic-multi-label", ops.MULTICLASS_NMS, multi, 2, 200, 4, 1, 0.1, agnostic=True, multi_label=True),
    case("level-threshold", ops.MULTICLASS_NMS, multi, 2, 200, 4, 1, 0.25, levels=4, multi_label=True),
    case("negative-threshold", ops.MULTICLASS_NMS, multi, 1, 100, 3, 1, -1.0),
    case("no-rows", ops.MULTICLASS_NMS, multi, 1, 50, 3, 1, 0.1, 0.5, 0),
    case("no-candidates", ops.MULTICLASS_NMS, multi, 1, 50, 3, 1, 0.1, 0.5, 10, 0),
    case("diou", ops.NMS, by_diou, single, 300, 1, 0.3),
    case("diou-0", ops.NMS, by_diou, single, 127, 2, 0.0),
    case("diou-ties", ops.NMS, by_diou, single, 200, 2, 0.5, 4),
    case("diou-degenerate", ops.NMS, by_diou, single, 150, 6, 0.2, degenerate=True),
    case("diou-same", ops.NMS, by_diou, single, 100, 2, 0.99, 1, same=True),
    case("diou-non-finite", ops.NMS, by_diou, single, 150, 5, 0.4, bad=6),
    case("diou-groups", ops.BATCHED_NMS, by_diou, grouped, 400, 5, 1, 0.3),
    case("diou-best-class", ops.MULTICLASS_NMS, by_diou, multi, 3, 231, 7),
    case("diou-multi-label", ops.MULTICLASS_NMS, by_diou, multi, 2, 211, 6, 1, 0.05, multi_label=True),
    case("diou-agnostic", ops.MULTICLASS_NMS, by_diou, multi, 2, 200, 4, 1, 0.1, agnostic=True),
    case("several-runs", ops.MULTICLASS_NMS, multi, 2, 2500, 3, 1, 0.01, 0.7, 300, 5000, multi_label=True),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in ("prime", "groups", "best-class", "no-boxes", "diou-groups")], ids=str
)
def test_torch_library(case):
    check_torch(case)


def test_shared_vectors():
    folder = shared_dir()
    if folder is None:
        pytest.skip("the shared parity data is not beside this checkout")
    arrays = dict(np.load(folder / "parity" / "assign" / "nms.npz"))
    got = run_vector("nms", {k: v for k, v in arrays.items() if k.endswith(("/pred", "/args"))})
    for key, want in arrays.items():
        # offset: the reference shifts coordinates and loses bits; exact_anchor is what exact arithmetic keeps.
        if key.endswith(("/pred", "/args")) or key in ("offset/count", "offset/anchor", "offset/rows"):
            continue
        np.testing.assert_allclose(got[key], want, rtol=0, atol=0 if want.dtype.kind == "i" else 1e-4, err_msg=key)


def finite(boxes, scores):
    """Numbers of the boxes that take part."""
    return np.flatnonzero(np.isfinite(boxes).all(1) & np.isfinite(scores))


@settings(max_examples=200)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    bad=st.lists(
        st.tuples(st.integers(0, 59), st.integers(0, 4), st.sampled_from([np.nan, np.inf, -np.inf])), max_size=5
    ),
)
def test_a_bad_box_changes_nobodys_fate(n, seed, bad):
    boxes, scores = boxes_and_scores(n, seed)
    for i, column, value in bad:
        (boxes if column < 4 else scores.reshape(-1, 1))[i % n, column % 4 if column < 4 else 0] = value
    good = finite(boxes, scores)
    np.testing.assert_array_equal(ops.nms(boxes, scores, 0.5), good[ops.nms(boxes[good], scores[good], 0.5)])


@settings(max_examples=200)
@given(n=st.integers(1, 80), seed=st.integers(0, 2**32 - 1), threshold=st.floats(0, 1))
def test_keep_set_does_not_depend_on_input_order(n, seed, threshold):
    boxes, scores = boxes_and_scores(n, seed)
    scores = np.random.default_rng(seed).permutation(n).astype(np.float32)  # no ties
    shuffle = np.random.default_rng(seed + 1).permutation(n)
    np.testing.assert_array_equal(
        shuffle[ops.nms(boxes[shuffle], scores[shuffle], threshold)], ops.nms(boxes, scores, threshold)
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), multi_label=st.booleans(), agnostic=st.booleans(), levels=st.sampled_from([0, 3])
)
def test_batch_equals_loop(seed, multi_label, agnostic, levels):
    boxes, scores, *rest = multi(
        3, 70, 4, seed, 0.1, max_det=40, agnostic=agnostic, multi_label=multi_label, levels=levels
    )
    names = ("score_threshold", "iou_threshold", "max_det", "max_candidates", "class_agnostic", "multi_label")
    arguments = dict(zip(names, rest))
    batch = ops.multiclass_nms(boxes, scores, **arguments)
    for b in range(3):
        alone = ops.multiclass_nms(boxes[b : b + 1], scores[b : b + 1], **arguments)
        for whole, part in zip(batch, alone):
            np.testing.assert_array_equal(whole[b], part[0])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 20))
def test_batched_is_nms_in_each_class(seed, classes):
    boxes, scores, idxs, threshold = grouped(90, classes, seed)
    expected = np.concatenate(
        [np.flatnonzero(idxs == c)[ops.nms(boxes[idxs == c], scores[idxs == c], threshold)] for c in np.unique(idxs)]
    )
    expected = expected[np.lexsort((expected, -scores[expected]))]
    np.testing.assert_array_equal(ops.batched_nms(boxes, scores, idxs, threshold), expected)


@pytest.mark.parametrize("k", range(1, 10))
def test_threshold_equality_is_decided_on_the_float32_quotient(k):
    """Two boxes with IoU k/10: dropped exactly when the float32 quotient is greater than the threshold as a double."""
    boxes = np.array([[0, 0, 10, 1], [0, 0, k, 1]], np.float32)
    dropped = len(ops.nms(boxes, np.array([1.0, 0.5], np.float32), k / 10)) == 1
    assert dropped == (float(np.float32(k) / np.float32(10)) > k / 10)


@settings(max_examples=300)
@given(p=st.integers(1, 400), q=st.integers(1, 400))
def test_threshold_equality_of_rationals(p, q):
    p, q = sorted((p, q))
    boxes = np.array([[0, 0, q, 1], [0, 0, p, 1]], np.float32)
    dropped = len(ops.nms(boxes, np.array([1.0, 0.5], np.float32), p / q)) == 1
    assert dropped == (float(np.float32(p) / np.float32(q)) > p / q)


def test_a_million_boxes():
    """64-bit sizes, memory that grows with N: an N x N mask would hold 10^12 bits."""
    rng = np.random.default_rng(0)
    cell = rng.integers(0, 300, 10**6)
    corner = np.stack([cell % 20 * 100, cell // 20 * 100], 1) + rng.uniform(0, 5, (10**6, 2))
    boxes = np.concatenate([corner, corner + 60], 1).astype(np.float32)
    scores = rng.random(10**6, np.float32)
    keep = ops.nms(boxes, scores, 0.3)
    assert sorted(cell[keep]) == list(range(300))
    for c in (0, 137, 299):
        assert scores[keep][cell[keep] == c] == scores[cell == c].max()


@pytest.mark.parametrize("n", [2 * 10**4])
def test_all_equal_scores_keep_input_order(n):
    corner = np.arange(n, dtype=np.float32)[:, None] * np.array([[10, 0]], np.float32)
    boxes = np.concatenate([corner, corner + 5], 1)
    np.testing.assert_array_equal(ops.nms(boxes, np.full(n, 0.5, np.float32), 0.5), np.arange(n))


def test_far_apart_classes_and_coordinates():
    """What a class offset destroys: half precision boxes of 80 classes, and coordinates around 10^7."""
    boxes, scores, idxs, threshold = grouped(400, 80)
    half = boxes.astype(np.float16)
    by_class = ops.batched_nms(half, scores, idxs, threshold)
    np.testing.assert_array_equal(by_class, ops.batched_nms(half.astype(np.float32), scores, idxs, threshold))
    far = (boxes + 1e7).astype(np.float32)
    np.testing.assert_array_equal(
        ops.batched_nms(far, scores, idxs, threshold), ops.batched_nms((far - np.float32(1e7)), scores, idxs, threshold)
    )


@settings(max_examples=60)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1), threshold=st.floats(0, 0.9))
def test_diou_is_that_of_distance_box_iou(n, seed, threshold):
    boxes, scores = boxes_and_scores(n, seed)
    boxes, scores = boxes[np.argsort(-scores)], np.sort(scores)[::-1]
    pairs = ops.distance_box_iou(boxes, boxes)
    assume(np.abs(pairs - threshold).min() > 1e-5)  # distance_box_iou adds eps where torchvision does
    kept = []
    for i in range(n):
        if not any(pairs[k, i] > threshold for k in kept):
            kept.append(i)
    assert ops.nms(boxes, scores.copy(), threshold, measure="diou").tolist() == kept


BOXES, SCORES = boxes_and_scores(6)
BATCH = np.stack([BOXES] * 2)
TABLE = np.random.default_rng(0).random((2, 6, 3)).astype(np.float32)
WRONG = [
    ("nms", (BOXES[:, :3], SCORES, 0.5), ValueError, r"nms: boxes must be \(N, 4\), got \(6, 3\)"),
    ("nms", (BOXES.T, SCORES[:4], 0.5), ValueError, r"boxes must be \(N, 4\), got \(4, 6\); did you mean"),
    ("nms", (BOXES[0], SCORES, 0.5), ValueError, r"boxes must have 2 dimensions, got \(4,\)"),
    ("nms", (BATCH, SCORES, 0.5), ValueError, "boxes must have 2 dimensions"),
    ("nms", (BOXES, SCORES[:5], 0.5), ValueError, r"scores must be \(N,\) .* got \(5,\)"),
    ("nms", (BOXES, TABLE[0], 0.5), ValueError, "scores must have 1 dimensions"),
    (
        "nms",
        (BOXES.astype(np.float64), SCORES, 0.5),
        TypeError,
        "boxes must be float32, float16 or bfloat16, got float64",
    ),
    ("nms", (BOXES.astype(np.int32), SCORES, 0.5), TypeError, "boxes must be .* got int32"),
    ("nms", (BOXES, SCORES.astype(np.int64), 0.5), TypeError, "scores must be .* got int64"),
    ("nms", (BOXES, SCORES.astype(">f4"), 0.5), TypeError, "scores must be of .*, got >f4"),
    ("nms", (BOXES.astype(complex), SCORES, 0.5), TypeError, "boxes must be of .*, got complex128"),
    ("nms", (BOXES.tolist(), SCORES, 0.5), TypeError, "boxes must be an array .* got list"),
    ("nms", (BOXES, None, 0.5), TypeError, "scores must be an array .* got NoneType"),
    ("nms", (BOXES, SCORES, -0.1), ValueError, r"iou_threshold must lie in \[0, 1\], got -0.1"),
    ("nms", (BOXES, SCORES, 1.5), ValueError, r"iou_threshold must lie in \[0, 1\]"),
    ("nms", (BOXES, SCORES, float("nan")), ValueError, r"iou_threshold must lie in \[0, 1\], got nan"),
    ("nms", (BOXES, SCORES, "half"), TypeError, "iou_threshold must be a number"),
    ("batched_nms", (BOXES, SCORES, SCORES, 0.5), TypeError, "idxs must be int64 or int32, got float32"),
    ("batched_nms", (BOXES, SCORES, np.zeros(5, np.int64), 0.5), ValueError, r"idxs must be \(N,\) .* got \(5,\)"),
    ("batched_nms", (BOXES, SCORES, np.zeros((6, 1), np.int64), 0.5), ValueError, "idxs must have 1 dimensions"),
    ("batched_nms", (BOXES[:, :2], SCORES, np.zeros(6, np.int64), 0.5), ValueError, "batched_nms: boxes must be"),
    ("multiclass_nms", (BOXES, TABLE), ValueError, "boxes must have 3 dimensions"),
    ("multiclass_nms", (BATCH, TABLE[0]), ValueError, "scores must have 3 dimensions"),
    ("multiclass_nms", (BATCH, TABLE[:, :5]), ValueError, r"scores must be \(B, N, C\) .* got \(2, 5, 3\)"),
    ("multiclass_nms", (BATCH, TABLE[:1]), ValueError, r"scores must be \(B, N, C\)"),
    ("multiclass_nms", (BATCH.transpose(0, 2, 1), TABLE[:, :4]), ValueError, "did you mean boxes.swapaxes"),
    ("multiclass_nms", (BATCH.astype(np.float64), TABLE), TypeError, "boxes must be float32"),
    ("multiclass_nms", (BATCH, TABLE > 0.5), TypeError, "scores must be .* got bool"),
]
WRONG_OPTIONS = [
    ({"max_det": -1}, "max_det must be at least 0, got -1"),
    ({"max_candidates": -5}, "max_candidates must be at least 0, got -5"),
    ({"score_threshold": float("nan")}, "score_threshold must be a number, got nan"),
    ({"measure": "giou"}, "measure must be one of iou, diou, got giou"),
    ({"iou_threshold": 2}, r"iou_threshold must lie in \[0, 1\], got 2"),
]


@pytest.mark.parametrize(("name", "args", "error", "message"), WRONG)
def test_wrong_arguments(name, args, error, message):
    with pytest.raises(error, match=message):
        getattr(ops, name)(*args)


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ops.multiclass_nms(BATCH, TABLE, **options)


def test_gradients():
    """Indices need none; detections would lose theirs silently, so that is refused."""
    import torch

    boxes, scores = torch.from_numpy(BATCH).requires_grad_(), torch.from_numpy(TABLE)
    assert ops.nms(boxes[0], scores[0, :, 0], 0.5).dtype == torch.int64
    with pytest.raises(ValueError, match=r"multiclass_nms: has no gradient.*detach"):
        ops.multiclass_nms(boxes, scores)
    with torch.no_grad():
        assert ops.multiclass_nms(boxes, scores).boxes.shape == (2, 300, 4)


def test_more_images_than_a_grid_is_high():
    boxes, scores = np.repeat(BATCH[:1], 70000, 0), np.repeat(TABLE[:1], 70000, 0)
    kept = ops.multiclass_nms(boxes, scores, max_det=2)
    assert (kept.count == kept.count[0]).all() and (kept.index == kept.index[0]).all()
