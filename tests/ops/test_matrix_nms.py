# SPDX-License-Identifier: Apache-2.0
"""Matrix NMS: the case table, the published matrix form in float64, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import PICTURES, RESCORED, cases_of, classes, plain, presented

from fastdet import ops
from fastdet.testing.ops import check, check_torch

METHODS = ("linear", "gaussian")


def problem(method, n, sigma=2.0, threshold=0.05, groups=0, dtype=np.int64, **kw):
    boxes, scores = plain(n, **kw)
    idxs = classes(n, groups, dtype=dtype) if groups else None
    return boxes, scores, idxs, method, sigma, threshold


SETTINGS = {
    **PICTURES,
    **RESCORED,
    "block": {"n": 256, "seed": 3, "threshold": 0.0},
    "many": {"n": 700, "seed": 1, "size": 600.0, "threshold": 0.0},
    "runs": {"n": 2100, "seed": 2, "size": 2000.0, "groups": 3},
    "ties": {"n": 300, "ties": 4},
    "all-ties": {"n": 150, "kind": "same", "ties": 1, "threshold": 0.0},
    "same": {"n": 60, "kind": "same", "threshold": 0.0},
    "high-threshold": {"n": 100, "threshold": 0.9},
    "nothing-left": {"n": 50, "threshold": 1.0},
    "degenerate": {"n": 120, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"n": 150, "kind": "lattice"},
    "huge": {"n": 100, "kind": "huge", "threshold": 0.0},
    "sigma-0.1": {"n": 150, "sigma": 0.1},
    "sigma-1e30": {"n": 100, "sigma": 1e30, "threshold": 0.0},
}
CASES = cases_of(ops.MATRIX_NMS, problem, SETTINGS, [(method,) for method in METHODS])


@pytest.mark.parametrize(("case", "variant"), presented(CASES), ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("linear-prime", "gaussian-groups")], ids=str)
def test_torch_library(case):
    check_torch(case)


def published(boxes, scores, idxs, method, sigma):
    """New scores by the pseudo-code of the paper, on full matrices in float64; (N,), in the order of the input."""
    order = np.argsort(-scores, kind="stable")
    iou = ops.box_iou(boxes[order], boxes[order]).astype(np.float64)
    iou = np.triu(iou, 1) * (idxs[order][:, None] == idxs[order])
    most = iou.max(0, initial=0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        gaussian = np.exp(-sigma * (iou**2 - most**2))
        decay = gaussian if method == "gaussian" else (1 - iou) / (1 - most)
    new = np.empty(len(boxes))
    new[order] = scores[order] * np.nanmin(decay, 0)
    return new


@settings(max_examples=60)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(METHODS),
    sigma=st.sampled_from([0.5, 2.0]),
    kind=st.sampled_from(["plain", "lattice", "tiny"]),
)
def test_scores_are_those_of_the_published_form(n, seed, method, sigma, kind):
    boxes, scores = plain(n, seed, kind=kind)
    scores = scores + np.float32(0.01)
    idxs = classes(n, 2, seed)
    want = published(boxes, scores, idxs, method, sigma)
    found = ops.matrix_nms(boxes, scores, idxs=idxs, method=method, sigma=sigma, score_threshold=0.0)
    new = np.zeros(n)
    new[found.index] = found.scores
    np.testing.assert_allclose(new, want, rtol=1e-4, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all() and len(set(found.index)) == len(found.index)


def test_by_hand():
    """Three boxes in a row, each half over the next: IoU 1/3; the third also hears what the second lost itself."""
    boxes = np.array([[0, 0, 20, 10], [10, 0, 30, 10], [20, 0, 40, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    found = ops.matrix_nms(boxes, scores, method="linear")
    assert found.index.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.8 * 2 / 3], rtol=1e-6)
    found = ops.matrix_nms(boxes, scores, sigma=2.0, score_threshold=0.65)
    assert found.index.tolist() == [0, 2]  # the second: 0.8 exp(-2 / 9) = 0.6406
