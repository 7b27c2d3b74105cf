# SPDX-License-Identifier: Apache-2.0
"""Decoded pictures of a data set with their boxes, and a cache of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from fastdet.data.augmentation import Sample
from fastdet.data.dataset import DataError, Picture
from fastdet.data.polygons import joined
from fastdet.image_files import ImageError, read_reduced

__all__ = ["PictureCache", "read_picture"]


class PictureCache:
    """Decoded pictures of a data set, kept in memory up to a limit. Threads may share one."""

    def __init__(
        self, pictures: Sequence[Picture], limit_mb: float = 2048, *, draft: tuple[int, int] | None = None
    ) -> None:
        """Args:
        limit_mb: memory for decoded pictures; those that do not fit are decoded again each time.
        draft: (height, width) that is enough of a picture: much larger JPEGs are decoded at 1/2, 1/4 or 1/8, not below
            it on either side, see ``fastdet.image_files.read_reduced``. None: all pixels.
        """
        self._pictures, self._draft = pictures, draft
        self._images: dict[int, np.ndarray] = {}
        self._room = limit_mb * 2**20
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._pictures)

    def __call__(self, index: int) -> Sample:
        """Picture ``index`` as RGB, boxes in the pixels of what was decoded; polygons where all of its boxes have some.

        Raises:
            DataError: it cannot be read; names the file.
        """
        picture = self._pictures[index]
        image = self._images.get(index)
        if image is None:
            image = read_picture(picture, self._draft)
            needed = image.nbytes
            with self._lock:
                if self._room >= needed and index not in self._images:
                    self._room -= needed
                    self._images[index] = image
        boxes, polygons = picture.boxes, None
        if picture.polygons is not None and all(picture.polygons):
            polygons = tuple(map(joined, picture.polygons))
        height, width = image.shape[:2]
        if (height, width) != (picture.height, picture.width):
            ratio = (width / picture.width, height / picture.height)
            boxes = (boxes * np.array(ratio * 2)).astype(np.float32)
            polygons = polygons and tuple(each * ratio for each in polygons)
        return Sample(image, boxes, picture.labels, polygons)


def read_picture(picture: Picture, draft: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to RGB [H, W, 3] uint8, turned as its EXIF says; reduced towards ``draft`` (height, width).

    The reduction is that of ``read_reduced``. Raises DataError when it is unreadable or not of the declared size.
    """
    try:
        pixels, (height, width) = read_reduced(picture.path, draft)
    except ImageError as error:
        raise DataError(f"{picture.path}: cannot be decoded: {error.reason}") from error
    if (height, width) != (picture.height, picture.width):
        raise DataError(
            f"{picture.path}: is {width} x {height} pixels, the annotations say {picture.width} x {picture.height}"
        )
    return pixels
