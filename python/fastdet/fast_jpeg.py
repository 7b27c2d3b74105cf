# SPDX-License-Identifier: Apache-2.0
"""JPEGs by simplejpeg (MIT, libjpeg-turbo within; extra ``fast-jpeg``), where it is installed."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

__all__ = ["available", "complaint", "decode"]


def available() -> bool:
    """Whether simplejpeg is installed and loads."""
    return _simplejpeg() is not None


def decode(data: bytes, size: tuple[int, int], scale: int = 1) -> np.ndarray | None:
    """Pixels of a JPEG, [ceil(H / scale), ceil(W / scale), 3] uint8 RGB, Pillow's bit for bit; not turned by EXIF.

    Both decoders are libjpeg-turbo with its exact cosine transform and smooth chroma, which give one result.

    Args:
        data: the file. size: (H, W) of its header, already held against limits. scale: 1, 2, 4 or 8.

    Returns:
        None when simplejpeg is missing, or finds anything amiss with the file: Pillow then decides what is to be said,
        and reads what libjpeg only warns of.
    """
    module = _simplejpeg()
    if module is None:
        return None
    height, width = -(-size[0] // scale), -(-size[1] // scale)
    try:
        pixels: np.ndarray = module.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, min_height=height, min_width=width, min_factor=scale
        )
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def complaint(data: bytes) -> str | None:
    """What libjpeg-turbo says is lost in a JPEG that Pillow reads in silence; None: nothing, or there is no simplejpeg.

    Bytes too many between two markers and a missing end are no loss.
    """
    module = _simplejpeg()
    if module is None:
        return None
    try:
        module.decode_jpeg(data, "GRAY")
    except (ValueError, MemoryError) as error:
        text = str(error)
        if text.startswith(("Corrupt JPEG data", "Inconsistent progression")) and "extraneous" not in text:
            return text
    return None


@functools.cache
def _simplejpeg() -> Any:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None
