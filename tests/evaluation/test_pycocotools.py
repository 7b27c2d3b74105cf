# SPDX-License-Identifier: Apache-2.0
"""Equality with pycocotools, array by array, bit by bit; ``FASTDET_EVALUATION_CASES`` sets how many cases are drawn."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from coco_cases import pycocotools_run, random_case

from fastdet.evaluation import Evaluator, evaluate

CASES = int(os.environ.get("FASTDET_EVALUATION_CASES", 10_000))
PARTS = 40
TWELVE = "ap ap50 ap75 ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large".split()


@pytest.mark.parametrize("part", range(PARTS))
def test_arrays_are_those_of_pycocotools(part):
    for seed in range(part, CASES, PARTS):
        truth, detections = random_case(seed)
        got, run = evaluate(detections, truth), pycocotools_run(truth, detections)
        for name in ("precision", "recall", "scores"):
            assert getattr(got, name).tobytes() == run.eval[name].tobytes(), f"{name} of case {seed}"
        assert [getattr(got, name) for name in TWELVE] == run.stats.tolist(), f"case {seed}"


def test_cases_are_worth_it():
    """The cases hold what they promise, and most of them measure something."""
    drawn = [random_case(seed) for seed in range(400)]
    assert sum(truth.crowd.any() for truth, _ in drawn) > 50
    assert sum((truth.boxes[:, 2:] <= 0).any() for truth, _ in drawn) > 50
    assert sum(max([0, *(len(each.scores) for each in found.values())]) > 100 for _, found in drawn) > 10
    assert sum(len(truth.picture) == 0 for truth, _ in drawn) > 10
    aps = np.array([evaluate(found, truth).ap for truth, found in drawn])
    assert (aps > 0).mean() > 0.5 and (aps == -1).any() and (aps == 0).any()


@pytest.mark.parametrize("seed", range(20))
def test_parts_merge_to_the_whole(seed):
    """Order of pictures and of parts changes nothing, not even among equal scores."""
    truth, detections = random_case(seed)
    whole = evaluate(detections, truth)
    parts = [Evaluator(truth) for _ in range(3)]
    for k, (identity, each) in enumerate(reversed(detections.items())):
        parts[k % 3].add({identity: each})
    total = Evaluator(truth)
    for part in parts[::-1]:
        total.merge(part.state())
    merged = total.metrics()
    assert merged == whole
    assert merged.precision.tobytes() == whole.precision.tobytes() and merged.scores.tobytes() == whole.scores.tobytes()
    if detections:
        with pytest.raises(ValueError, match="must be added once, got it twice"):
            total.merge(parts[0].state())
        assert total.metrics() == whole
