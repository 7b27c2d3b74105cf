# SPDX-License-Identifier: Apache-2.0
"""Pictures on which an object can be found again by its colour: black, one of them with a red rectangle."""

from __future__ import annotations

import numpy as np

from fastdet.data.augmentation import Sample


class Marked:
    """``count`` black pictures of different sizes; number 0 has a red rectangle and its box."""

    def __init__(self, seed: int, count: int = 60, *, polygons: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = [tuple(rng.integers(50, 110, 2).tolist()) for _ in range(count)]
        height, width = self.sizes[0]
        x, y = int(rng.integers(2, width - 30)), int(rng.integers(2, height - 30))
        w, h = (int(side) for side in rng.integers(14, 27, 2))
        self.box = (x, y, x + w, y + h)
        self.polygons = polygons
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def __call__(self, index: int) -> Sample:
        self.asked.append(index)
        pixels = np.zeros((*self.sizes[index], 3), np.uint8)
        if index:
            return Sample(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        x1, y1, x2, y2 = self.box
        pixels[y1:y2, x1:x2, 0] = 255
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float)
        return Sample(pixels, np.array([self.box], np.float32), np.array([7]), (corners,) if self.polygons else None)


def red(image: np.ndarray) -> np.ndarray:
    """bool [H, W]: where the rectangle shows, at least half of it, colours changed or blended."""
    amount = image[..., 0].astype(int) - image[..., 1]
    return amount > max(amount.max() / 2, 20)


def extent(shown: np.ndarray) -> tuple[int, int, int, int]:
    """Smallest box around the true pixels."""
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
