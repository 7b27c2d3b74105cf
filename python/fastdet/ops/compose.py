# SPDX-License-Identifier: Apache-2.0
"""Compose: pictures to one training sample: mosaic, warp, mixup, colour and flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdet.ops._compose_rules import apply_hsv, blend_layers, inverse_map, warp

ORDERS = ("rgb", "bgr")
LAYOUTS = ("nhwc", "nchw")


class Tile(NamedTuple):
    """One picture on the canvas of a layer.

    Attributes:
        image: (h, w, 3) uint8.
        left, top: canvas pixel of the picture's corner; may lie outside the canvas.
        window: canvas rectangle x1, y1, x2, y2 in which the picture shows; None: all of it.
        mask: (h, w) uint8, nonzero where the picture shows; None: everywhere.
    """

    image: Any
    left: int = 0
    top: int = 0
    window: tuple[int, int, int, int] | None = None
    mask: Any = None


class Layer(NamedTuple):
    """Pictures on a canvas, and where the canvas lands.

    Attributes:
        tiles: pictures; later ones lie over earlier ones. Where none shows there is ``fill``.
        canvas: (height, width).
        matrix: (3, 3) float64, canvas pixel indices to output pixel indices, as OpenCV's ``warpAffine`` and
            ``warpPerspective`` take it.
    """

    tiles: Sequence[Tile]
    canvas: tuple[int, int]
    matrix: Any


def compose_reference(
    layers: Sequence[Layer],
    size: tuple[int, int],
    *,
    blend: float = 1.0,
    fill: int | Sequence[int] = 114,
    hsv: Any = None,
    channel_order: str = "rgb",
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    layout: str = "nhwc",
) -> np.ndarray:
    """One training sample in NumPy, a step at a time: canvas, warp, blend, colour, flips.

    Args:
        layers: one, or two of which ``blend first + (1 - blend) second`` is taken in float64 and cut off (mixup).
        size: (height, width) of the result.
        blend: share of the first layer, in [0, 1].
        fill: one or three values where no picture shows, and outside the canvas.
        hsv: (3, 256) uint8 tables for hue (0 to 179), saturation and value, as OpenCV's 8-bit HSV has them.
        channel_order: ``"rgb"`` or ``"bgr"``, of pictures and result.
        flip_horizontal, flip_vertical: of the finished picture.
        layout: ``"nhwc"`` or ``"nchw"``.

    Returns:
        (H, W, 3) or (3, H, W) uint8.
    """
    border = np.broadcast_to(np.asarray(fill, np.uint8), 3)
    pictures = [warp(_canvas(layer, border), inverse_map(layer.matrix), size, border) for layer in layers]
    picture = pictures[0] if len(pictures) == 1 else blend_layers(pictures[0], pictures[1], blend)
    if hsv is not None:
        picture = apply_hsv(picture, hsv, channel_order == "bgr")
    picture = picture[:: -1 if flip_vertical else 1, :: -1 if flip_horizontal else 1]
    return np.ascontiguousarray(picture if layout == "nhwc" else picture.transpose(2, 0, 1))


def _canvas(layer: Layer, fill: np.ndarray) -> np.ndarray:
    height, width = layer.canvas
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = fill
    for tile in layer.tiles:
        h, w = tile.image.shape[:2]
        x1, y1, x2, y2 = tile.window or (0, 0, width, height)
        x1, y1 = max(x1, tile.left, 0), max(y1, tile.top, 0)
        x2, y2 = min(x2, tile.left + w, width), min(y2, tile.top + h, height)
        if x1 >= x2 or y1 >= y2:
            continue
        shown = np.s_[y1 - tile.top : y2 - tile.top, x1 - tile.left : x2 - tile.left]
        where = True if tile.mask is None else (np.asarray(tile.mask)[shown] != 0)[..., None]
        np.copyto(canvas[y1:y2, x1:x2], np.asarray(tile.image)[shown], where=where)
    return canvas
