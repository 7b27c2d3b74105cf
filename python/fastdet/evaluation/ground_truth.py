# SPDX-License-Identifier: Apache-2.0
"""The boxes that detections are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotations as columns, I pictures, M boxes, K classes.

    Args:
        image_ids: [I] rising; names: [K]; category_ids: [K] rising, what the annotation file calls the classes.
        picture: [M] place of a box's picture in ``image_ids``. label: [M] in [0, K).
        boxes: [M, 4] float64, x, y, width, height in pixels, as published. areas: [M] square pixels, as published
            (of the object, which may be smaller than its box). crowd: [M] bool.

    Raises:
        ValueError: columns that do not agree, ids that do not rise, or indices out of range.
    """

    image_ids: Sequence[Any]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    picture: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.picture)
        shapes = [np.shape(each) for each in (self.label, self.areas, self.crowd)]
        if shapes != [(count,)] * 3 or np.shape(self.boxes) != (count, 4):
            raise ValueError(
                f"GroundTruth: label, areas, crowd must be ({count},) and boxes ({count}, 4) as picture is ({count},), "
                f"got {shapes[0]}, {shapes[1]}, {shapes[2]} and {np.shape(self.boxes)}"
            )
        for name, values in (("image_ids", self.image_ids), ("category_ids", self.category_ids)):
            if any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"GroundTruth: {name} must rise")
        if len(self.category_ids) != len(self.names):
            raise ValueError(f"GroundTruth: got {len(self.names)} names for {len(self.category_ids)} category_ids")
        for name, rows, limit in (
            ("picture", self.picture, len(self.image_ids)),
            ("label", self.label, len(self.names)),
        ):
            if count and not 0 <= np.min(rows) <= np.max(rows) < limit:
                raise ValueError(f"GroundTruth: {name} must lie in 0..{limit - 1}, got {np.min(rows)}..{np.max(rows)}")

    @classmethod
    def of(cls, dataset: Dataset) -> GroundTruth:
        """The annotations of a data set as published: nothing clipped, crowds included."""
        rows = dataset.annotations
        index, chosen = rows.columns, np.asarray(rows.rows, np.int64)
        image_ids = np.sort(dataset.pictures.ids)
        own = index.picture_id[index.picture[chosen]]
        picture = np.searchsorted(image_ids, own)
        if len(own) and (picture == len(image_ids)).any() | (image_ids.take(picture, mode="clip") != own).any():
            raise ValueError("GroundTruth: annotations of pictures that the data set does not have")
        return cls(
            image_ids.tolist(),
            dataset.names,
            dataset.category_ids,
            picture=picture,
            label=index.label[chosen].astype(np.int64),
            boxes=index.box[chosen],
            areas=index.area[chosen],
            crowd=index.crowd[chosen].astype(bool),
        )

    @cached_property
    def places(self) -> dict[Any, int]:
        """Picture id -> place in ``image_ids``."""
        return {identity: i for i, identity in enumerate(self.image_ids)}

    @cached_property
    def columns(self) -> Any:
        """The same for the native evaluator."""
        return _core.EvaluationColumns(self.picture, self.label, self.boxes, self.areas)

    def counting(self, areas: np.ndarray) -> np.ndarray:
        """[A, M] whether a box counts in each range [A, 2] of areas: crowds and other sizes do not."""
        return (self.areas >= areas[:, :1]) & (self.areas <= areas[:, 1:]) & ~self.crowd

    def counts(self, areas: np.ndarray) -> np.ndarray:
        """[K, A] boxes of each class that count in each range [A, 2] of areas."""
        inside = self.counting(areas)
        rows = [np.bincount(self.label[each], minlength=len(self.names)) for each in inside]
        return np.stack(rows, axis=1).astype(np.int64)
