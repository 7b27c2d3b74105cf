# SPDX-License-Identifier: Apache-2.0
"""The random affine or perspective map of the YOLO families, and what is left of the objects behind it."""

from __future__ import annotations

import math

import numpy as np

from fastdet.data.augmentation.box_geometry import (
    candidates,
    clip_boxes,
    in_front,
    polygon_hull,
    warp_boxes,
    warp_points,
)
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import Canvas, Objects, View, look


def affine_matrix(
    perspective: tuple[float, float],
    angle: float,
    scale: float,
    shear: tuple[float, float],
    shift: tuple[float, float],
    source: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """M = T S R P C: centre to the origin, perspective, rotation with scale, shear, centre of the output plus shift.

    Args:
        perspective: the two lower entries of P. angle, shear: degrees; a positive angle turns counterclockwise on the
            screen. shift: (x, y) as fractions of the output's sides. source, size: (height, width).
    """
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    slant_x, slant_y = math.tan(math.radians(shear[0])), math.tan(math.radians(shear[1]))
    steps = (
        (1.0, 0.0, (0.5 + shift[0]) * size[1], 0.0, 1.0, (0.5 + shift[1]) * size[0], 0.0, 0.0, 1.0),
        (1.0, slant_x, 0.0, slant_y, 1.0, 0.0, 0.0, 0.0, 1.0),
        (cos, sin, 0.0, -sin, cos, 0.0, 0.0, 0.0, 1.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, *perspective, 1.0),
        (1.0, 0.0, -source[1] / 2, 0.0, 1.0, -source[0] / 2, 0.0, 0.0, 1.0),
    )
    target, slant, rotation, tilt, centre = np.array(steps).reshape(5, 3, 3)
    return np.asarray(target @ slant @ rotation @ tilt @ centre)


def random_view(canvas: Canvas, stream: Stream, recipe: Recipe, size: tuple[int, int]) -> View:
    """The canvas through a random map to ``size`` (height, width), with the objects that remain; always eight draws."""
    perspective = (stream.around_zero(recipe.perspective), stream.around_zero(recipe.perspective))
    angle, scale = stream.around_zero(recipe.degrees), stream.uniform(*recipe.scale)
    shear = (stream.around_zero(recipe.shear), stream.around_zero(recipe.shear))
    shift = (stream.around_zero(recipe.translate), stream.around_zero(recipe.translate))
    matrix = affine_matrix(perspective, angle, scale, shear, shift, canvas.size, size)
    return look(canvas, matrix, size, remaining(canvas.objects, matrix, scale, recipe, size))


def remaining(objects: Objects, matrix: np.ndarray, scale: float, recipe: Recipe, size: tuple[int, int]) -> Objects:
    """The objects behind ``matrix``, cut at ``size`` (height, width), without those that ``candidates`` drops.

    A box becomes the hull of its four corners, cut; where there are polygons, the exact hull of what is in view.
    """
    if matrix[2].tolist() != [0, 0, 1]:
        objects = objects.keep(in_front(objects.boxes, matrix))
    if objects.polygons is None or not len(objects.boxes):
        polygons, least = objects.polygons, recipe.min_area
        boxes = clip_boxes(warp_boxes(objects.boxes, matrix), size)
    else:
        least = recipe.min_area_polygons
        polygons = tuple(warp_points(each, matrix) for each in objects.polygons)
        window = (0.0, 0.0, float(size[1]), float(size[0]))
        hulls = [polygon_hull(each, window) for each in polygons]
        boxes = np.array([np.zeros(4) if hull is None else hull for hull in hulls])
    kept = candidates(
        objects.boxes, boxes, scale=scale, min_side=recipe.min_side, min_area=least, max_aspect=recipe.max_aspect
    )
    return Objects(boxes, objects.labels, polygons).keep(kept)
