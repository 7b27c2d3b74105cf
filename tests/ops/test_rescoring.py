# SPDX-License-Identifier: Apache-2.0
"""What soft_nms and matrix_nms have in common: classes, input order, gradients, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import classes, plain

from fastdet import ops

OPERATORS = [(function, method) for function in (ops.soft_nms, ops.matrix_nms) for method in ("linear", "gaussian")]
each = pytest.mark.parametrize(("function", "method"), OPERATORS, ids=lambda a: getattr(a, "__name__", a))


def new_scores(function, boxes, scores, members=None, **options):
    """{index: new score}; ``members``: of these boxes alone."""
    chosen = np.arange(len(boxes)) if members is None else members
    found = function(boxes[chosen], scores[chosen], **options)
    assert (np.diff(found.scores) <= 0).all() and len(set(found.index.tolist())) == len(found.index)
    return dict(zip(chosen[found.index].tolist(), found.scores.tolist()))


@each
def test_classes_do_not_change_one_another(function, method):
    boxes, scores = plain(200, seed=8)
    idxs = classes(200, 7)
    alone = {}
    for c in np.unique(idxs):
        alone.update(new_scores(function, boxes, scores, np.flatnonzero(idxs == c), method=method))
    assert new_scores(function, boxes, scores, method=method, idxs=idxs) == alone


@each
@settings(max_examples=20)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_result_does_not_depend_on_input_order(function, method, n, seed):
    boxes, scores = plain(n, seed)
    shuffle = np.random.default_rng(seed + 1).permutation(n)
    assert new_scores(function, boxes, scores, method=method) == new_scores(
        function, boxes, scores, shuffle, method=method
    )


@each
def test_gradients_are_refused(function, method):
    boxes, scores = (torch.from_numpy(a) for a in plain(5))
    with pytest.raises(ValueError, match=f"{function.__name__}: has no gradient"):
        function(boxes, scores.requires_grad_(), method=method)


BOXES, SCORES = plain(6)
WRONG = [
    ((BOXES[:, :3], SCORES), {}, ValueError, r"boxes must be \(N, 4\), got \(6, 3\)"),
    ((BOXES[0], SCORES), {}, ValueError, "boxes must have 2 dimensions"),
    ((BOXES, SCORES[:5]), {}, ValueError, r"scores must be \(N,\) .* got \(5,\)"),
    ((BOXES, SCORES), {"sigma": 0.0}, ValueError, r"sigma must lie in \[1e-30, 1e30\], got 0"),
    ((BOXES, SCORES), {"sigma": float("nan")}, ValueError, "sigma must lie"),
    ((BOXES, SCORES), {"score_threshold": -0.1}, ValueError, "score_threshold must not be negative, got -0.1"),
    ((BOXES, SCORES), {"score_threshold": float("nan")}, ValueError, "score_threshold must not be negative"),
    ((BOXES, SCORES), {"method": "hard"}, ValueError, "method must be one of linear, gaussian, got hard"),
    ((BOXES.astype(np.float64), SCORES), {}, TypeError, "boxes must be float32, .* got float64"),
    ((BOXES, SCORES), {"idxs": SCORES}, TypeError, "idxs must be int64 or int32"),
    ((BOXES, SCORES), {"idxs": np.zeros(5, np.int64)}, ValueError, r"idxs must be \(N,\)"),
]


@pytest.mark.parametrize("function", [ops.soft_nms, ops.matrix_nms], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(function, args, options, error, message):
    with pytest.raises(error, match=f"{function.__name__}: {message}"):
        function(*args, **options)
