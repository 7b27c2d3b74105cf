# SPDX-License-Identifier: Apache-2.0
"""NMS: the case table, and the facts that are special to it."""

from __future__ import annotations

import numpy as np
import pytest
from fastdet import ops
from fastdet.testing.ops import VARIANTS, Case, check, check_torch
from hypothesis import given, settings
from hypothesis import strategies as st


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


def multi(b, n, c, seed=0, score=0.25, iou=0.5, max_det=300, max_candidates=30000, agnostic=False, multi_label=False, levels=0):
    rng = np.random.default_rng(seed)
    boxes = np.stack([boxes_and_scores(n, seed + i)[0] for i in range(b)]) if b else np.zeros((0, n, 4), np.float32)
    scores = rng.random((b, n, c)) ** 2
    if levels:
        scores = np.round(scores * levels) / levels
    return boxes, scores.astype(np.float32), score, iou, max_det, max_candidates, agnostic, multi_label


def grouped(n, classes, seed=0, threshold=0.5, dtype=np.int64):
    boxes, scores = boxes_and_scores(n, seed)
    return boxes, scores, (np.random.default_rng(seed).integers(0, classes, n) - 1).astype(dtype) * 10**6, threshold


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
    case("truncated", ops.MULTICLASS_NMS, multi, 2, 700, 5, 1, 0.05, 0.6, 20, 500, multi_label=True),
    case("truncated-ties", ops.MULTICLASS_NMS, multi, 2, 600, 5, 2, 0.05, 0.6, 50, 333, multi_label=True, levels=3),
    case("more-rows-than-boxes", ops.MULTICLASS_NMS, multi, 2, 20, 3, 1, 0.1, 0.5, 64),
    case("agnostic", ops.MULTICLASS_NMS, multi, 2, 300, 4, 1, 0.1, agnostic=True),
    case("agnostic-multi-label", ops.MULTICLASS_NMS, multi, 2, 200, 4, 1, 0.1, agnostic=True, multi_label=True),
    case("level-threshold", ops.MULTICLASS_NMS, multi, 2, 200, 4, 1, 0.25, levels=4, multi_label=True),
    case("negative-threshold", ops.MULTICLASS_NMS, multi, 1, 100, 3, 1, -1.0),
    case("no-rows", ops.MULTICLASS_NMS, multi, 1, 50, 3, 1, 0.1, 0.5, 0),
    case("no-candidates", ops.MULTICLASS_NMS, multi, 1, 50, 3, 1, 0.1, 0.5, 10, 0),
    case("several-runs", ops.MULTICLASS_NMS, multi, 2, 2500, 3, 1, 0.01, 0.7, 300, 5000, multi_label=True),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("prime", "groups", "best-class", "no-boxes")], ids=str)
def test_torch_library(case):
    check_torch(case)
