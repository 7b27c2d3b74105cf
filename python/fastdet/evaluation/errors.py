# SPDX-License-Identifier: Apache-2.0
"""What keeps AP50 from 1, split by kind of error in the manner of TIDE (Bolya et al., arXiv 2008.08115)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastdet import _core
from fastdet.evaluation.ground_truth import GroundTruth
from fastdet.evaluation.matching import match
from fastdet.evaluation.metrics import AREAS, MOST, RECALLS
from fastdet.evaluation.prediction import Rows

KINDS = {
    "localization": "right class, overlap too small",
    "class": "overlaps an object of another class",
    "duplicate": "the object was already found with a higher score",
    "background": "overlaps nothing",
    "both": "another class, and overlap too small",
    "missed": "objects that nothing found, not even with one of the errors localization and class",
}


@dataclass(frozen=True)
class ErrorSplit:
    """AP50 and what it would gain if one kind of error did not exist; the gains need not add up to 1 - AP50.

    Args:
        ap50: as it is. gain: kind -> AP50 without such errors, less ``ap50``. count: kind -> how many there are.
    """

    ap50: float
    gain: dict[str, float]
    count: dict[str, int]


def error_split(
    truth: GroundTruth, rows: Rows, *, iou_threshold: float = 0.5, background_threshold: float = 0.1
) -> ErrorSplit:
    """Split the errors at ``iou_threshold``.

    A detection without a ground truth is, by its largest overlaps with those of its own class (o) and of others (x):
    localization where o lies from ``background_threshold`` to ``iou_threshold``, else class where x reaches
    ``iou_threshold``, else duplicate where o does, else background where neither reaches ``background_threshold``, else
    both. Without an error of localization or class, the detection is right if nothing else found that ground truth,
    else it does not exist; a missed ground truth without its error does not count.
    """
    found = match(truth, rows, thresholds=[iou_threshold])
    counts = (found.ignored[0] & 1) == 0
    partner, rows = found.partner[counts], Rows(*(column[found.row[counts]] for column in rows))
    columns = _core.EvaluationColumns(rows.picture, rows.label, rows.box, rows.score)
    own, own_iou, other, other_iou = _core.evaluation_nearest(
        truth.columns, truth.crowd, columns, len(truth.image_ids), len(truth.names)
    )
    wrong = partner < 0
    low, high = background_threshold, iou_threshold
    conditions = {
        "localization": (own_iou >= low) & (own_iou < high),
        "class": other_iou >= high,
        "duplicate": own_iou >= high,
        "background": np.maximum(own_iou, other_iou) < low,
        "both": np.ones(len(wrong), bool),
    }
    chosen = np.select([wrong & each for each in conditions.values()], range(len(conditions)), -1)
    kinds = {name: chosen == i for i, name in enumerate(conditions)}

    truths = truth.counts(AREAS[:1])[:, 0]
    free = np.append(
        truth.counting(AREAS[:1])[0], False
    )  # the last for detections without a nearest ground truth, whose row is -1
    free[partner[~wrong]] = False
    missed = free.copy()
    for kind, nearest in (("localization", own), ("class", other)):
        missed[nearest[kinds[kind]]] = False
    missed = missed[:-1]
    ap50 = _ap(rows.label, rows.score, ~wrong, truths)
    gain = {}
    for kind, mine in kinds.items():
        label, right, exists = rows.label, ~wrong, ~mine
        if kind in ("localization", "class"):
            nearest = own if kind == "localization" else other
            better = _first_of_each(nearest, rows.score, mine & free[nearest])
            right, exists = right | better, exists | better
            if kind == "class":
                label = np.where(mine, np.append(truth.label, 0)[nearest], label)
        gain[kind] = _ap(label[exists], rows.score[exists], right[exists], truths) - ap50
    without = truths - np.bincount(truth.label[missed], minlength=len(truth.names))
    gain["missed"] = _ap(rows.label, rows.score, ~wrong, without) - ap50
    count = {name: int(mine.sum()) for name, mine in kinds.items()} | {"missed": int(missed.sum())}
    return ErrorSplit(ap50, gain, count)


def _first_of_each(target: np.ndarray, score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of ``among`` is the best-scored one for its target."""
    places = np.flatnonzero(among)
    places = places[np.argsort(-score[places], kind="stable")]
    _, first = np.unique(target[places], return_index=True)
    result = np.zeros(len(target), bool)
    result[places[first]] = True
    return result


def _ap(label: np.ndarray, score: np.ndarray, right: np.ndarray, truths: np.ndarray) -> float:
    order = np.argsort(label, kind="stable")
    flags = right[order][None].astype(np.uint32)
    precision, _, _ = _core.evaluation_accumulate(
        label[order], np.zeros(len(label), np.int32), score[order], flags, np.zeros_like(flags), truths[:, None],
        RECALLS.tolist(), list(MOST[-1:]), 1,
    )  # fmt: skip
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0
