# SPDX-License-Identifier: Apache-2.0
"""Matrix NMS: the case table, the published matrix form in float64, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import classes, plain

from fastdet import ops
from fastdet.testing.ops import VARIANTS, Case, check, check_torch

METHODS = ("linear", "gaussian")


def problem(n, method, sigma=2.0, threshold=0.05, groups=0, dtype=np.int64, **kw):
    boxes, scores = plain(n, **kw)
    idxs = classes(n, groups, dtype=dtype) if groups else None
    return boxes, scores, idxs, method, sigma, threshold


SETTINGS = {
    "empty": {"n": 0},
    "one": {"n": 1},
    "two": {"n": 2},
    "prime": {"n": 127},
    "block": {"n": 256, "seed": 3, "threshold": 0.0},
    "many": {"n": 700, "seed": 1, "size": 600.0, "threshold": 0.0},
    "runs": {"n": 2100, "seed": 2, "size": 2000.0, "groups": 3},
    "ties": {"n": 300, "ties": 4},
    "all-ties": {"n": 150, "kind": "same", "ties": 1, "threshold": 0.0},
    "same": {"n": 60, "kind": "same", "threshold": 0.0},
    "high-threshold": {"n": 100, "threshold": 0.9},
    "nothing-left": {"n": 50, "threshold": 1.0},
    "non-finite": {"n": 100, "kind": "bad"},
    "degenerate": {"n": 120, "kind": "degenerate", "threshold": 0.0},
    "lattice": {"n": 150, "kind": "lattice"},
    "tiny": {"n": 100, "kind": "tiny"},
    "huge": {"n": 100, "kind": "huge", "threshold": 0.0},
    "far": {"n": 150, "kind": "far"},
    "sigma-0.1": {"n": 150, "sigma": 0.1},
    "sigma-1e30": {"n": 100, "sigma": 1e30, "threshold": 0.0},
    "groups": {"n": 300, "groups": 4},
    "groups-int32": {"n": 150, "groups": 3, "dtype": np.int32, "ties": 3},
    "groups-many": {"n": 200, "groups": 150},
    "groups-empty": {"n": 0, "groups": 3},
}
CASES = [
    Case(
        f"{method}-{name}",
        ops.MATRIX_NMS,
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


@settings(max_examples=40)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS))
def test_result_does_not_depend_on_input_order(n, seed, method):
    boxes, _ = plain(n, seed)
    scores = (1 + np.random.default_rng(seed).permutation(n)).astype(np.float32)  # no ties
    shuffle = np.random.default_rng(seed + 1).permutation(n)
    ours = ops.matrix_nms(boxes, scores, method=method)
    theirs = ops.matrix_nms(boxes[shuffle], scores[shuffle], method=method)
    np.testing.assert_array_equal(np.sort(ours.scores), np.sort(theirs.scores))
    new = dict(zip(ours.index.tolist(), ours.scores.tolist()))
    assert new == dict(zip(shuffle[theirs.index].tolist(), theirs.scores.tolist()))


@pytest.mark.parametrize("method", METHODS)
def test_classes_do_not_change_one_another(method):
    boxes, scores = plain(200, seed=8)
    idxs = classes(200, 7)
    found = ops.matrix_nms(boxes, scores, idxs=idxs, method=method)
    new = dict(zip(found.index.tolist(), found.scores.tolist()))
    alone = {}
    for c in np.unique(idxs):
        members = np.flatnonzero(idxs == c)
        part = ops.matrix_nms(boxes[members], scores[members], method=method)
        alone.update(zip(members[part.index].tolist(), part.scores.tolist()))
    assert new == alone


def test_by_hand():
    """Three boxes in a row, each half over the next: IoU 1/3; the third also hears what the second lost itself."""
    boxes = np.array([[0, 0, 20, 10], [10, 0, 30, 10], [20, 0, 40, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    found = ops.matrix_nms(boxes, scores, method="linear")
    assert found.index.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.8 * 2 / 3], rtol=1e-6)
    found = ops.matrix_nms(boxes, scores, sigma=2.0, score_threshold=0.65)
    assert found.index.tolist() == [0, 2]  # the second: 0.8 exp(-2 / 9) = 0.6406


def test_gradients_are_refused():
    import torch

    boxes, scores = (torch.from_numpy(a) for a in plain(5))
    with pytest.raises(ValueError, match="matrix_nms"):
        ops.matrix_nms(boxes, scores.requires_grad_())


BOXES, SCORES = plain(6)
WRONG = [
    ((BOXES[:, :3], SCORES), {}, ValueError, r"matrix_nms: boxes must be \(N, 4\), got \(6, 3\)"),
    ((BOXES[0], SCORES), {}, ValueError, "boxes must have 2 dimensions"),
    ((BOXES, SCORES[:5]), {}, ValueError, r"scores must be \(N,\) .* got \(5,\)"),
    ((BOXES, SCORES), {"sigma": 0.0}, ValueError, r"sigma must lie in \[1e-30, 1e30\], got 0"),
    ((BOXES, SCORES), {"sigma": float("nan")}, ValueError, "sigma must lie"),
    ((BOXES, SCORES), {"score_threshold": -0.1}, ValueError, "score_threshold must not be negative, got -0.1"),
    ((BOXES, SCORES), {"score_threshold": float("nan")}, ValueError, "score_threshold must not be negative"),
    ((BOXES.astype(np.float64), SCORES), {}, TypeError, "boxes must be float32, .* got float64"),
    ((BOXES, SCORES), {"idxs": SCORES}, TypeError, "idxs must be int64 or int32"),
    ((BOXES, SCORES), {"idxs": np.zeros(5, np.int64)}, ValueError, r"idxs must be \(N,\)"),
    ((BOXES, SCORES), {"method": "hard"}, ValueError, "method must be one of linear, gaussian, got hard"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.matrix_nms(*args, **options)
