# SPDX-License-Identifier: Apache-2.0
"""Outlines of objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRIED = 256  # corners of each polygon between which the shortest way is looked for


def joined(polygons: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon [K, 2] float64 that encloses what ``polygons`` [n, 2] do, by the even-odd rule.

    From what is joined already to each further polygon leads the shortest way between corners (of large polygons 256,
    evenly chosen), and back again, so that nothing lies between.
    """
    whole = np.asarray(polygons[0], np.float64)
    for polygon in polygons[1:]:
        ring = np.asarray(polygon, np.float64)
        here, there = _tried(whole), _tried(ring)
        gaps = ((whole[here, None] - ring[None, there]) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(gaps.argmin()), gaps.shape)
        leave, enter = here[i], there[j]
        whole = np.concatenate([whole[: leave + 1], ring[enter:], ring[: enter + 1], whole[leave:]])
    return whole


def _tried(corners: np.ndarray) -> np.ndarray:
    count = min(len(corners), TRIED)
    return np.arange(count) * len(corners) // count
