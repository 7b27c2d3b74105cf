# SPDX-License-Identifier: Apache-2.0
"""Mixup and cutmix: two views in one picture."""

from __future__ import annotations

import math

import numpy as np

from fastdet.data.augmentation.box_geometry import areas, shared_area
from fastdet.data.augmentation.mosaic import fitted
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import Objects, Sample, Tile, View, flat, join, lay, pixels, resized

TRIES = 3
PARTNER_SCALE = (0.5, 1.5)
LEAST_AREA = 4.0


def blended(first: View, second: View, ratio: float) -> View:
    """``ratio`` of the first view and the rest of the second, both of one layer, with the objects of both."""
    return View(first.size, [*first.layers, *second.layers], join([first.objects, second.objects]), blend=ratio)


def partner(sample: Sample, stream: Stream, size: tuple[int, int]) -> View:
    """DAMO-YOLO's (and YOLOX's) second picture of a mixup; always four draws.

    Fitted to the top left of a grey canvas of ``size``, canvas and picture scaled by 0.5 to 1.5 and perhaps mirrored;
    a random part where it is larger than ``size``, black below and to the right where it is smaller.
    """
    height, width = size
    zoom, mirror = stream.uniform(*PARTNER_SCALE), stream.chance(0.5)
    along, down = stream.uniform(), stream.uniform()
    scaled = (max(1, int(height * zoom)), max(1, int(width * zoom)))
    first = fitted(sample, size, Recipe())  # its size alone, proportions kept
    goal = (max(1, int(first.size[0] * zoom)), max(1, int(first.size[1] * zoom)))
    part = resized(sample, goal)
    left = -int(along * (max(scaled[1] - width, 0) + 1))
    top = -int(down * (max(scaled[0] - height, 0) + 1))
    if mirror:
        part = _mirrored(part)
        left_of_part = left + scaled[1] - goal[1]
    else:
        left_of_part = left
    canvas = lay(size, [(part, left_of_part, top)])
    kept = canvas.objects.keep(areas(canvas.objects.boxes) > LEAST_AREA)
    return flat([*canvas.tiles, *_black(scaled, size)], size, kept)


def _mirrored(sample: Sample) -> Sample:
    objects = Objects(sample.boxes, sample.labels, sample.polygons).mirrored(sample.size[1])
    return Sample(np.ascontiguousarray(sample.image[:, ::-1]), objects.boxes, objects.labels, objects.polygons)


def _black(covered: tuple[int, int], size: tuple[int, int]) -> list[Tile]:
    """Black tiles to the right of and below ``covered`` (height, width), on a canvas of ``size``."""
    tiles = []
    if covered[1] < size[1]:
        tiles.append(Tile(np.zeros((size[0], size[1] - covered[1], 3), np.uint8), covered[1], 0))
    if covered[0] < size[0]:
        tiles.append(Tile(np.zeros((size[0] - covered[0], size[1], 3), np.uint8), 0, covered[0]))
    return tiles


def cutmix(view: View, other: View, stream: Stream, recipe: Recipe) -> View:
    """A rectangle of ``other`` in ``view``, where it touches none of its objects; ``view`` itself after three tries.

    Its sides are sqrt(1 - r) of the picture's, r from Beta(1, 1), its centre anywhere. Objects of ``other`` come along
    when more than ``min_area`` of them (with polygons ``min_area_polygons``) lies inside; always seven draws.
    """
    height, width = view.size
    side = math.sqrt(1 - stream.beta(1, 1))
    centres = [(stream.integer(width), stream.integer(height)) for _ in range(TRIES)]
    for x, y in centres:
        left, right = max(0, int(x - side * width / 2)), min(width, int(x + side * width / 2))
        top, bottom = max(0, int(y - side * height / 2)), min(height, int(y + side * height / 2))
        window = np.array([[left, top, right, bottom]], np.float64)
        if right > left and bottom > top and not shared_area(view.objects.boxes, window).any():
            break
    else:
        return view
    arriving = other.objects
    inside = shared_area(arriving.boxes, window)[:, 0]
    least = recipe.min_area if arriving.polygons is None else recipe.min_area_polygons
    cut = arriving.boxes.clip(window[:, [0, 1, 0, 1]], window[:, [2, 3, 2, 3]])
    come = arriving._replace(boxes=cut).keep((inside >= least * areas(arriving.boxes)) & (inside > 0))
    tiles = [Tile(pixels(view), 0, 0), Tile(pixels(other), 0, 0, (left, top, right, bottom))]
    return flat(tiles, view.size, join([view.objects, come]))
