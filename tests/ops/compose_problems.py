# SPDX-License-Identifier: Apache-2.0
"""Pictures, layers and calls for the tests of compose."""

from __future__ import annotations

import numpy as np

from fastdet.ops import Composition, Layer, Tile
from fastdet.ops.compose import COMPOSE, _flat
from fastdet.testing.ops import Case

IDENTITY = np.eye(3)


def picture(*shape, seed=0):
    """Noise, and rows of black and white pixels, so that rounding and saturation show."""
    rng = np.random.default_rng([*shape, seed])
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    image[::3] = np.where(image[::3] > 127, 255, 0)
    return image


def mask(height, width, seed=0):
    """Blobs: about half of the pixels, in pieces of 3 x 3."""
    coarse = np.random.default_rng([height, width, seed]).integers(0, 2, (height // 3 + 1, width // 3 + 1), np.uint8)
    return coarse.repeat(3, 0).repeat(3, 1)[:height, :width] * 255


def disc(height, width):
    """An ellipse that fills the picture, as a pasted object's mask does."""
    y, x = np.ogrid[:height, :width]
    return (np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5) < 0.5).astype(np.uint8)


def pasted(count=12, side=128):
    """A mosaic with objects over it and over each other."""
    rng = np.random.default_rng(count)
    tiles = mosaic(side // 2)
    for i in range(count):
        height, width = (int(n) for n in rng.integers(20, 60, 2))
        left, top = (int(n) for n in rng.integers(-10, side - 20, 2))
        tiles.append(Tile(picture(height, width, seed=i), left, top, None, disc(height, width)))
    return tiles


def tables(seed=0):
    """Tables of the usual kind, hues beyond 179 among them."""
    rng = np.random.default_rng(seed)
    gains, ramp = rng.uniform(0.5, 1.5, 3), np.arange(256)
    return np.stack([np.clip(ramp * gain, 0, 255) for gain in gains]).astype(np.uint8)


def affine(degrees=0.0, scale=1.0, shift=(0.0, 0.0), shear=0.0):
    turn = np.deg2rad(degrees)
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix[0, 1] += shear
    matrix[:2, 2] = shift
    return matrix


def projective(matrix, x=0.0006, y=-0.0009):
    return np.array([[1, 0, 0], [0, 1, 0], [x, y, 1]]) @ matrix


def mosaic(side, sizes=((50, 60), (37, 64), (71, 40), (64, 64)), centre=(0.9, 1.1)):
    """Four tiles around a centre of a canvas of 2 x 2 sides, as the recipes have them."""
    x, y = int(centre[0] * side), int(centre[1] * side)
    tiles = []
    for i, (height, width) in enumerate(sizes):
        left, top = (x - width if i % 2 == 0 else x), (y - height if i < 2 else y)
        tiles.append(Tile(picture(height, width, seed=i), left, top))
    return tiles


def random_layer(rng, tiles=6, side=90):
    canvas = (int(rng.integers(1, side)), int(rng.integers(1, side)))
    shown = []
    for k in range(int(rng.integers(0, tiles))):
        height, width = (int(n) for n in rng.integers(1, side, 2))
        hidden = mask(height, width, k) if rng.random() < 0.3 else None
        window = None if rng.random() < 0.6 else tuple(int(n) for n in rng.integers(-20, side, 4))
        left, top = (int(n) for n in rng.integers(-40, side, 2))
        shown.append(Tile(picture(height, width, seed=int(rng.integers(100))), left, top, window, hidden))
    matrix = np.eye(3)
    matrix[:2] += rng.normal(0, 0.3, (2, 3))
    matrix[:2, 2] += rng.normal(0, 30, 2)
    kind = rng.random()
    if kind < 0.3:
        matrix[2, :2] = rng.normal(0, 0.003, 2)
    elif kind < 0.65:  # rows of the result lie along rows of the canvas, perhaps backwards
        matrix[:2, :2] = np.diag(rng.choice([-1, 1], 2) * np.exp(rng.normal(0, 0.8, 2)))
    return Layer(shown, canvas, matrix)


def random_composition(rng):
    layers = [random_layer(rng) for _ in range(int(rng.integers(1, 3)))]
    colours = tables(int(rng.integers(100))) if rng.random() < 0.5 else None
    fill = 114 if rng.random() < 0.5 else (1, 250, 33)
    order = "bgr" if rng.random() < 0.5 else "rgb"
    return Composition(layers, float(rng.random()), fill, colours, order, *(bool(b) for b in rng.integers(0, 2, 2)))


def arguments(*compositions, size=(40, 64), channels_last=True):
    """Positional arguments of the operator."""
    return (*_flat(compositions), *size, channels_last)


def case(name, make, **options):
    """``make`` returns compositions."""
    return Case(name, COMPOSE, lambda: arguments(*make(), **options))


def one(*tiles, matrix=IDENTITY, canvas=(64, 64), **options):
    return Composition([Layer(tiles, canvas, matrix)], **options)
