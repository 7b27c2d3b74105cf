# SPDX-License-Identifier: Apache-2.0
"""Which detection found which ground truth, by COCO's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastdet import _core
from fastdet.evaluation.ground_truth import GroundTruth
from fastdet.evaluation.metrics import AREAS, MOST, THRESHOLDS
from fastdet.evaluation.prediction import Rows


class Matches(NamedTuple):
    """The N detections that count, by class, picture and falling score."""

    row: np.ndarray  # [N] int64, which of the rows given
    partner: np.ndarray  # [N] int64, ground truth at the first threshold and any size, or -1
    rank: np.ndarray  # [N] int32, place among those of its picture and class
    matched: np.ndarray  # [A, N] uint32, bit t: threshold t found a ground truth for it
    ignored: np.ndarray  # [A, N] uint32, bit t: it counts neither for nor against


def match(
    truth: GroundTruth, rows: Rows, *, thresholds: Sequence[float] = tuple(THRESHOLDS), most: int = MOST[-1]
) -> Matches:
    """Detections by falling score take the free ground truth of their picture and class that they overlap most.

    Args:
        thresholds: of IoU, at most 32: nothing below is taken. most: detections of a picture and class that count.
    """
    found = _core.EvaluationColumns(rows.picture, rows.label, rows.box, rows.score)
    return Matches(
        *_core.evaluation_match(
            truth.columns, truth.crowd, found, list(thresholds), AREAS.tolist(), most, len(truth.image_ids),
            len(truth.names),
        )
    )  # fmt: skip
