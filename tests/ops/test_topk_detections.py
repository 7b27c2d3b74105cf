# SPDX-License-Identifier: Apache-2.0
"""topk_detections: the case table, and that the selection in two stages chooses the same pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import ops
from fastdet.testing.ops import VARIANTS, Case, check, check_torch


def rows(
    b,
    q,
    c,
    max_det=20,
    threshold=-np.inf,
    cxcywh=True,
    normalized=True,
    sigmoid=True,
    multi_label=True,
    *,
    seed=0,
    ties=0,
    bad=0,
    low=-2.0,
    sizes=False,
):
    rng = np.random.default_rng(seed)
    logits = rng.normal(low, 2, (b, q, c)).astype(np.float32)
    if not sigmoid:
        logits = rng.random((b, q, c), np.float32)
    if ties:
        logits = np.round(logits * ties) / np.float32(ties)
    boxes = rng.uniform(0.1, 0.9, (b, q, 4)).astype(np.float32)
    for i, value in enumerate((np.nan, np.inf, -np.inf, 90.0, -90.0) * bad):
        if logits.size:
            logits.reshape(-1)[(7 * i) % logits.size] = value
            if i % 4 == 3:
                boxes.reshape(-1)[(11 * i) % boxes.size] = np.inf if i % 8 == 3 else np.nan
    image_sizes = rng.integers(50, 900, (b, 2)).astype(np.float32) if sizes else None
    return logits, boxes, image_sizes, 480.0, 640.0, max_det, threshold, cxcywh, normalized, sigmoid, multi_label


def case(name, *args, **kw):
    return Case(name, ops.TOPK_DETECTIONS, lambda: rows(*args, **kw), floats=(0, 1))


CASES = [
    case("queries", 2, 30, 8),
    case("prime", 3, 127, 7, 101),
    case("one", 1, 1, 1, 1),
    case("one-class", 2, 60, 1, 300),
    case("no-images", 0, 10, 3),
    case("no-queries", 2, 0, 3),
    case("no-classes", 2, 10, 0),
    case("nothing", 0, 0, 0),
    case("no-rows", 2, 10, 3, 0),
    case("more-rows-than-pairs", 2, 5, 3, 64),
    case("all-ties", 2, 40, 5, 33, seed=1, ties=1, low=-400.0),
    case("ties", 2, 80, 5, 50, seed=2, ties=1),
    case("saturated", 2, 50, 6, 40, low=25.0),
    case("saturated-best", 2, 50, 6, 40, multi_label=False, low=25.0),
    case("saturated-low", 2, 50, 6, 200, low=-100.0),
    case("threshold", 2, 60, 8, 50, 0.25),
    case("threshold-0", 2, 60, 8, 500, 0.0, low=-90.0),
    case("threshold-1", 2, 60, 8, 50, 1.0, low=20.0),
    case("negative-threshold", 2, 20, 8, 500, -1.0, bad=3),
    case("bad", 2, 60, 4, 100, bad=30),
    case("bad-best", 2, 60, 4, 100, multi_label=False, bad=30),
    case("all-bad", 1, 6, 2, 20, bad=60),
    case("best-class", 2, 60, 9, 30, multi_label=False),
    case("corners", 2, 60, 8, 30, cxcywh=False, normalized=False),
    case("centres-in-pixels", 2, 60, 8, 30, normalized=False),
    case("corners-in-fractions", 2, 60, 8, 30, cxcywh=False),
    case("sizes", 3, 60, 8, 30, sizes=True),
    case("scores", 2, 60, 8, 30, sigmoid=False),
    case("scores-bad", 2, 60, 8, 700, 0.5, sigmoid=False, bad=20),
    case("scores-negative", 2, 30, 8, 30, sigmoid=False, ties=2, multi_label=False),
    case("several-runs", 1, 900, 3, 2500, seed=4),
    case("wide", 1, 9, 365, 40),
    # More than four queries for each row: looked for query by query.
    case("many-queries", 2, 131, 5, 12),
    case("many-queries-ties", 2, 90, 5, 20, seed=1, ties=1),
    case("many-queries-saturated", 1, 90, 5, 20, low=25.0),
    case("many-queries-bad", 2, 90, 4, 20, bad=70),
    case("many-queries-threshold", 2, 90, 4, 20, 0.6),
    case("many-queries-scores", 2, 60, 4, 7, 0.98, sigmoid=False, bad=9),
    case("many-queries-wide", 1, 23, 523, 5),
    case("many-queries-no-classes", 2, 90, 0, 3),
    case("many-queries-no-rows", 2, 90, 4, 0),
    case("one-row", 2, 9, 4, 1, sizes=True),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("queries", "sizes", "no-queries")], ids=str)
def test_torch_library(case):
    check_torch(case)


def two_stages(scores, rows):
    """Anchors by their best class, then pairs among those: scores and (anchor, class), ties by first in each stage."""
    k = min(rows, len(scores))
    anchors = np.argsort(-scores.max(1), kind="stable")[:k]
    best = np.argsort(-scores[anchors].ravel(), kind="stable")[:k]
    columns = scores.shape[1]
    return [(anchors[i // columns], i % columns) for i in best]


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.integers(1, 60),
    c=st.integers(1, 9),
    rows=st.integers(1, 80),
)
def test_two_stages_choose_the_same_pairs(seed, q, c, rows):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(q * c).reshape(1, q, c).astype(np.float32) / np.float32(1024)
    boxes = rng.random((1, q, 4), np.float32)
    kept = ops.topk_detections(scores, boxes, max_det=min(rows, q), sigmoid=False)
    assert list(zip(kept.index[0], kept.labels[0])) == two_stages(scores[0], rows)


def test_cost_of_equal_scores_is_their_order():
    logits = np.full((1, 50, 4), 30.0, np.float32)
    logits[0, ::2] = 40.0  # the same score
    kept = ops.topk_detections(logits, np.zeros((1, 50, 4), np.float32), max_det=10)
    assert kept.index[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert kept.labels[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_equals_dense_decoding():
    logits, boxes, *_ = rows(2, 40, 5)
    head = ops.HeadFormat("cxcywh", image_size=(480, 640))
    kept = ops.topk_detections(logits, boxes, max_det=200, box_format="cxcywh", image_size=(480, 640))
    dense, scores = ops.decode_boxes([logits], [boxes], head)
    for b in range(2):
        np.testing.assert_array_equal(kept.boxes[b], dense[b, kept.index[b]])
        np.testing.assert_array_equal(kept.scores[b], scores[b, kept.index[b], kept.labels[b]])
        assert (np.diff(kept.scores[b]) <= 0).all()


LOGITS, BOXES, *_ = rows(2, 6, 3)
WRONG = [
    ((LOGITS[0], BOXES), {}, ValueError, "logits must have 3 dimensions"),
    ((LOGITS, BOXES[:, :5]), {}, ValueError, r"boxes must be \(B, Q, 4\) .* got \(2, 5, 4\)"),
    ((LOGITS, BOXES[:1]), {}, ValueError, r"boxes must be \(B, Q, 4\)"),
    ((LOGITS, BOXES[..., :3]), {}, ValueError, r"boxes must be \(B, Q, 4\)"),
    ((LOGITS, BOXES[0]), {}, ValueError, "boxes must have 3 dimensions"),
    ((LOGITS.astype(np.float64), BOXES), {}, TypeError, "logits must be float32, float16 or bfloat16, got float64"),
    ((LOGITS, BOXES.astype(np.int32)), {}, TypeError, "boxes must be .* got int32"),
    ((LOGITS, None), {}, TypeError, "boxes must be an array"),
    ((LOGITS.tolist(), BOXES), {}, TypeError, "logits must be an array"),
    ((LOGITS, BOXES), {"max_det": -1}, ValueError, "max_det must be at least 0, got -1"),
    ((LOGITS, BOXES), {"score_threshold": float("nan")}, ValueError, "score_threshold must be a number"),
    ((LOGITS, BOXES), {"box_format": "xywh"}, ValueError, "box_format must be xyxy or cxcywh, got 'xywh'"),
    ((LOGITS, BOXES), {"image_size": 640}, ValueError, r"image_size must be \(height, width\), got 640"),
    ((LOGITS, BOXES), {"image_size": (1, 2, 3)}, ValueError, r"image_size must be \(height, width\)"),
    ((LOGITS, BOXES), {"image_size": np.ones((3, 2), np.float32)}, ValueError, "image_size must be"),
    ((LOGITS, BOXES), {"image_size": np.ones((2, 3), np.float32)}, ValueError, "image_size must be"),
    ((LOGITS, BOXES), {"image_size": np.ones((2, 2))}, TypeError, "image_size must be float32"),
    ((LOGITS, BOXES), {"image_size": np.ones(2, np.float32)}, ValueError, "image_size must have 2 dimensions"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=f"topk_detections: .*{message}"):
        ops.topk_detections(*args, **options)


def test_gradients_are_refused():
    import torch

    logits = torch.from_numpy(LOGITS).requires_grad_()
    with pytest.raises(ValueError, match=r"topk_detections: has no gradient.*detach"):
        ops.topk_detections(logits, torch.from_numpy(BOXES))
