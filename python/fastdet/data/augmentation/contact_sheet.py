# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what a training will see, as one picture to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastdet.data.augmentation.augmented import augmented_sample
from fastdet.data.augmentation.own import Augmentation
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import SampleSource
from fastdet.drawing import draw

GAP = 6
GROUND = 255


def contact_sheet(
    pictures: SampleSource,
    recipe: Augmentation | Recipe,
    *,
    names: Sequence[str] | None = None,
    size: tuple[int, int] = (640, 640),
    count: int = 12,
    columns: int = 4,
    seed: int = 0,
    epoch: int = 0,
    calm: bool = False,
) -> np.ndarray:
    """The first ``count`` samples of an epoch with their boxes, side by side: exactly what ``augmented_sample`` gives.

    Args:
        pictures, recipe, size, seed, epoch, calm: as for ``augmented_sample``.
        names: class names to write beside the boxes; None writes none.
        columns: samples in a row.

    Returns:
        uint8 RGB [rows * (H + 6) - 6, columns * (W + 6) - 6, 3]; white where there is no sample.

    Raises:
        ValueError: there are no pictures, or an argument is out of range.
    """
    if count < 1 or columns < 1:
        raise ValueError(f"contact_sheet: count and columns must be at least 1, got {count} and {columns}")
    if not len(pictures):
        raise ValueError("contact_sheet: there are no pictures")
    count = min(count, len(pictures))
    columns = min(columns, count)
    height, width = size[0] + GAP, size[1] + GAP
    sheet = np.full((-(-count // columns) * height - GAP, columns * width - GAP, 3), GROUND, np.uint8)
    for number in range(count):
        sample = augmented_sample(pictures, number, recipe=recipe, size=size, seed=seed, epoch=epoch, calm=calm)
        top, left = number // columns * height, number % columns * width
        shown = draw(sample.image, sample.boxes, sample.labels, names=names)
        sheet[top : top + size[0], left : left + size[1]] = shown
    return sheet
