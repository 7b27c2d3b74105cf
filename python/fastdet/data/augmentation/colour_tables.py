# SPDX-License-Identifier: Apache-2.0
"""Random change of colour as three tables on OpenCV's 8-bit HSV, whose hue runs from 0 to 179."""

from __future__ import annotations

import numpy as np

from fastdet.data.augmentation.random_stream import Stream

HUES = 180
LEVELS = np.arange(256, dtype=np.float64)


def hsv_tables(stream: Stream, gains: tuple[float, float, float], *, additive_hue: bool) -> np.ndarray | None:
    """Tables [3, 256] uint8 for hue, saturation and value, or None where all gains are 0; always three draws.

    Saturation and value are multiplied by 1 + u * gain, u uniform in [-1, 1), and cut at 255. So is the hue, around
    the circle; with ``additive_hue`` it is turned by u * gain of the circle instead. Products are truncated.
    """
    changes = [stream.around_zero(gain) for gain in gains]
    if not any(gains):
        return None
    tables = np.empty((3, 256))
    hue, rest = tables[0], tables[1:]
    if additive_hue:
        np.add(LEVELS, HUES * changes[0], out=hue)
    else:
        np.multiply(LEVELS, 1 + changes[0], out=hue)
    hue %= HUES
    hue %= HUES  # a hue just below 0 has become 180
    np.multiply(LEVELS, [[1 + changes[1]], [1 + changes[2]]], out=rest)
    np.minimum(rest, 255, out=rest)
    return tables.astype(np.uint8)
