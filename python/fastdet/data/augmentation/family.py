# SPDX-License-Identifier: Apache-2.0
"""The steps of ``Recipe`` in their order, as a view that no pixel has been computed of yet where that is possible."""

from __future__ import annotations

from fastdet.data.augmentation.affine import random_view
from fastdet.data.augmentation.blending import blended, cutmix, partner
from fastdet.data.augmentation.colour_tables import hsv_tables
from fastdet.data.augmentation.copy_paste import paste_from, paste_mirrored
from fastdet.data.augmentation.mosaic import mosaic4, mosaic9, single
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import SampleSource, View, flat, flip, lay, resized


def family_view(
    index: int, pictures: SampleSource, stream: Stream, recipe: Recipe, size: tuple[int, int], *, calm: bool
) -> View:
    """Sample ``index`` of ``pictures`` at ``size`` (height, width), random only through ``stream``.

    Args:
        calm: the last epochs, without mosaic and what mixes pictures.
    """
    if calm and recipe.last_epochs == "stretch":
        canvas = lay(size, [(resized(pictures(index), size), 0, 0)])
        view = flat(canvas.tiles, size, canvas.objects)
    elif calm:
        view = random_view(single(pictures(index), size, recipe), stream, recipe, size)
    else:
        view = _mixed(index, pictures, stream, recipe, size)
    view.hsv = hsv_tables(stream, recipe.hsv, additive_hue=recipe.additive_hue)
    vertical, horizontal = stream.chance(recipe.flip_vertical), stream.chance(recipe.flip_horizontal)
    return flip(view, horizontal, vertical)


def _alone(
    index: int, pictures: SampleSource, stream: Stream, recipe: Recipe, size: tuple[int, int], *, mosaic: bool
) -> View:
    """Steps 1 to 3."""
    nine = stream.chance(recipe.mosaic9)
    if mosaic:
        canvas = (mosaic9 if nine else mosaic4)(index, pictures, stream, recipe, size)
    else:
        canvas = single(pictures(index), size, recipe)
    everywhere = recipe.copy_paste_rule == "ranked"
    if recipe.copy_paste and recipe.copy_paste_mode == "flip" and (mosaic or everywhere):
        canvas = paste_mirrored(canvas, stream, recipe)
    return random_view(canvas, stream, recipe, size)


def _mixed(index: int, pictures: SampleSource, stream: Stream, recipe: Recipe, size: tuple[int, int]) -> View:
    """Steps 1 to 4."""
    mosaic = stream.chance(recipe.mosaic)
    view = _alone(index, pictures, stream, recipe, size, mosaic=mosaic)

    def another() -> View:
        again = True if recipe.mixup_with == "mosaic" else stream.chance(recipe.mosaic)
        return _alone(stream.integer(len(pictures)), pictures, stream, recipe, size, mosaic=again)

    if recipe.copy_paste_mode == "mixup" and stream.chance(recipe.copy_paste):
        view = paste_from(view, another(), stream, recipe)
    if stream.chance(recipe.mixup) and (mosaic or recipe.mixup_with != "mosaic"):
        if recipe.mixup_with == "picture":
            view = blended(view, partner(pictures(stream.integer(len(pictures))), stream, size), 0.5)
        else:
            second = another()
            view = blended(view, second, stream.beta(*recipe.mixup_beta))
    if stream.chance(recipe.cutmix):
        view = cutmix(view, another(), stream, recipe)
    return view
