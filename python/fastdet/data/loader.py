# SPDX-License-Identifier: Apache-2.0
"""Batches of augmented pictures: sample = f(seed, epoch, index), whatever the number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fastdet.data.augment import Augmentation, Sample, augment
from fastdet.data.dataset import DataError, Dataset, Picture
from fastdet.image_files import ImageError, read_image

ORDER_STREAM = 2**32 - 1  # sub-stream of the epoch's order, no index of a picture


@dataclass
class Batch:
    """``images`` [B, 3, H, W] uint8 RGB; per picture ``boxes`` [M_i, 4] float32 input pixels and ``labels`` [M_i]."""

    images: np.ndarray
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    indices: list[int]  # into the pictures of the data set


class PictureCache:
    """Decoded pictures of a data set, kept in memory up to a limit."""

    def __init__(self, pictures: tuple[Picture, ...], limit_mb: int = 2048) -> None:
        """Args: limit_mb: memory for decoded pictures; those that do not fit are decoded again each time."""
        self._pictures = pictures
        self._images: dict[int, Image.Image] = {}
        self._room = limit_mb * 2**20

    def __len__(self) -> int:
        return len(self._pictures)

    def __call__(self, index: int) -> Sample:
        """Picture ``index`` as RGB at full size with its boxes. Raises DataError naming the file."""
        picture = self._pictures[index]
        image = self._images.get(index)
        if image is None:
            image = read_picture(picture)
            if self._room >= 3 * picture.height * picture.width:
                self._room -= 3 * picture.height * picture.width
                self._images[index] = image
        return Sample(image, picture.boxes, picture.labels)


def read_picture(picture: Picture) -> Image.Image:
    """Decode to RGB, turned as its EXIF says. Raises DataError when it is unreadable or not of the declared size."""
    try:
        image = Image.fromarray(read_image(picture.path))
    except ImageError as error:
        raise DataError(f"{picture.path}: cannot be decoded: {error.reason}") from error
    if image.size != (picture.width, picture.height):
        raise DataError(
            f"{picture.path}: is {image.width} x {image.height} pixels, "
            f"the annotations say {picture.width} x {picture.height}"
        )
    return image


def train_batches(
    dataset: Dataset,
    cache: PictureCache,
    options: Augmentation,
    *,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    epoch: int,
    calm: bool = False,
    workers: int = 0,
) -> Iterator[Batch]:
    """Shuffled, augmented batches of one epoch; the last incomplete batch is left out.

    Each sample has its own random stream from (seed, epoch, index), so a batch depends on nothing else: not on the
    batches before it, nor on ``workers``, the number of threads that prepare batches ahead (0: none).
    """
    count = len(dataset)
    order = np.random.default_rng([seed, epoch, ORDER_STREAM]).permutation(count)
    chunks = [order[start : start + batch_size] for start in range(0, count - batch_size + 1, batch_size)]

    def build(chunk: np.ndarray) -> Batch:
        samples = []
        for index in chunk.tolist():
            rng = np.random.default_rng([seed, epoch, index])
            samples.append(augment(index, count, cache, rng, options, size, calm=calm))
        return _stack(samples, chunk.tolist())

    if workers <= 0:
        yield from map(build, chunks)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="fastdet-loader") as pool:
        waiting: list[Future[Batch]] = [pool.submit(build, chunk) for chunk in chunks[: 2 * workers]]
        for chunk in itertools.chain(chunks[2 * workers :], itertools.repeat(None)):
            if not waiting:
                return
            yield waiting.pop(0).result()
            if chunk is not None:
                waiting.append(pool.submit(build, chunk))


def _stack(samples: list[Sample], indices: list[int]) -> Batch:
    images = np.stack([np.asarray(sample.image).transpose(2, 0, 1) for sample in samples])
    return Batch(images, [sample.boxes for sample in samples], [sample.labels for sample in samples], indices)
