# SPDX-License-Identifier: Apache-2.0
"""Compose: pictures to one training sample: mosaic, warp, mixup, colour and flips."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real
from fastdet.ops._backend import Op, current_backend
from fastdet.ops._compose_rules import apply_hsv, blend_layers, inverse_map, inverse_numbers, warp

ORDERS = ("rgb", "bgr")
LAYOUTS = ("nhwc", "nchw")
MAX_SIDE = 1 << 20
"""Of a canvas and of a result: positions up to there are exact in float32."""
FLOAT32_LIMIT = 2.0**128 - 2.0**103  # numbers below it in size are finite when they are rounded to float32


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


class Composition(NamedTuple):
    """One picture of ``compose_batch``: layers, and the options of ``compose`` that a batch need not share."""

    layers: Sequence[Layer]
    blend: float = 1.0
    fill: int | Sequence[int] = 114
    hsv: Any = None
    channel_order: str = "rgb"
    flip_horizontal: bool = False
    flip_vertical: bool = False


def compose(
    layers: Sequence[Layer],
    size: int | tuple[int, int],
    *,
    blend: float = 1.0,
    fill: int | Sequence[int] = 114,
    hsv: Any = None,
    channel_order: str = "rgb",
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    layout: str = "nhwc",
    out: Any = None,
) -> Any:
    """Put pictures on a canvas, warp it, blend two of them, change colours and flip, in one pass over the result.

    No canvas is built: each pixel of the result is taken from the pictures that lie around its place there, also across
    their borders. The pixels are those of OpenCV 5's ``warpAffine`` or ``warpPerspective`` (``INTER_LINEAR``,
    ``BORDER_CONSTANT``) and ``cvtColor`` in their vector loops on x86 with AVX2 and FMA, bit for bit; the up to 16 last
    columns of a row, which OpenCV takes one by one with other roundings, differ by at most 1 before colours change.
    A matrix that only shifts by whole pixels copies them.

    Args:
        layers: one ``Layer``, or two for mixup: ``blend first + (1 - blend) second``, in float64 and cut off to uint8.
            The pictures are uint8 (h, w, 3) of any strides (channels side by side are fast), NumPy, torch (CPU, CUDA)
            or CuPy, one kind a call; masks are of the same kind.
        size: (height, width) of the result, or one number for both.
        blend: share of the first of two layers, in [0, 1].
        fill: one or three values in [0, 255] where no picture shows and outside the canvas.
        hsv: uint8 (3, 256) tables for OpenCV's 8-bit hue (0 to 179), saturation and value, applied last; None leaves
            the colours alone. NumPy, or of the kind of the pictures.
        channel_order: ``"rgb"`` or ``"bgr"``: of pictures, ``fill`` and result alike; only ``hsv`` asks for it.
        flip_horizontal, flip_vertical: mirror the result.
        layout: ``"nhwc"`` or ``"nchw"``.
        out: a contiguous uint8 array of the result's shape to write to, which shares no memory with a picture.

    Returns:
        (H, W, 3) or (3, H, W) uint8, of the kind of the pictures and on their device; NumPy if there is no array.

    Raises:
        TypeError: an array is not uint8. ValueError: a shape or number breaks a rule above, or a matrix is not finite,
        singular, or has no finite inverse in float32.

    Example:
        >>> tiles = [Tile(a, 640 - 480, 640 - 640), Tile(b, 640, 640 - 427)]
        >>> picture = compose([Layer(tiles, (1280, 1280), matrix)], 640, flip_horizontal=True)

    Cost: a pass over the result, no more memory than some rows; nothing of a picture that the result does not show is
    read. Gradients: none. Same result on every backend, bit for bit.
    """
    one = Composition(layers, blend, fill, hsv, channel_order, flip_horizontal, flip_vertical)
    result = compose_batch([one], size, layout=layout, out=None if out is None else out[None])
    return result[0] if out is None else out


def compose_batch(
    compositions: Sequence[Composition], size: int | tuple[int, int], *, layout: str = "nhwc", out: Any = None
) -> Any:
    """``compose`` for a batch: one call, in parallel over rows of all pictures, without the GIL.

    Args:
        compositions: what each picture is made of, B of them; their options are those of ``compose``.
        size: (height, width) of all pictures, or one number for both.
        layout: ``"nhwc"`` or ``"nchw"``.
        out: a contiguous uint8 array of the result's shape to write to, such as pinned memory.

    Returns:
        (B, H, W, 3) or (B, 3, H, W) uint8, as for ``compose``; ``out`` if given.

    Raises:
        TypeError, ValueError: as ``compose``.
    """
    height, width = _pair(size)
    if layout not in LAYOUTS:
        raise ValueError(f"compose: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    arguments = _flat(compositions)
    rest = (*arguments, height, width, layout == "nhwc")
    if out is not None:
        COMPOSE_OUT(out, *rest)
        return out
    if not (arguments[0] or arguments[1] or arguments[2]):
        shape = (height, width, 3) if layout == "nhwc" else (3, height, width)
        empty = np.empty((len(compositions), *shape), np.uint8)
        if len(empty):
            COMPOSE_OUT(empty, *rest)
        return empty
    return COMPOSE(*rest)


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
    picture = _finish(pictures, blend, hsv, channel_order == "bgr", flip_horizontal, flip_vertical)
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


def _finish(
    pictures: Sequence[np.ndarray], blend: float, hsv: Any, bgr: bool, flip_horizontal: bool, flip_vertical: bool
) -> np.ndarray:
    picture = pictures[0] if len(pictures) == 1 else blend_layers(pictures[0], pictures[1], blend)
    if hsv is not None:
        picture = apply_hsv(picture, hsv, bgr)
    return picture[:: -1 if flip_vertical else 1, :: -1 if flip_horizontal else 1]


# ---- arguments ----

Flat = tuple[list[Any], list[Any], list[Any], list[int], list[int], list[float], list[int], list[float]]


def _flat(compositions: Sequence[Composition]) -> Flat:
    """Arrays, and the numbers that describe tiles (8 each), layers (3), maps (9) and pictures (8 and a blend)."""
    images: list[Any] = []
    masks: list[Any] = []
    tables: list[Any] = []
    tiles: list[int] = []
    shapes: list[int] = []
    maps: list[float] = []
    pictures: list[int] = []
    blends: list[float] = []
    for composition in compositions:
        layers = list(composition.layers)
        if not 1 <= len(layers) <= 2:
            raise ValueError(f"compose: layers must be one or two, got {len(layers)}")
        for layer in layers:
            canvas = _pair(layer.canvas, "canvas")
            shapes += (len(layer.tiles), *canvas)
            maps += _map(layer.matrix)
            for tile in layer.tiles:
                tiles += (len(images), -1 if tile.mask is None else len(masks), *_corner(tile))
                tiles += (0, 0, canvas[1], canvas[0]) if tile.window is None else _window(tile.window)
                images.append(_array("image", tile.image))
                if tile.mask is not None:
                    masks.append(_array("mask", tile.mask))
        if composition.channel_order not in ORDERS:
            raise ValueError(
                f"compose: channel_order must be one of {', '.join(ORDERS)}, got {composition.channel_order!r}"
            )
        pictures += (len(layers), -1 if composition.hsv is None else len(tables), *_fill(composition.fill))
        flips = bool(composition.flip_horizontal), bool(composition.flip_vertical)
        pictures += (int(composition.channel_order == "bgr"), *map(int, flips))
        blends.append(_share(composition.blend))
        if composition.hsv is not None:
            tables.append(composition.hsv)
    tables = [_table(table, images[0] if images else table) for table in tables]
    return images, masks, tables, tiles, shapes, maps, pictures, blends


def _array(name: str, array: Any) -> Any:
    shape = getattr(array, "shape", None)
    if shape is None:
        raise TypeError(f"compose: {name} of a tile must be an array, got {type(array).__name__}; try np.asarray")
    rule = (len(shape) == 3 and shape[2] == 3, "(h, w, 3)") if name == "image" else (len(shape) == 2, "(h, w)")
    if not rule[0]:
        raise ValueError(f"compose: {name} of a tile must be {rule[1]}, got {tuple(shape)}")
    return array


def _map(matrix: Any) -> list[float]:
    values = np.asarray(matrix, np.float64)
    if values.shape != (3, 3):
        raise ValueError(f"compose: matrix must be (3, 3), got {values.shape}; add the row 0, 0, 1 to an affine one")
    rows = values.tolist()
    if not all(math.isfinite(number) for row in rows for number in row):
        raise ValueError(f"compose: matrix must be finite, got {rows}")
    try:
        inverse = inverse_numbers(rows)
    except ZeroDivisionError:
        inverse = [math.inf]
    if not all(abs(number) < FLOAT32_LIMIT for number in inverse):
        raise ValueError(f"compose: matrix must have an inverse in float32, got {rows}")
    return inverse


def _whole(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, values))
    except TypeError:
        raise TypeError(f"compose: {name} must be whole numbers, got {values!r}") from None


def _corner(tile: Tile) -> tuple[int, ...]:
    return _whole("left and top of a tile", (tile.left, tile.top))


def _window(window: Any) -> tuple[int, ...]:
    numbers = _whole("window of a tile", window)
    if len(numbers) != 4:
        raise ValueError(f"compose: window of a tile must be x1, y1, x2, y2, got {window!r}")
    limit = 1 << 40
    return tuple(min(max(number, -limit), limit) for number in numbers)


def _pair(size: Any, name: str = "size") -> tuple[int, int]:
    height, width = _whole(name, size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size))
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"compose: {name} must have sides in [1, {MAX_SIDE}], got {(height, width)}")
    return height, width


def _fill(fill: Any) -> tuple[int, ...]:
    values = _whole("fill", (fill,) * 3 if type(fill) is int or np.ndim(fill) == 0 else tuple(fill))
    if len(values) != 3 or min(values) < 0 or max(values) > 255:
        raise ValueError(f"compose: fill must be one or three numbers in [0, 255], got {fill!r}")
    return values


def _share(blend: Any) -> float:
    share = real("compose", "blend", blend)
    if not 0 <= share <= 1:
        raise ValueError(f"compose: blend must be in [0, 1], got {blend!r}")
    return share


def _table(table: Any, like: Any) -> Any:
    """A table of the kind of the pictures; those of NumPy go where the pictures are."""
    shape = getattr(table, "shape", None)
    if shape is None or tuple(shape) != (3, 256):
        raise ValueError(
            f"compose: hsv must be (3, 256) uint8, got {shape if shape is not None else type(table).__name__}"
        )
    if isinstance(table, np.ndarray):
        if table.dtype != np.uint8:
            raise TypeError(f"compose: hsv must be uint8, got {table.dtype}")
        if hasattr(like, "new_tensor"):  # torch
            return like.new_tensor(table)
        if type(like).__module__.partition(".")[0] == "cupy":
            return sys.modules["cupy"].asarray(table)
        return np.ascontiguousarray(table)
    return table.contiguous() if hasattr(table, "contiguous") else table


# ---- operators ----


def _flat_reference(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    tiles: Sequence[int],
    layers: Sequence[int],
    maps: Sequence[float],
    pictures: Sequence[int],
    blends: Sequence[float],
    height: int,
    width: int,
    channels_last: bool,
) -> np.ndarray:
    """``compose_reference`` from the numbers of the operator."""
    tile_numbers, layer_numbers = iter(np.reshape(tiles, (-1, 8)).tolist()), iter(np.reshape(layers, (-1, 3)).tolist())
    inverses = iter(np.reshape(maps, (-1, 9)))
    batch = np.empty((len(blends), height, width, 3), np.uint8)
    for result, blend, numbers in zip(batch, blends, np.reshape(pictures, (-1, 8)).tolist()):
        count, table, *fill, bgr, flip_horizontal, flip_vertical = numbers
        warped = []
        for _ in range(count):
            tile_count, *canvas = next(layer_numbers)
            shown = []
            for image, mask, left, top, *window in (next(tile_numbers) for _ in range(tile_count)):
                shown.append(Tile(images[image], left, top, tuple(window), masks[mask] if mask >= 0 else None))
            pixels = _canvas(Layer(shown, tuple(canvas), None), np.array(fill, np.uint8))
            warped.append(warp(pixels, next(inverses), (height, width), np.array(fill, np.uint8)))
        colours = tables[table] if table >= 0 else None
        result[:] = _finish(warped, blend, colours, bool(bgr), bool(flip_horizontal), bool(flip_vertical))
    return batch if channels_last else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


class _OutOp(Op):
    """Writes to its first argument. The slow twins cannot: their result is copied there."""

    def run(self, *args: Any) -> None:
        out, *rest = args
        name = current_backend()
        if name == "reference" or (name == "cpu" and hasattr(out, "__cuda_array_interface__")):
            _copy_to(out, COMPOSE.run(*rest))
        else:
            self.native(*args, name)


def _copy_to(out: Any, batch: Any) -> None:
    expected = (tuple(batch.shape), str(batch.dtype).removeprefix("torch."))
    if (tuple(out.shape), str(out.dtype).removeprefix("torch.")) != expected:
        raise ValueError(f"compose: out must be {expected[0]} of {expected[1]}, got {tuple(out.shape)} of {out.dtype}")
    out[...] = out.new_tensor(batch) if hasattr(out, "new_tensor") and isinstance(batch, np.ndarray) else batch


def _native(*args: Any) -> Any:
    return _core.compose(None, *args)


def _fake(images: Any, masks: Any, tables: Any, *numbers: Any) -> Any:
    *_, blends, height, width, channels_last = numbers
    shape = (len(blends), height, width, 3) if channels_last else (len(blends), 3, height, width)
    return (images or masks or tables)[0].new_empty(shape)


def _reference_out(out: np.ndarray, *args: Any) -> None:
    out[...] = _flat_reference(*args)


def _fake_out(*_: Any) -> None:
    return None


_ARGUMENTS = (
    "Tensor[] images, Tensor[] masks, Tensor[] tables, int[] tiles, int[] layers, float[] maps, int[] pictures, "
    "float[] blends, int height, int width, bool channels_last"
)
COMPOSE = Op(
    name="compose",
    schema=f"({_ARGUMENTS}) -> Tensor",
    native=_native,
    reference=_flat_reference,
    fake=_fake,
)
COMPOSE_OUT = _OutOp(
    name="compose_out",
    schema=f"(Tensor(a!) out, {_ARGUMENTS}) -> ()",
    native=_core.compose,
    reference=_reference_out,
    fake=_fake_out,
)
