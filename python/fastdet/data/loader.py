# SPDX-License-Identifier: Apache-2.0
"""``Loader``: batches of augmented pictures, the same whoever builds them, from any place on."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.data.augmentation import Augmentation, Recipe
from fastdet.data.batches import Batch, BatchBuilder, BatchPlan
from fastdet.data.dataset import Dataset
from fastdet.data.pictures import PictureCache, read_picture
from fastdet.data.workers import CallerWorker, ProcessWorkers, ThreadWorkers, Workers

__all__ = ["ON_ERROR", "WORKER_KINDS", "Batch", "Loader", "PictureCache", "read_picture"]

WORKER_KINDS = ("thread", "process")
ON_ERROR = ("error", "skip", "retry")


class Loader:
    """Shuffled, augmented batches of a data set; the last incomplete batch of an epoch is left out.

    ``for batch in loader`` gives what is left of the current epoch and goes on to the next. A batch is a function of
    (data set, augmentation, size, batch size, seed, epoch, number) alone: not of ``workers``, ``worker_kind`` or of
    what was read before, so ``state()`` needs to remember two numbers.

    A picture that cannot be read, or is not of the declared size, is met by ``on_error``:

    - "error": DataError names the file. ``state()`` then stands at the batch that failed; nothing is lost.
    - "skip": wherever picture i is wanted (a tile of a mosaic too), i + 1 is taken, then i + 2 and so on modulo the
      number of pictures; random numbers stay those of the sample. ``bad_pictures`` (path -> reason) and ``replaced``
      (how often another was taken) say what happened in the batches handed out so far, exactly.
    - "retry": for folders on a network: it is read up to three times more, after pauses of 0.1, 0.5 and 2 seconds,
      then as "error". ``retried`` counts that.

    Leaving the loop early, an exception in it, ``close()`` and the end of the loader stop all threads and processes.

    Example:
        >>> with Loader(dataset, Augmentation(), size=(640, 640), batch_size=16, workers=4) as loader:
        ...     for epoch in range(100):
        ...         for batch in loader:
        ...             step(batch.images, batch.boxes, batch.labels)
        ...         saved = loader.state()
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: Augmentation | Recipe,
        *,
        size: tuple[int, int],
        batch_size: int,
        seed: int = 0,
        calm_from: int | None = None,
        workers: int = 0,
        worker_kind: str = "thread",
        prefetch: int = 2,
        on_error: str = "error",
        cache_mb: float = 2048,
        draft: bool = True,
        pin_memory: bool = False,
    ) -> None:
        """Nothing is started before the first batch is asked for.

        Args:
            size: (height, width) of the pictures of a batch.
            calm_from: first epoch with flips and colour only; None for none.
            workers: how many threads or processes prepare batches ahead; 0 builds each when it is asked for.
            worker_kind: "thread": they share the cache of pictures, and the GIL while NumPy prepares boxes and
                matrices. "process": spawned, for many cores; scripts need ``if __name__ == "__main__":``.
            prefetch: batches that are ready or in work, per worker; what memory holds ahead.
            on_error: "error", "skip" or "retry", see above.
            cache_mb: memory for decoded pictures in MiB, shared out among worker processes.
            draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size where that still is not below ``size`` times the largest
                zoom of the augmentation; boxes follow. Off: all pixels are decoded and each is looked at by the warp.
            pin_memory: put the pixels into page-locked memory, for copies to a CUDA device beside computation.

        Raises:
            ValueError: an argument is out of range, or there are fewer pictures than a batch has. TypeError: an
            argument of another kind. RuntimeError: ``pin_memory`` without torch and a CUDA device.
        """
        _check_kinds(dataset, augmentation, size)
        for name, value, low in (("batch_size", batch_size, 1), ("workers", workers, 0), ("prefetch", prefetch, 1)):
            if not isinstance(value, (int, np.integer)):
                raise TypeError(f"Loader: {name} must be a whole number, got {value!r:.80}")
            if value < low:
                raise ValueError(f"Loader: {name} must be at least {low}, got {value}")
        for name, word, words in (("worker_kind", worker_kind, WORKER_KINDS), ("on_error", on_error, ON_ERROR)):
            if word not in words:
                raise ValueError(f"Loader: {name} must be one of {words}, got {word!r}")
        allocate = _pinned if pin_memory else _plain
        if pin_memory:
            _check_pinning()
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Loader: size must be (height, width) of at least 1, got {size}")
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise ValueError(f"Loader: seed must be in 0 .. 2^64 - 1, got {seed!r}")
        if batch_size > len(dataset):
            raise ValueError(f"Loader: batch_size {batch_size} is above the {len(dataset)} pictures, no batch is whole")
        plan_size = (size[0], size[1])
        self._plan = BatchPlan(dataset, augmentation, plan_size, batch_size, seed, calm_from, on_error, draft)
        self._workers: Workers
        if workers and worker_kind == "process":
            self._workers = ProcessWorkers(self._plan, allocate, workers, workers * prefetch, cache_mb)
        elif workers:
            builder = BatchBuilder(self._plan, cache_mb)
            self._workers = ThreadWorkers(builder, allocate, workers, workers * prefetch)
        else:
            self._workers = CallerWorker(BatchBuilder(self._plan, cache_mb), allocate)
        self._epoch = self._batch = 0
        self._running = False
        self.bad_pictures: dict[Path, str] = {}
        self.replaced = self.retried = 0
        self._end = weakref.finalize(self, self._workers.close)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch.

        Raises:
            DataError: a picture cannot be read. RuntimeError: a worker process died twice, or another loop over this
                loader has not ended.
        """
        if self._running:
            raise RuntimeError("Loader: the last loop over it has not ended; close its iterator, or make two loaders")
        self._running = True
        epoch = self._epoch
        batches = self._workers.batches(epoch, range(self._batch, len(self)))
        try:
            for batch in batches:
                self._batch += 1
                self.replaced += batch.replaced
                self.retried += batch.retried
                for index, reason in batch.unreadable.items():
                    self.bad_pictures[self._plan.dataset.pictures[index].path] = reason
                yield batch
            self._epoch, self._batch = epoch + 1, 0
        finally:
            self._running = False
            batches.close()  # type: ignore[attr-defined] # a generator

    def state(self) -> dict[str, int]:
        """Where the loader stands, as JSON values: after the last batch that it gave."""
        return {"epoch": self._epoch, "batch": self._batch, **self._identity()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state()`` was taken: exactly the batches that were left then follow.

        Raises:
            ValueError: the state is of a loader with another seed, batch size or number of pictures, or is none.
        """
        own = self._identity()
        for name in ("epoch", "batch", *own):
            if not isinstance(state.get(name), int):
                raise ValueError(f"Loader: state must hold the whole number {name!r}, got {dict(state)!r:.200}")
            if name in own and state[name] != own[name]:
                raise ValueError(f"Loader: the state is of a loader with {name} {state[name]}, this has {own[name]}")
        self.seek(state["epoch"], state["batch"])

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Go to a batch of an epoch, both from 0. Raises ValueError, or RuntimeError inside a loop."""
        if self._running:
            raise RuntimeError("Loader: cannot seek while a loop over it runs")
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"Loader: epoch must not be negative and batch in 0..{len(self)}, got {epoch}, {batch}")
        self._epoch, self._batch = epoch, batch

    def close(self) -> None:
        """End worker processes now; the next loop would start them again."""
        self._workers.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _identity(self) -> dict[str, int]:
        plan = self._plan
        return {"seed": plan.seed, "batch_size": plan.batch_size, "pictures": len(plan.dataset)}


def _check_kinds(dataset: Any, augmentation: Any, size: Any) -> None:
    if not isinstance(dataset, Dataset):
        raise TypeError(f"Loader: dataset must be what open_dataset returns, got {type(dataset).__name__}")
    if not isinstance(augmentation, (Augmentation, Recipe)):
        raise TypeError(
            "Loader: augmentation must be an Augmentation or a Recipe, such as "
            f"fastdet.data.augmentation.RECIPES['yolov8'], got {augmentation!r:.80}"
        )
    if not isinstance(size, (tuple, list)) or not all(isinstance(side, (int, np.integer)) for side in size):
        raise TypeError(f"Loader: size must be (height, width), got {size!r:.80}")


def _plain(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def _pinned(shape: tuple[int, ...]) -> np.ndarray:
    import torch

    # The array keeps the tensor and so the memory; torch.from_numpy(...).is_pinned() knows it by its address.
    pinned: np.ndarray = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return pinned


def _check_pinning() -> None:
    try:
        import torch
    except ImportError as error:
        raise RuntimeError("Loader: pin_memory needs torch; pip install 'fastdet[torch]'") from error
    if not torch.cuda.is_available():
        raise RuntimeError("Loader: pin_memory needs a CUDA device that torch can use")
