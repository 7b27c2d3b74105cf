# SPDX-License-Identifier: Apache-2.0
"""Augmented samples: a function of (pictures, index, seed, epoch, recipe) and of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet.data.augmentation.box_geometry import clip_boxes
from fastdet.data.augmentation.family import family_view
from fastdet.data.augmentation.own import Augmentation, own_view
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import FAMILY_RECIPES, Recipe
from fastdet.data.augmentation.scene import Sample, SampleSource, pixels

RECIPES: dict[str, Augmentation | Recipe] = {"fastdet": Augmentation(), **FAMILY_RECIPES}


def recipe_named(name: str) -> Augmentation | Recipe:
    """The recipe called ``name``. Raises ValueError naming those there are."""
    if name not in RECIPES:
        raise ValueError(f"recipe: must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]


def augmented_sample(
    pictures: SampleSource,
    index: int,
    *,
    recipe: Augmentation | Recipe,
    size: tuple[int, int],
    seed: int = 0,
    epoch: int = 0,
    calm: bool = False,
    layout: str = "nhwc",
    out: Any = None,
) -> Sample:
    """Training sample number ``index`` of ``pictures``, random only through (seed, epoch, index).

    Args:
        pictures: gives the whole picture of an index, with its boxes in its own pixels, such as ``PictureCache``;
            mosaics and mixup draw others from it. Its pictures are not written.
        recipe: a ``Recipe``, an ``Augmentation``, or one of ``RECIPES``.
        size: (height, width) of the sample.
        calm: as in the last epochs of a training: without mosaic and what mixes pictures.
        layout: ``"nhwc"`` gives [H, W, 3], ``"nchw"`` [3, H, W]. out: uint8 array of that shape to write to.

    Returns:
        Sample with uint8 RGB pixels, boxes [M, 4] float32 inside the picture, labels [M] int64.

    Raises:
        ValueError: a size below 1, an index outside ``pictures``, a seed or epoch that is no counter.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"augmented_sample: size must be (height, width) of at least 1, got {size}")
    if not 0 <= index < len(pictures):
        raise ValueError(f"augmented_sample: index must be in 0 .. {len(pictures) - 1}, got {index}")
    size = (size[0], size[1])
    stream = Stream(seed, epoch, index)
    if isinstance(recipe, Augmentation):
        view = own_view(index, pictures, stream, recipe, size, calm=calm)
    else:
        view = family_view(index, pictures, stream, recipe, size, calm=calm)
    boxes = clip_boxes(view.objects.boxes, size).astype(np.float32)
    return Sample(pixels(view, layout=layout, out=out), boxes, view.objects.labels, view.objects.polygons)
