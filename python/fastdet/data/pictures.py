# SPDX-License-Identifier: Apache-2.0
"""Decoded pictures of a data set with their boxes, and a cache of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from PIL import Image

from fastdet.data.augment import Sample
from fastdet.data.dataset import DataError, Picture
from fastdet.image_files import ImageError, read_image

__all__ = ["PictureCache", "read_picture"]


class PictureCache:
    """Decoded pictures of a data set, kept in memory up to a limit. Threads may share one."""

    def __init__(self, pictures: Sequence[Picture], limit_mb: float = 2048) -> None:
        """Args: limit_mb: memory for decoded pictures; those that do not fit are decoded again each time."""
        self._pictures = pictures
        self._images: dict[int, Image.Image] = {}
        self._room = limit_mb * 2**20
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._pictures)

    def __call__(self, index: int) -> Sample:
        """Picture ``index`` as RGB at full size with its boxes. Raises DataError naming the file."""
        picture = self._pictures[index]
        image = self._images.get(index)
        if image is None:
            image = read_picture(picture)
            needed = 3 * image.height * image.width
            with self._lock:
                if self._room >= needed and index not in self._images:
                    self._room -= needed
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
