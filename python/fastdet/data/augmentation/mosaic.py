# SPDX-License-Identifier: Apache-2.0
"""Canvases of one, four and nine pictures."""

from __future__ import annotations

import math

from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import Canvas, Sample, SampleSource, lay, resized


def fitted(sample: Sample, size: tuple[int, int], recipe: Recipe) -> Sample:
    """The sample scaled to fit ``size`` (height, width), proportions kept; or stretched to it."""
    if recipe.stretch_tiles:
        return resized(sample, size)
    height, width = sample.size
    factor = min(size[0] / height, size[1] / width)
    if factor == 1:
        return sample
    rounded = math.floor if recipe.fit_rounding == "down" else math.ceil
    goal = (max(1, min(rounded(height * factor), size[0])), max(1, min(rounded(width * factor), size[1])))
    return resized(sample, goal)


def single(sample: Sample, size: tuple[int, int], recipe: Recipe) -> Canvas:
    """One picture, letterboxed: in the middle of a canvas of ``size`` (height, width)."""
    part = fitted(sample, size, recipe)
    # An odd pixel goes to the right and to the bottom, as at inference.
    left, top = (size[1] - part.size[1]) // 2, (size[0] - part.size[0]) // 2
    return lay(size, [(part, left, top)])


def mosaic4(index: int, pictures: SampleSource, stream: Stream, recipe: Recipe, size: tuple[int, int]) -> Canvas:
    """Picture ``index`` and three random others, each with a corner at a centre in the canvas's middle half."""
    height, width = size
    centre_y = int(stream.uniform(0.5 * height, 1.5 * height))
    centre_x = int(stream.uniform(0.5 * width, 1.5 * width))
    order = [index, *stream.integers(len(pictures), 3)]
    places = stream.choice(4, 4)
    if recipe.shuffle_tiles:
        order = [order[place] for place in places]
    placed = []
    for number, each in enumerate(order):  # top left, top right, bottom left, bottom right
        part = fitted(pictures(each), size, recipe)
        left = centre_x if number % 2 else centre_x - part.size[1]
        top = centre_y if number >= 2 else centre_y - part.size[0]
        placed.append((part, left, top))
    return lay((2 * height, 2 * width), placed)


def mosaic9(index: int, pictures: SampleSource, stream: Stream, recipe: Recipe, size: tuple[int, int]) -> Canvas:
    """Picture ``index`` amid eight random others, each touching its neighbours; a random 2H x 2W window of 3H x 3W."""
    height, width = size
    order = [index, *stream.integers(len(pictures), 8)]
    parts = [fitted(pictures(each), size, recipe) for each in order]
    corner_x, corner_y = stream.integer(width + 1), stream.integer(height + 1)
    sizes = [part.size for part in parts]
    (h0, w0), (h1, w1), (h2, _), (h3, _), _, (_, w5), (_, w6), (h7, w7), (h8, w8) = sizes
    places = [  # left, top, the centre's corner at 0; clockwise from the top
        (0, 0),
        (0, -h1),
        (w1, -h2),
        (w0, 0),
        (w0, h3),
        (w0 - w5, h0),
        (w0 - w5 - w6, h0),
        (-w7, h0 - h7),
        (-w8, h0 - h7 - h8),
    ]
    placed = [(part, x + width - corner_x, y + height - corner_y) for part, (x, y) in zip(parts, places, strict=True)]
    return lay((2 * height, 2 * width), placed)
