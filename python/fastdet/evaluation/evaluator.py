# SPDX-License-Identifier: Apache-2.0
"""COCO's evaluation of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.data.dataset import Dataset
from fastdet.evaluation.curves import Curve, confusion_matrix, curves
from fastdet.evaluation.errors import ErrorSplit, error_split
from fastdet.evaluation.ground_truth import GroundTruth
from fastdet.evaluation.matching import match
from fastdet.evaluation.metrics import AREAS, MOST, RECALLS, THRESHOLDS, Metrics
from fastdet.evaluation.prediction import Rows, rows_of


class Evaluator:
    """Collects detections of a data set, picture by picture and from many processes, and judges them.

    The numbers do not depend on the order in which pictures come or in which parts are merged.

    Args:
        ground_truth: a GroundTruth, or a Dataset, which ``fastdet.data.open_dataset`` returns; the ids of its pictures
            are ``dataset.pictures[i].id``.

    Raises:
        TypeError: ground_truth is neither.
    """

    def __init__(self, ground_truth: GroundTruth | Dataset) -> None:
        if isinstance(ground_truth, Dataset):
            ground_truth = GroundTruth.of(ground_truth)
        if not isinstance(ground_truth, GroundTruth):
            raise TypeError(
                f"evaluate: ground_truth must be a GroundTruth or a data set (read_coco, open_dataset), "
                f"got {type(ground_truth).__name__}"
            )
        self.ground_truth = ground_truth
        self._parts = [Rows.empty()]
        self._seen = np.zeros(len(ground_truth.image_ids), bool)

    def add(self, detections: Mapping[Any, Any]) -> None:
        """Take in what was found: picture id -> ``Prediction`` (boxes [D, 4] xyxy, scores [D], labels [D]).

        Raises:
            ValueError: a picture that the ground truth lacks or that was added before, arrays that do not agree, NaN,
                or a label out of range. TypeError: no mapping of predictions. Nothing is taken in then.
        """
        truth = self.ground_truth
        rows = rows_of(detections, truth.places, len(truth.names))
        self._take(rows, np.array([truth.places[identity] for identity in detections], np.int64))

    def state(self) -> dict[str, np.ndarray]:
        """All that was added, as arrays to send to another process."""
        return {**self.rows._asdict(), "seen": np.flatnonzero(self._seen)}

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        """Take in the ``state()`` of another process that looked at other pictures of the same data set.

        Raises:
            ValueError: both looked at the same picture, or it is of another data set. TypeError: not one state. Nothing
                is taken in then.
        """
        if not isinstance(state, Mapping) or not {*Rows._fields, "seen"} <= set(state):
            raise TypeError(f"merge: state must be what state() gave in one process, got {type(state).__name__}")
        empty = Rows.empty()._asdict()
        rows = Rows(*(np.asarray(state[name], part.dtype).reshape(-1, *part.shape[1:]) for name, part in empty.items()))
        seen = np.asarray(state["seen"], np.int64)
        pictures, classes = len(self.ground_truth.image_ids), len(self.ground_truth.names)
        for name, column, limit in (
            ("seen", seen, pictures),
            ("picture", rows.picture, pictures),
            ("label", rows.label, classes),
        ):
            if column.size and not 0 <= column.min() <= column.max() < limit:
                raise ValueError(f"evaluate: {name} of the state must lie in 0..{limit - 1}; is it of this data set?")
        self._take(rows, seen)

    def _take(self, rows: Rows, seen: np.ndarray) -> None:
        twice = seen[self._seen[seen]]
        if twice.size:
            identity = self.ground_truth.image_ids[int(twice[0])]
            raise ValueError(f"evaluate: picture {identity!r} must be added once, got it twice")
        self._seen[seen] = True
        self._parts.append(rows)

    @property
    def rows(self) -> Rows:
        """All detections, by picture."""
        if len(self._parts) > 1:
            self._parts = [Rows.joined(self._parts)]
        return self._parts[0]

    def metrics(self) -> Metrics:
        """COCO's metrics of all that was added; pictures that were not count as pictures without detections.

        The rules are those of ``COCOeval(..., "bbox")`` of pycocotools 2.0.11, and so are the last digits.
        """
        truth, rows, matches = self.ground_truth, self.rows, match(self.ground_truth, self.rows)
        precision, recall, scores = _core.evaluation_accumulate(
            rows.label[matches.row], matches.rank, rows.score[matches.row], matches.matched, matches.ignored,
            truth.counts(AREAS), RECALLS.tolist(), list(MOST), len(THRESHOLDS),
        )  # fmt: skip
        return Metrics.of(precision, recall, scores, truth.names)

    def curves(self, *, iou_threshold: float = 0.5) -> dict[str, Curve]:
        """Precision, recall and F1 over the score, per class and for ``"all"``: see ``fastdet.evaluation.curves``."""
        return curves(self.ground_truth, self.rows, iou_threshold=iou_threshold)

    def confusion_matrix(self, *, score_threshold: float = 0.25, iou_threshold: float = 0.5) -> np.ndarray:
        """[K + 1, K + 1] counts, rows the truth, columns what was found, the last of each is nothing."""
        return confusion_matrix(
            self.ground_truth, self.rows, score_threshold=score_threshold, iou_threshold=iou_threshold
        )

    def error_split(self) -> ErrorSplit:
        """What keeps AP50 from 1, by kind of error: see ``fastdet.evaluation.errors``."""
        return error_split(self.ground_truth, self.rows)


def evaluate(detections: Mapping[Any, Any], ground_truth: GroundTruth | Dataset) -> Metrics:
    """COCO's box metrics of ``detections``: IoU 0.50 to 0.95, at most 100 detections a picture and class.

    Args:
        detections: picture id -> ``Prediction`` or ``fastdet.Detections``. Pictures that are missing count as pictures
            without detections.
        ground_truth: a GroundTruth, or a Dataset, as for ``Evaluator``.

    Returns:
        Metrics, whose arrays equal those of pycocotools 2.0.11 bit for bit.

    Raises:
        ValueError: a picture that the ground truth lacks, arrays that do not agree, NaN, boxes that are not finite, or
            a label out of range. TypeError: something else than these kinds.
    """
    evaluator = Evaluator(ground_truth)
    evaluator.add(detections)
    return evaluator.metrics()
