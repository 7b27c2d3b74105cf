# SPDX-License-Identifier: Apache-2.0
"""What a batch is made of: a function of the plan, the epoch and the number of the batch, and of nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fastdet.data.augmentation import Augmentation, Recipe, Sample, Stream, augmented_sample
from fastdet.data.dataset import DataError, Dataset
from fastdet.data.pictures import PictureCache

__all__ = ["Batch", "BatchBuilder", "BatchPlan", "Stopped"]

RETRY_SECONDS = (0.1, 0.5, 2.0)  # pauses before a picture is read once more
ORDER = 1  # purpose of the random numbers that order an epoch; those of samples have 0


class Stopped(Exception):
    """Nobody waits for the batch any more."""


@dataclass
class Batch:
    """``images`` [B, 3, H, W] uint8 RGB; per picture ``boxes`` [M_i, 4] float32 input pixels and ``labels`` [M_i].

    ``unreadable`` names each picture that could not be read, with the reason; ``replaced`` counts how often another
    one was taken for one of them, tiles of mosaics included. Both are empty unless such pictures may be skipped.
    ``retried`` counts how often a picture was read once more, where that is tried.
    """

    images: np.ndarray
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    indices: list[int]  # into the pictures of the data set; of replaced pictures those that are shown
    unreadable: dict[int, str] = field(default_factory=dict)
    replaced: int = 0
    retried: int = 0


@dataclass(frozen=True)
class BatchPlan:
    """Everything the batches of a training depend on; worker processes get it once."""

    dataset: Dataset
    options: Augmentation | Recipe
    size: tuple[int, int]  # (height, width) of the network input
    batch_size: int
    seed: int
    calm_from: int | None = None  # first of the epochs with flips and colour only
    on_error: str = "error"  # what is done about a picture that cannot be read: see ``Loader``
    draft: bool = True  # whether large JPEGs may be decoded at a fraction of their size

    def __len__(self) -> int:
        """Batches an epoch; the last incomplete one is left out."""
        return len(self.dataset) // self.batch_size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels of a batch: [B, 3, H, W]."""
        return (self.batch_size, 3, *self.size)

    @property
    def enough(self) -> tuple[int, int] | None:
        """(height, width) of a picture that is not enlarged even by the largest zoom; None without ``draft``."""
        if not self.draft:
            return None
        zoom = self.options.largest_zoom
        return math.ceil(self.size[0] * zoom), math.ceil(self.size[1] * zoom)

    def order(self, epoch: int) -> np.ndarray:
        """[N] the pictures in the order of an epoch."""
        return Stream(self.seed, epoch, 0, purpose=ORDER).permutation(len(self.dataset))


class BatchBuilder:
    """Builds batches of a plan and keeps decoded pictures. Threads may share one."""

    def __init__(self, plan: BatchPlan, cache_mb: float) -> None:
        self.plan = plan
        self._cache = PictureCache(plan.dataset.pictures, cache_mb, draft=plan.enough)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def build(
        self,
        epoch: int,
        number: int,
        images: np.ndarray | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Batch:
        """Batch ``number`` of ``epoch``.

        Args:
            images: [B, 3, H, W] uint8 that gets the pixels; a new array by default.
            stopped: asked before each picture.

        Raises:
            DataError: a picture cannot be read and may not be skipped, or none of the data set can be. Stopped.
        """
        plan = self.plan
        known, order = self._order
        if known != epoch:
            order = plan.order(epoch)
            self._order = (epoch, order)
        images = np.empty(plan.shape, np.uint8) if images is None else images
        batch = Batch(images, [], [], [])
        reader = _Reader(self._cache, batch, plan)
        calm = plan.calm_from is not None and epoch >= plan.calm_from
        for row, index in enumerate(order[number * plan.batch_size : (number + 1) * plan.batch_size].tolist()):
            if stopped():
                raise Stopped
            sample = augmented_sample(
                reader, index, recipe=plan.options, size=plan.size, seed=plan.seed, epoch=epoch, calm=calm,
                layout="nchw", out=images[row],
            )  # fmt: skip
            batch.boxes.append(sample.boxes)
            batch.labels.append(sample.labels)
            batch.indices.append(reader.shown.get(index, index))
        return batch


class _Reader:
    """Reads pictures for a batch. In place of picture i that cannot be read comes i + 1, i + 2, ... modulo N."""

    def __init__(self, cache: PictureCache, batch: Batch, plan: BatchPlan) -> None:
        self._cache, self._batch, self._plan = cache, batch, plan
        self.shown: dict[int, int] = {}  # picture -> the one that stands in for it

    def __len__(self) -> int:
        return len(self._cache)

    def __call__(self, index: int) -> Sample:
        count = len(self._cache)
        for place in range(index, index + count):
            place %= count
            if place in self._batch.unreadable:
                continue
            try:
                sample = self._read(place)
            except DataError as error:
                if self._plan.on_error != "skip":
                    raise
                self._batch.unreadable[place] = str(error)
                continue
            if place != index:
                self.shown[index] = place
                self._batch.replaced += 1
            return sample
        raise DataError(f"{self._plan.dataset.path}: no picture of it can be read")

    def _read(self, place: int) -> Sample:
        for seconds in RETRY_SECONDS if self._plan.on_error == "retry" else ():
            try:
                return self._cache(place)
            except DataError:
                time.sleep(seconds)
                self._batch.retried += 1
        return self._cache(place)
