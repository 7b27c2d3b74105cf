# SPDX-License-Identifier: Apache-2.0
"""Precision and recall over the score, and which class is taken for which."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from fastdet.data.dataset import distinct
from fastdet.evaluation.ground_truth import GroundTruth
from fastdet.evaluation.matching import match
from fastdet.evaluation.metrics import AREAS
from fastdet.evaluation.prediction import Rows


@dataclass(frozen=True, eq=False)
class Curve:
    """What one class reaches when detections below a score are dropped, for each of its N different scores.

    Args:
        scores: [N] falling. precision, recall, f1: [N] in [0, 1], of the detections that score as much or more.
        truths: ground truths that count.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    truths: int

    @property
    def best_score(self) -> float:
        """The score threshold with the highest F1 (the highest of equal ones); 1 where nothing was found."""
        return float(self.scores[np.argmax(self.f1)]) if len(self.f1) else 1.0

    @property
    def best_f1(self) -> float:
        """F1 there."""
        return float(self.f1.max(initial=0.0))


def curves(truth: GroundTruth, rows: Rows, *, iou_threshold: float = 0.5) -> dict[str, Curve]:
    """Curve of each class, and of all detections together under the name ``"all"``, first.

    Matches are COCO's at ``iou_threshold``; detections that found a crowd are left out.
    """
    found = match(truth, rows, thresholds=[iou_threshold])
    counts = (found.ignored[0] & 1) == 0
    label, score, right = (
        column[counts] for column in (rows.label[found.row], rows.score[found.row], found.partner >= 0)
    )
    truths = truth.counts(AREAS[:1])[:, 0]
    result = {"all": _curve(score, right, int(truths.sum()))}
    for k, name in enumerate(distinct(truth.names, taken=tuple(result))):
        mine = label == k
        result[name] = _curve(score[mine], right[mine], int(truths[k]))
    return result


def _curve(score: np.ndarray, right: np.ndarray, truths: int) -> Curve:
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.zeros(0, np.int64)
    hits = hits[last]
    precision, recall = hits / (last + 1), hits / max(truths, 1)
    f1 = 2 * hits / (last + 1 + truths)
    return Curve(score[last], precision, recall, f1, truths)


def confusion_matrix(
    truth: GroundTruth, rows: Rows, *, score_threshold: float = 0.25, iou_threshold: float = 0.5
) -> np.ndarray:
    """Which class is taken for which: [K + 1, K + 1] int64, rows are the truth, columns what was found.

    Detections from ``score_threshold`` on take, best first and whatever their class, the free ground truth of their
    picture that they overlap most, from ``iou_threshold`` on. The last column counts ground truths that nothing
    found, the last row detections of nothing. Crowds count on neither side.
    """
    kept = rows.score >= score_threshold
    rows = Rows(*(column[kept] for column in rows))
    one = dataclasses.replace(truth, label=np.zeros_like(truth.label))
    blind = rows._replace(label=np.zeros_like(rows.label))
    found = match(one, blind, thresholds=[iou_threshold], most=max(len(rows.score), 1))
    counts = (found.ignored[0] & 1) == 0
    partner, label = found.partner[counts], rows.label[found.row][counts]
    classes = len(truth.names)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(matrix, (np.append(truth.label, classes)[partner], label), 1)
    free = truth.counting(AREAS[:1])[0]
    free[partner[partner >= 0]] = False
    matrix[:classes, classes] = np.bincount(truth.label[free], minlength=classes)
    return matrix
