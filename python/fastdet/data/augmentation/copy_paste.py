# SPDX-License-Identifier: Apache-2.0
"""Copy-paste: objects of a canvas, mirrored, or of another view, laid over it where there is room."""

from __future__ import annotations

import math

import numpy as np

from fastdet.data.augmentation.box_geometry import areas, polygon_mask, shared_area
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import Canvas, Objects, Tile, View, flat, join, pixels

MAX_COVERED = 0.3


def paste_mirrored(canvas: Canvas, stream: Stream, recipe: Recipe) -> Canvas:
    """The canvas with some of its objects once more, mirrored left to right about its middle."""
    objects = canvas.objects
    if not _pasteable(objects, recipe):
        return canvas
    mirrored = objects.mirrored(canvas.size[1])
    tiles, taken = [], []
    for number in _chosen(objects.boxes, mirrored.boxes, stream, recipe):
        source = canvas.tiles[int(canvas.owners[number])]
        tile = _cut(source, objects, number, canvas.size, mirror=True)
        if tile is not None:
            tiles.append(tile)
            taken.append(number)
    numbers = np.array(taken, np.int64)
    owners = len(canvas.tiles) + np.arange(len(taken))
    return Canvas(
        canvas.size,
        [*canvas.tiles, *tiles],
        join([objects, mirrored.keep(numbers)]),
        np.concatenate([canvas.owners, owners]),
    )


def paste_from(view: View, other: View, stream: Stream, recipe: Recipe) -> View:
    """``view`` with some objects of ``other`` (of the same size) at the places they have there."""
    if not _pasteable(other.objects, recipe):
        return view
    chosen = _chosen(view.objects.boxes, other.objects.boxes, stream, recipe)
    whole = Tile(pixels(other), 0, 0)
    cut = [(number, _cut(whole, other.objects, number, view.size, mirror=False)) for number in chosen]
    tiles = [tile for _, tile in cut if tile is not None]
    numbers = np.array([number for number, tile in cut if tile is not None], np.int64)
    objects = join([view.objects, other.objects.keep(numbers)])
    return flat([Tile(pixels(view), 0, 0), *tiles], view.size, objects)


def _pasteable(objects: Objects, recipe: Recipe) -> bool:
    return len(objects.boxes) > 0 and (objects.polygons is not None or recipe.copy_paste_boxes)


def _chosen(existing: np.ndarray, arriving: np.ndarray, stream: Stream, recipe: Recipe) -> list[int]:
    """Numbers of the ``arriving`` boxes [N, 4] that are pasted onto the ``existing`` [M, 4], in order."""
    count = len(arriving)
    order = stream.choice(count, count)
    covered = shared_area(arriving, existing) / np.maximum(areas(existing), 1e-16)
    most = covered.max(axis=1, initial=0.0)
    if recipe.copy_paste_rule == "drawn":
        taken: list[int] = []
        for number in order[: round(recipe.copy_paste * count)]:
            onto = arriving[taken]  # what was pasted before is there too
            hidden = shared_area(arriving[number : number + 1], onto) / np.maximum(areas(onto), 1e-16)
            if max(most[number], hidden.max(initial=0.0)) < MAX_COVERED:
                taken.append(number)
        return taken
    free = most < MAX_COVERED
    if recipe.copy_paste_rule == "ranked":
        order = np.argsort(most, kind="stable").tolist()
    allowed = [number for number in order if free[number]]
    return allowed[: round(recipe.copy_paste * len(allowed))]


def _cut(tile: Tile, objects: Objects, number: int, size: tuple[int, int], *, mirror: bool) -> Tile | None:
    """The object as a tile of its own on a canvas of ``size``, perhaps mirrored about its middle; None if it is gone.

    Whole pixels: all those its box touches, of which the polygon's mask shows some.
    """
    box = objects.boxes[number]
    height, width = tile.image.shape[:2]
    left, top = max(math.floor(box[0]), tile.left, 0), max(math.floor(box[1]), tile.top, 0)
    right = min(math.ceil(box[2]), tile.left + width, size[1])
    bottom = min(math.ceil(box[3]), tile.top + height, size[0])
    if right <= left or bottom <= top:
        return None
    part = tile.image[top - tile.top : bottom - tile.top, left - tile.left : right - tile.left]
    mask = None
    if objects.polygons is not None:
        mask = polygon_mask(objects.polygons[number], (left, top), (bottom - top, right - left))
        if not mask.any():
            return None
    if mirror:
        part, left = part[:, ::-1], size[1] - right
        mask = None if mask is None else mask[:, ::-1]
    part = np.ascontiguousarray(part)
    return Tile(part, left, top, None, None if mask is None else np.ascontiguousarray(mask))
