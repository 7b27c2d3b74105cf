# SPDX-License-Identifier: Apache-2.0
"""Detections of pictures as the rows that evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """What was found in one picture, in any order; NumPy arrays or tensors. ``fastdet.Detections`` will do as well."""

    boxes: Any  # [D, 4] float, x1 y1 x2 y2 in pixels of the picture
    scores: Any  # [D] float
    labels: Any  # [D] int, contiguous


class Rows(NamedTuple):
    """Detections of many pictures, one after the other."""

    picture: np.ndarray  # [N] int64, place of the picture in the ground truth
    label: np.ndarray  # [N] int64
    box: np.ndarray  # [N, 4] float64: x, y, width, height
    score: np.ndarray  # [N] float64

    @classmethod
    def empty(cls) -> Rows:
        """No rows."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """All rows of ``parts`` by rising picture, those of a picture in their order."""
        joined = cls(*map(np.concatenate, zip(*parts, strict=True)))
        order = np.argsort(joined.picture, kind="stable")
        return cls(*(column[order] for column in joined))


def rows_of(detections: Mapping[Any, Any], places: Mapping[Any, int], num_classes: int) -> Rows:
    """The rows of ``detections`` (picture id -> Prediction), checked.

    Raises:
        ValueError: an id that ``places`` lacks, arrays that do not agree, NaN, boxes that are not finite, or a label
            outside [0, num_classes). TypeError: no mapping, or something else than predictions in it.
    """
    if not isinstance(detections, Mapping):
        raise TypeError(
            f"evaluate: detections must map picture ids to predictions, got {type(detections).__name__}; "
            "{id: prediction for id, prediction in zip(ids, predictions)} makes it of a list"
        )
    if not detections:
        return Rows.empty()
    boxes, scores, labels = [], [], []
    for identity, each in detections.items():
        if identity not in places:
            raise ValueError(f"evaluate: detections has picture id {identity!r}, which the ground truth does not have")
        try:
            box, score, label = (_array(value) for value in (each.boxes, each.scores, each.labels))
        except AttributeError:
            raise TypeError(
                f"evaluate: detections[{identity!r}] must be a Prediction or Detections, got {type(each).__name__}"
            ) from None
        box = box.reshape(0, 4) if not len(box) else box  # a list of none
        if score.ndim != 1 or box.shape != (len(score), 4) or label.shape != score.shape:
            raise ValueError(
                f"evaluate: detections[{identity!r}] must be (D, 4), (D,), (D,), "
                f"got {box.shape}, {score.shape}, {label.shape}"
            )
        boxes.append(box)
        scores.append(score)
        labels.append(label)
    picture = np.repeat([places[identity] for identity in detections], [len(each) for each in scores])
    corners = np.concatenate(boxes).astype(np.float64)
    label, score = np.concatenate(labels), np.concatenate(scores).astype(np.float64)
    wrong = ~((label >= 0) & (label < num_classes) & (label == np.floor(label)))
    if wrong.any():
        raise ValueError(f"evaluate: labels must lie in 0..{num_classes - 1}, got {label[wrong][0]}")
    broken = ~np.isfinite(corners).all(axis=1) | np.isnan(score)
    if broken.any():
        row = int(np.argmax(broken))
        identity = next(each for each in detections if places[each] == picture[row])
        what = "NaN" if np.isnan([*corners[row], score[row]]).any() else "an infinite box"
        raise ValueError(f"evaluate: boxes must be finite and scores numbers, got {what} in detections[{identity!r}]")
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return Rows(picture.astype(np.int64), label.astype(np.int64), sides, score)


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.dtype.is_floating_point and values.element_size() == 2 else values
    elif hasattr(values, "get"):  # CuPy
        values = values.get()
    return np.asarray(values)
