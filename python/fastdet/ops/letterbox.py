# SPDX-License-Identifier: Apache-2.0
"""Letterbox: pictures of any size to one network input, and the way back for boxes."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._backend import Op, current_backend

MODES = ("cv2", "pillow", "pillow12")
DTYPES = ("uint8", "float16", "bfloat16", "float32")
LAYOUTS = ("nchw", "nhwc")


def letterbox(
    images: Any,
    size: int | tuple[int, int],
    *,
    mode: str = "cv2",
    fill: int | Sequence[int] = 114,
    swap_rb: bool = False,
    scale_up: bool = True,
    center: bool = True,
    stride: int | None = None,
    keep_ratio: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: bool = True,
    dtype: str = "float32",
    layout: str = "nchw",
    out: Any = None,
) -> tuple[Any, Letterbox]:
    """Resize, pad, reorder and normalise pictures into one batch, in one pass over the pixels.

    The resized picture is made of 8-bit pixels, bit-equal to the library that ``mode`` names; what follows is exact
    float32 arithmetic, each operation rounded once: ``(pixel / 255 - mean) / std``.

    Args:
        images: one picture or a list of pictures of any sizes: (H, W) or (H, W, 1) grey, (H, W, 3), or (H, W, 4)
            whose alpha is dropped; uint8, any strides. Grey fills all three channels. NumPy, torch (CPU, CUDA) or
            CuPy, one kind a call.
        size: (height, width) of the result, or one number for both.
        mode: ``"cv2"`` is OpenCV's ``INTER_LINEAR``. ``"pillow"`` is Pillow's antialiased ``BILINEAR`` as of Pillow
            13, which makes the vertical pass first when it removes more than twice as many rows as columns;
            ``"pillow12"`` is that of Pillow up to 12, always horizontal first. (Each pass rounds to 8 bits, so the
            order shows.)
        fill: value of the padding in [0, 255], one or three; normalised like a pixel.
        swap_rb: exchange the first and the third channel (BGR to RGB). All three-channel arguments are in the
            result's order.
        scale_up: let small pictures grow to ``size``; otherwise they are only padded.
        center: pad on both sides (an odd row goes to the bottom, an odd column to the right); otherwise the picture
            is at the top left.
        stride: pad only up to the next multiple of it instead of up to ``size``: the smallest rectangle. All pictures
            of a call must then need the same one.
        keep_ratio: otherwise the picture is stretched to ``size``, nothing is padded.
        mean, std: three numbers each, in units after ``scale``; not for uint8 results.
        scale: divide by 255. uint8 results hold the pixels as they are.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` (torch only) or ``"uint8"``; torch and NumPy dtypes are
            understood.
        layout: ``"nchw"`` or ``"nhwc"``.
        out: a contiguous array of the result's shape and dtype to write to, which shares no memory with a picture.

    Returns:
        (batch, geometry): (B, 3, H, W) or (B, H, W, 3) in the kind of ``images`` and on their device, and the
        ``Letterbox`` that maps boxes between pictures and batch.

    Raises:
        TypeError: a picture is no uint8 array, a dtype is not listed, or bfloat16 is asked of NumPy. ValueError: a
        shape or an attribute breaks a rule above, a picture has no pixel, or ``out`` does not fit or overlaps a
        picture.

    Example:
        >>> batch, geometry = letterbox([image], 640, swap_rb=True)
        >>> boxes_im = geometry.to_image(boxes_in, index=0)

    Source of the geometry: the convention of the YOLO family, ratio ``min(H / h, W / w)``, sides rounded half to even.
    Cost: scratch memory of a few rows. Gradients: none. Same result on every backend, bit for bit.
    """
    pictures = list(images) if isinstance(images, (list, tuple)) else [images]
    sizes = [_size_of(picture, i) for i, picture in enumerate(pictures)]
    input_size, placements = _place(sizes, _pair(size), scale_up, center, stride, keep_ratio)
    geometry = Letterbox(
        input_size,
        tuple(sizes),
        tuple((p.height, p.width) for p in placements),
        tuple((p.top, p.left) for p in placements),
    )
    attributes = _attributes(mode, fill, swap_rb, mean, std, scale, _dtype_name(dtype), layout)
    flat = [number for p in placements for number in p]
    if out is not None:
        LETTERBOX_OUT(out, pictures, flat, *input_size, *attributes)
        return out, geometry
    if not pictures:
        return _empty_batch(input_size, attributes), geometry
    return LETTERBOX(pictures, flat, *input_size, *attributes), geometry


@dataclass(frozen=True)
class Letterbox:
    """Where each picture of a batch lies in the network input. The only mapping of coordinates between the two.

    Attributes:
        input_size: (height, width) of the batch.
        image_sizes: (height, width) of each picture.
        resized_sizes: (height, width) of each picture after resizing, in whole pixels.
        offsets: (top, left) of each resized picture in the input.
    """

    input_size: tuple[int, int]
    image_sizes: tuple[tuple[int, int], ...]
    resized_sizes: tuple[tuple[int, int], ...]
    offsets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.image_sizes)

    @property
    def gains(self) -> tuple[tuple[float, float], ...]:
        """(vertical, horizontal) input pixels per picture pixel, from the rounded sizes; one pair per picture."""
        return tuple((nh / h, nw / w) for (h, w), (nh, nw) in zip(self.image_sizes, self.resized_sizes))

    def to_image(self, boxes: Any, index: Any = None, clip: bool = True, *, ideal: bool = False) -> Any:
        """Boxes in input pixels to boxes in picture pixels.

        Args:
            boxes: (..., 4) x1, y1, x2, y2; NumPy, torch or CuPy, or nested lists.
            index: which picture: a number for all boxes, or integers of the shape of ``boxes`` without its last axis.
                None for a batch of one, or for boxes (B, D, 4) that lie in the B pictures in order.
            clip: cut boxes at the borders of the picture.
            ideal: map by the ratio and the borders before they were rounded to whole pixels, as YOLOv5 does; up to half
                an input pixel beside where the picture lies.

        Returns:
            An array of the same shape and kind; float64 stays, everything else becomes float32.

        Raises:
            ValueError: ``boxes`` do not end in 4, or ``index`` names no picture or is missing.
        """
        boxes, numbers = _as_float(boxes, "Letterbox.to_image"), self._numbers(boxes, index, "Letterbox.to_image")
        gain, shift, limit = (_like(boxes, table[numbers]) for table in self._tables(ideal))
        mapped = (boxes - shift) / gain
        return _clip(mapped, limit) if clip else mapped

    def to_input(self, boxes: Any, index: Any = None) -> Any:
        """Boxes in picture pixels to boxes in input pixels; arguments as for ``to_image``, whose inverse it is."""
        boxes, numbers = _as_float(boxes, "Letterbox.to_input"), self._numbers(boxes, index, "Letterbox.to_input")
        gain, shift, _ = (_like(boxes, table[numbers]) for table in self._tables())
        return boxes * gain + shift

    def _tables(self, ideal: bool = False) -> tuple[np.ndarray, ...]:
        """Gain, shift and picture size per picture, [B, 4] each, in the order x, y, x, y."""
        sizes = np.array(self.image_sizes, np.float64).reshape(-1, 2)
        if ideal:
            gain = (np.array(self.input_size) / sizes).min(1, keepdims=True).repeat(2, 1)
            offsets = (np.array(self.input_size) - sizes * gain) / 2
        else:
            gain = np.array(self.gains, np.float64).reshape(-1, 2)
            offsets = np.array(self.offsets, np.float64).reshape(-1, 2)
        return tuple(np.tile(a[:, ::-1], 2) for a in (gain, offsets, sizes))

    def _numbers(self, boxes: Any, index: Any, name: str) -> np.ndarray:
        """Number of the picture of each box; broadcasts against ``boxes`` without its last axis."""
        shape = tuple(boxes.shape) if hasattr(boxes, "shape") else np.shape(boxes)
        if index is None:
            if len(shape) == 3 and shape[0] == len(self):
                return np.arange(len(self))[:, None]
            if len(self) == 1:
                return np.zeros((1,) * (len(shape) - 1), np.intp)
            raise ValueError(
                f"{name}: index must say which of {len(self)} pictures the boxes {shape} lie in, got None; "
                f"without it boxes must be ({len(self)}, D, 4)"
            )
        numbers = np.asarray(index.cpu() if hasattr(index, "cpu") else index)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"{name}: index must be an integer or an integer array, got {index!r}")
        if numbers.shape not in ((), shape[:-1]):
            raise ValueError(f"{name}: index must be a number or have shape {shape[:-1]}, got {numbers.shape}")
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise ValueError(f"{name}: index must lie in [0, {len(self)}), got {numbers.min()} to {numbers.max()}")
        return numbers


def letterbox_reference(
    images: Sequence[np.ndarray],
    placements: Sequence[int],
    height: int,
    width: int,
    mode: str,
    fill: Sequence[int],
    swap_rb: bool,
    scale: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
    channels_last: bool,
) -> np.ndarray:
    """The rule of ``letterbox`` in NumPy, after its geometry; one picture and one step at a time.

    ``placements`` holds new height, new width, top and left of each picture; empty ``mean`` and ``std`` mean none.
    bfloat16 results come as float32 holding bfloat16 values.
    """
    batch = np.empty((len(images), height, width, 3), np.uint8)
    batch[:] = np.array(fill, np.uint8)
    for b, image in enumerate(images):
        new_height, new_width, top, left = placements[4 * b : 4 * b + 4]
        resize = _resize_cv2 if mode == "cv2" else _resize_pillow
        pixels = np.broadcast_to(image.reshape(*image.shape[:2], -1)[..., :3], (*image.shape[:2], 3))
        height_in, width_in = image.shape[:2]
        vertical_first = mode == "pillow" and _vertical_pass_first(height_in, width_in, new_height, new_width)
        resized = resize(pixels, new_height, new_width, vertical_first)
        batch[b, top : top + new_height, left : left + new_width] = resized[..., ::-1] if swap_rb else resized
    result: np.ndarray = batch
    if dtype != "uint8":
        result = batch.astype(np.float32)
        if scale:
            result = result / np.float32(255)
        if len(mean) or len(std):
            result = (result - np.array(mean or (0, 0, 0), np.float32)) / np.array(std or (1, 1, 1), np.float32)
        result = _round_bfloat16(result) if dtype == "bfloat16" else result.astype(dtype)
    return result if channels_last else np.ascontiguousarray(result.transpose(0, 3, 1, 2))


def _resize_cv2(pixels: np.ndarray, new_height: int, new_width: int, _: bool) -> np.ndarray:
    """OpenCV's INTER_LINEAR for uint8: weights in 1/2048, sums truncated twice before the final rounding."""
    height, width = pixels.shape[:2]
    sx, fx = _linear_positions(width, new_width)
    sy, fy = _linear_positions(height, new_height)
    fx[(sx < 0) | (sx >= width - 1)] = 0  # columns outside: all weight on the border; rows keep their weights
    sx = sx.clip(0, width - 1)
    a0, a1 = (np.rint(w * np.float32(2048)).astype(np.int32)[None, :, None] for w in (1 - fx, fx))
    b0, b1 = (np.rint(w * np.float32(2048)).astype(np.int32)[:, None, None] for w in (1 - fy, fy))
    wide = pixels.astype(np.int32)
    sums = (wide[:, sx] * a0 + wide[:, (sx + 1).clip(0, width - 1)] * a1) >> 4
    upper, lower = sums[sy.clip(0, height - 1)], sums[(sy + 1).clip(0, height - 1)]
    return ((((b0 * upper) >> 16) + ((b1 * lower) >> 16) + 2) >> 2).astype(np.uint8)


def _linear_positions(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Source position of each output position: whole part and float32 fraction."""
    centre = ((np.arange(target) + 0.5) * (1.0 / (target / source)) - 0.5).astype(np.float32)
    whole = np.floor(centre)
    return whole.astype(np.int64), centre - whole


def _vertical_pass_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Pillow 13's choice, as its results show it."""
    return new_height < height and height - new_height > 2 * (width - new_width)


def _resize_pillow(pixels: np.ndarray, new_height: int, new_width: int, vertical_first: bool) -> np.ndarray:
    """Pillow's BILINEAR: a triangle as wide as the reduction, weights in 2^-22, rounded to uint8 after each pass."""
    if vertical_first:
        return _pillow_columns(_pillow_rows(pixels, new_height), new_width)
    return _pillow_rows(_pillow_columns(pixels, new_width), new_height)


def _pillow_columns(pixels: np.ndarray, target: int) -> np.ndarray:
    return _pillow_rows(pixels.transpose(1, 0, 2), target).transpose(1, 0, 2)


def _pillow_rows(pixels: np.ndarray, target: int) -> np.ndarray:
    source = len(pixels)
    scale = source / target
    support = max(scale, 1.0)
    result = np.empty((target, *pixels.shape[1:]), np.uint8)
    for i in range(target):
        centre = (i + 0.5) * scale
        rows = range(max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source))
        weights = [max(0.0, 1 - abs((row - centre + 0.5) * (1.0 / support))) for row in rows]
        total = sum(weights)
        fixed = [int(0.5 + weight / total * 2**22) for weight in weights]
        result[i] = ((sum(pixels[row].astype(np.int32) * w for row, w in zip(rows, fixed)) + 2**21) >> 22).clip(0, 255)
    return result


def _round_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 rounded half to even to the precision of bfloat16."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )


# ---- geometry ----


class Placement(NamedTuple):
    """Size of a resized picture and its upper left corner in the input."""

    height: int
    width: int
    top: int
    left: int


def _place(
    sizes: list[tuple[int, int]],
    size: tuple[int, int],
    scale_up: bool,
    center: bool,
    stride: int | None,
    keep_ratio: bool,
) -> tuple[tuple[int, int], list[Placement]]:
    """Input size of the batch and the placement of each picture in it."""
    if not keep_ratio and not scale_up:
        raise ValueError("letterbox: scale_up must be True with keep_ratio=False, got False; stretching fills the size")
    if stride is not None:
        stride = _positive("stride", stride)
        if not sizes:
            raise ValueError(
                "letterbox: images must not be empty with stride, whose result depends on them, got 0 pictures"
            )
    needed, placements = [], []
    for height, width in sizes:
        new_height, new_width = _fit(height, width, size, scale_up) if keep_ratio else size
        pad_h, pad_w = size[0] - new_height, size[1] - new_width
        if stride is not None:
            pad_h, pad_w = pad_h % stride, pad_w % stride
        needed.append((new_height + pad_h, new_width + pad_w))
        placements.append(Placement(new_height, new_width, pad_h // 2 if center else 0, pad_w // 2 if center else 0))
    for i, other in enumerate(needed):
        if other != needed[0]:
            raise ValueError(
                f"letterbox: images must all need one input size with stride={stride}, got {needed[0]} for images[0] "
                f"and {other} for images[{i}]; pass pictures of one shape, or leave stride away"
            )
    return (needed[0] if needed else size), placements


def _fit(height: int, width: int, size: tuple[int, int], scale_up: bool) -> tuple[int, int]:
    ratio = min(size[0] / height, size[1] / width)
    if not scale_up:
        ratio = min(ratio, 1.0)
    return max(round(height * ratio), 1), max(round(width * ratio), 1)


# ---- arguments ----


def _size_of(picture: Any, i: int) -> tuple[int, int]:
    shape = getattr(picture, "shape", None)
    if shape is None:
        hint = "; did you mean np.asarray(image)?" if type(picture).__module__.startswith("PIL") else ""
        raise TypeError(f"letterbox: images[{i}] must be an array, got {type(picture).__name__}{hint}")
    shape = tuple(shape)
    if len(shape) not in (2, 3):
        hint = "; a stack of pictures is passed as list(images)" if len(shape) == 4 else ""
        raise ValueError(f"letterbox: images[{i}] must be (H, W) or (H, W, C), got {shape}{hint}")
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        hint = (
            "; did you mean images of (H, W, C), by permute(1, 2, 0) or transpose(1, 2, 0)?"
            if shape[0] in (1, 3, 4)
            else ""
        )
        raise ValueError(f"letterbox: images[{i}] must have 1, 3 or 4 channels, got {shape}{hint}")
    if shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"letterbox: images[{i}] must have at least one pixel, got {shape}")
    return int(shape[0]), int(shape[1])


def _positive(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"letterbox: {name} must be an integer, got {value!r}") from None
    if not 1 <= number < 2**31:
        raise ValueError(f"letterbox: {name} must be positive and below 2^31, got {number}")
    return number


def _pair(size: Any) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)):
        size = (size, size)
    if len(size) != 2:
        raise ValueError(f"letterbox: size must be one number or (height, width), got {tuple(size)}")
    return _positive("size", size[0]), _positive("size", size[1])


def _attributes(
    mode: Any, fill: Any, swap_rb: Any, mean: Any, std: Any, scale: Any, dtype: str, layout: Any
) -> tuple[str, list[int], bool, bool, list[float], list[float], str, bool]:
    """Attributes in the order of the schema, checked."""
    for name, value, choices in (("mode", mode, MODES), ("layout", layout, LAYOUTS)):
        if value not in choices:
            raise ValueError(f"letterbox: {name} must be one of {', '.join(choices)}, got {value!r}")
    if dtype == "uint8" and (mean is not None or std is not None):
        raise ValueError("letterbox: mean and std must be None for a uint8 result, which holds the pixels as they are")
    means, stds = _three("mean", mean), _three("std", std)
    if any(value == 0 for value in stds):
        raise ValueError(f"letterbox: std must not be zero, got {stds}")
    return mode, _fill(fill), bool(swap_rb), bool(scale), means, stds, dtype, layout == "nhwc"


def _three(name: str, values: Any) -> list[float]:
    if values is None:
        return []
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        raise TypeError(f"letterbox: {name} must be three numbers, got {values!r}") from None
    if len(numbers) != 3:
        raise ValueError(f"letterbox: {name} must be three numbers, got {len(numbers)}")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"letterbox: {name} must be finite, got {numbers}")
    return numbers


def _fill(fill: Any) -> list[int]:
    several = isinstance(fill, (tuple, list)) or getattr(fill, "ndim", 0) > 0
    values = list(fill) if several else [fill] * 3
    if len(values) != 3:
        raise ValueError(f"letterbox: fill must be one or three numbers, got {len(values)}")
    for value in values:
        try:
            whole = int(value)
        except (TypeError, ValueError):
            raise TypeError(f"letterbox: fill must be one or three numbers, got {fill!r}") from None
        if whole != value or not 0 <= whole <= 255:
            raise ValueError(f"letterbox: fill must be whole and in [0, 255], got {fill!r}")
    return [int(value) for value in values]


def _dtype_name(dtype: Any) -> str:
    name = (
        dtype
        if isinstance(dtype, str)
        else getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    )
    name = name.removeprefix("torch.")
    if name not in DTYPES:
        raise TypeError(f"letterbox: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return name


def _empty_batch(size: tuple[int, int], attributes: tuple[Any, ...]) -> np.ndarray:
    """No picture says of which kind the result is to be: NumPy."""
    dtype, channels_last = attributes[-2:]
    if dtype == "bfloat16":
        raise TypeError("letterbox: NumPy has no bfloat16: pass torch tensors, or ask for float32 or float16")
    return np.empty((0, *size, 3) if channels_last else (0, 3, *size), dtype)


# ---- boxes of any kind ----


def _as_float(boxes: Any, name: str) -> Any:
    shape = tuple(boxes.shape) if hasattr(boxes, "shape") else np.shape(boxes)
    if len(shape) < 1 or shape[-1] != 4:
        raise ValueError(f"{name}: boxes must be (..., 4), got {shape}")
    if hasattr(boxes, "new_tensor"):  # torch
        return boxes if str(boxes.dtype) == "torch.float64" else boxes.float()
    boxes = boxes if _is_cupy(boxes) else np.asarray(boxes)
    return boxes if boxes.dtype == np.float64 and hasattr(boxes, "shape") else boxes.astype(np.float32)


def _is_cupy(a: Any) -> bool:
    return type(a).__module__.partition(".")[0] == "cupy"


def _like(boxes: Any, table: np.ndarray) -> Any:
    if hasattr(boxes, "new_tensor"):
        return boxes.new_tensor(table)
    return (sys.modules["cupy"] if _is_cupy(boxes) else np).asarray(table, boxes.dtype)


def _clip(boxes: Any, limit: Any) -> Any:
    if hasattr(boxes, "new_tensor"):
        return boxes.clamp(min=0).minimum(limit)
    return boxes.clip(0, limit)


# ---- operators ----


class _BatchOp(Op):
    """NumPy has no bfloat16, so the reference rounds to it and torch stores it."""

    def run(self, *args: Any) -> Any:
        result = super().run(*args)
        dtype = args[10]
        if dtype == "bfloat16" and hasattr(result, "bfloat16"):
            return result.bfloat16()
        if dtype == "bfloat16":
            raise TypeError("letterbox: NumPy has no bfloat16: pass torch tensors, or ask for float32 or float16")
        return result


class _OutOp(Op):
    """Writes to its first argument. The slow twins cannot: their result is copied there."""

    def run(self, *args: Any) -> None:
        out, *rest = args
        name = current_backend()
        if name == "reference" or (name == "cpu" and hasattr(out, "__cuda_array_interface__")):
            _copy_to(out, rest)
        else:
            self.native(*args, name)


def _copy_to(out: Any, rest: Sequence[Any]) -> None:
    batch = LETTERBOX.run(*rest)
    expected = (tuple(batch.shape), str(batch.dtype))
    if (tuple(out.shape), str(out.dtype)) != expected:
        raise ValueError(
            f"letterbox: out must be {expected[0]} of {expected[1]}, got {tuple(out.shape)} of {out.dtype}"
        )
    out[...] = batch


def _native(*args: Any) -> Any:
    return _core.letterbox(None, *args)


def _fake(images: Any, placements: Any, height: int, width: int, *attributes: Any) -> Any:
    import torch

    dtype, channels_last = attributes[-2:]
    shape = (len(images), height, width, 3) if channels_last else (len(images), 3, height, width)
    return images[0].new_empty(shape, dtype=getattr(torch, dtype))


def _reference_out(out: np.ndarray, *args: Any) -> None:
    out[...] = letterbox_reference(*args)


def _fake_out(*_: Any) -> None:
    return None


_ARGUMENTS = (
    "Tensor[] images, int[] placements, int height, int width, str filter, int[] fill, bool swap_rb, bool scale, "
    "float[] mean, float[] std, str dtype, bool channels_last"
)
LETTERBOX = _BatchOp(
    name="letterbox",
    schema=f"({_ARGUMENTS}) -> Tensor",
    native=_native,
    reference=letterbox_reference,
    fake=_fake,
)
LETTERBOX_OUT = _OutOp(
    name="letterbox_out",
    schema=f"(Tensor(a!) out, {_ARGUMENTS}) -> ()",
    native=_core.letterbox,
    reference=_reference_out,
    fake=_fake_out,
)
