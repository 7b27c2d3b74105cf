# SPDX-License-Identifier: Apache-2.0
"""Random change of colour as three tables on OpenCV's 8-bit HSV, whose hue runs from 0 to 179."""

from __future__ import annotations

import numpy as np

from fastdet.data.augmentation.random_stream import Stream

HUES = 180


def hsv_tables(stream: Stream, gains: tuple[float, float, float], *, additive_hue: bool) -> np.ndarray | None:
    """Tables [3, 256] uint8 for hue, saturation and value, or None where all gains are 0; always three draws.

    Saturation and value are multiplied by 1 + u * gain, u uniform in [-1, 1), and cut at 255. So is the hue, around
    the circle; with ``additive_hue`` it is turned by u * gain of the circle instead. Products are truncated.
    """
    changes = [stream.around_zero(gain) for gain in gains]
    if not any(gains):
        return None
    levels = np.arange(256, dtype=np.float64)
    hue = levels + HUES * changes[0] if additive_hue else levels * (1 + changes[0])
    saturation, value = (np.minimum(levels * (1 + change), 255) for change in changes[1:])
    # A hue below 0 comes back as one just below 180; the truncation keeps it there.
    return np.stack([hue % HUES % HUES, saturation, value]).astype(np.uint8)
