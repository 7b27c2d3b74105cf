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
from fastdet.ops._letterbox_rules import CHANNELS, CHROMA, MATRICES, TWO_ROWS, picture_rgb, resize, round_bfloat16

MODES = ("cv2", "cv2_area", "pillow", "pillow12")
FORMATS = (*CHANNELS, *CHROMA)
DTYPES = ("uint8", "float16", "bfloat16", "float32")
LAYOUTS = ("nchw", "nhwc")
MAX_CHANNELS = 64


def letterbox(
    images: Any,
    size: int | tuple[int, int],
    *,
    mode: str = "cv2",
    format: str | Sequence[str] | None = None,
    matrix: str = "bt601",
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
    channels: int = 3,
    out: Any = None,
) -> tuple[Any, Letterbox]:
    """Resize, pad, reorder and normalise pictures into one batch, in one pass over the pixels.

    The resized picture is made of 8-bit pixels, bit-equal to the library that ``mode`` names; what follows is exact
    float32 arithmetic, each operation rounded once: ``(pixel / 255 - mean) / std``.

    Args:
        images: one picture or a list of pictures of any sizes: (H, W) or (H, W, 1) grey, (H, W, 3), or (H, W, 4)
            whose alpha is dropped, or one of the YUV formats below; uint8, any strides. Grey fills all three channels.
            NumPy, torch (CPU, CUDA) or CuPy, one kind a call.
        size: (height, width) of the result, or one number for both.
        mode: ``"cv2"`` is OpenCV's ``INTER_LINEAR``, ``"cv2_area"`` its ``INTER_AREA``: means where no side grows,
            else bilinear with positions of its own. ``"pillow"`` is Pillow's antialiased ``BILINEAR`` as of Pillow
            13, which makes the vertical pass first when it removes more than twice as many rows as columns;
            ``"pillow12"`` is that of Pillow up to 12, always horizontal first. (Each pass rounds to 8 bits, so the
            order shows.)
        format: of the pictures, one name or one for each. None takes grey, three or four channels by the shape and
            keeps their order. ``"grey"``, ``"rgb"``, ``"rgba"``, ``"bgr"``, ``"bgra"`` give RGB. So do the YUV
            formats of 8 bits and limited range, each picture as one array: ``"nv12"``, ``"nv21"``, ``"i420"``,
            ``"yv12"`` (3 H / 2, W) with H and W even, ``"yuyv"``, ``"uyvy"`` (H, W, 2) with W even. They are
            converted before they are resized, as OpenCV's ``cvtColor`` does, bit for bit; each chroma value stands
            for all of its pixels.
        matrix: of the YUV formats: ``"bt601"`` (OpenCV's) or ``"bt709"``.
        fill: value of the padding in [0, 255], one or three; normalised like a pixel.
        swap_rb: exchange the first and the third channel (BGR to RGB; with a named format the result is BGR). All
            three-channel arguments are in the result's order.
        scale_up: let small pictures grow to ``size``; otherwise they are only padded.
        center: pad on both sides (an odd row goes to the bottom, an odd column to the right); otherwise the picture
            is at the top left.
        stride: pad only up to the next multiple of it instead of up to ``size``: the smallest rectangle. All pictures
            of a call must then need the same one.
        keep_ratio: otherwise the picture is stretched to ``size``, nothing is padded; not with ``scale_up=False``.
        mean, std: three numbers each, in units after ``scale``; not for uint8 results.
        scale: divide by 255. uint8 results hold the pixels as they are.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` (torch only) or ``"uint8"``; torch and NumPy dtypes are
            understood.
        layout: ``"nchw"`` or ``"nhwc"``.
        channels: of an ``"nhwc"`` result, 3 to 64 (4 or 8 suit a first convolution); those past the third hold 0.
        out: a contiguous array of the result's shape and dtype to write to, which shares no memory with a picture.

    Returns:
        (batch, geometry): (B, 3, H, W) or (B, H, W, channels) in the kind of ``images`` and on their device, and the
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
    formats = _formats(format, len(pictures))
    sizes = [_size_of(picture, i, name) for i, (picture, name) in enumerate(zip(pictures, formats))]
    input_size, placements = _place(sizes, _pair(size), scale_up, center, stride, keep_ratio)
    geometry = Letterbox(
        input_size,
        tuple(sizes),
        tuple((p.height, p.width) for p in placements),
        tuple((p.top, p.left) for p in placements),
    )
    attributes = _attributes(mode, matrix, fill, swap_rb, mean, std, scale, _dtype_name(dtype), layout, channels)
    flat = [number for p in placements for number in p]
    if out is not None:
        LETTERBOX_OUT(out, pictures, formats, flat, *input_size, *attributes)
        return out, geometry
    if not pictures:
        return _empty_batch(input_size, attributes), geometry
    return LETTERBOX(pictures, formats, flat, *input_size, *attributes), geometry


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
    formats: Sequence[str],
    placements: Sequence[int],
    height: int,
    width: int,
    mode: str,
    matrix: str,
    fill: Sequence[int],
    swap_rb: bool,
    scale: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
    channels_last: bool,
    channels: int,
) -> np.ndarray:
    """The rule of ``letterbox`` in NumPy, after its geometry; one picture and one step at a time.

    ``formats`` holds a name for each picture, empty for RGB or grey by its shape; ``placements`` new height, new
    width, top and left of each; empty ``mean`` and ``std`` mean none. bfloat16 results come as float32 holding
    bfloat16 values.
    """
    batch = np.empty((len(images), height, width, 3), np.uint8)
    batch[:] = np.array(fill, np.uint8)
    for b, (image, name) in enumerate(zip(images, formats)):
        new_height, new_width, top, left = placements[4 * b : 4 * b + 4]
        resized = resize(picture_rgb(image, name, matrix), new_height, new_width, mode)
        batch[b, top : top + new_height, left : left + new_width] = resized[..., ::-1] if swap_rb else resized
    result: np.ndarray = batch
    if dtype != "uint8":
        result = batch.astype(np.float32)
        if scale:
            result = result / np.float32(255)
        if len(mean) or len(std):
            result = (result - np.array(mean or (0, 0, 0), np.float32)) / np.array(std or (1, 1, 1), np.float32)
        result = round_bfloat16(result) if dtype == "bfloat16" else result.astype(dtype)
    padded = np.zeros((*result.shape[:3], channels), result.dtype)
    padded[..., :3] = result
    return padded if channels_last else np.ascontiguousarray(padded.transpose(0, 3, 1, 2))


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


def _formats(given: Any, count: int) -> list[str]:
    """A name for each picture; empty for what its shape says."""
    try:
        names = [given] * count if given is None or isinstance(given, str) else list(given)
    except TypeError:
        raise TypeError(f"letterbox: format must be one name or one for each picture, got {given!r}") from None
    if len(names) != count:
        raise ValueError(f"letterbox: format must be one name or one for each of {count} pictures, got {len(names)}")
    for name in [given] if isinstance(given, str) else names:
        if name is not None and name not in FORMATS:
            raise ValueError(f"letterbox: format must be one of {', '.join(FORMATS)}, got {name!r}")
    return [name or "" for name in names]


def _size_of(picture: Any, i: int, name: str) -> tuple[int, int]:
    """(height, width) of a picture, whose array must have the shape of its format."""
    shape = getattr(picture, "shape", None)
    if shape is None:
        hint = "; did you mean np.asarray(image)?" if type(picture).__module__.startswith("PIL") else ""
        raise TypeError(f"letterbox: images[{i}] must be an array, got {type(picture).__name__}{hint}")
    shape = tuple(shape)
    if len(shape) not in (2, 3):
        hint = "; a stack of pictures is passed as list(images)" if len(shape) == 4 else ""
        raise ValueError(f"letterbox: images[{i}] must be (H, W) or (H, W, C), got {shape}{hint}")
    if shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"letterbox: images[{i}] must have at least one pixel, got {shape}")
    depth = shape[2] if len(shape) == 3 else 1
    if name in CHROMA:
        return _yuv_size(shape, depth, i, name)
    accepted = (CHANNELS[name],) if name else (1, 3, 4)
    if depth not in accepted:
        rule = f"{CHANNELS[name]} channels for format {name}" if name else "1, 3 or 4 channels"
        hint = ""
        if shape[0] in accepted:
            hint = "; did you mean images of (H, W, C), by permute(1, 2, 0) or transpose(1, 2, 0)?"
        elif depth == 2 and not name:
            hint = "; did you mean format='yuyv'?"
        raise ValueError(f"letterbox: images[{i}] must have {rule}, got {shape}{hint}")
    return int(shape[0]), int(shape[1])


def _yuv_size(shape: tuple[int, ...], depth: int, i: int, name: str) -> tuple[int, int]:
    """Height and width must be even where pixels share chroma."""
    if name in TWO_ROWS:
        if depth != 1 or shape[0] % 3 or shape[1] % 2:
            raise ValueError(
                f"letterbox: images[{i}] must be (3 H / 2, W) with H and W even for format {name}, got {shape}; "
                "luma rows first, chroma below; cut an odd picture by a row or a column"
            )
        return int(shape[0]) // 3 * 2, int(shape[1])
    if depth != 2 or shape[1] % 2:
        raise ValueError(f"letterbox: images[{i}] must be (H, W, 2) with W even for format {name}, got {shape}")
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
    mode: Any,
    matrix: Any,
    fill: Any,
    swap_rb: Any,
    mean: Any,
    std: Any,
    scale: Any,
    dtype: str,
    layout: Any,
    channels: Any,
) -> tuple[str, str, list[int], bool, bool, list[float], list[float], str, bool, int]:
    """Attributes in the order of the schema, checked."""
    for name, value, choices in (("mode", mode, MODES), ("matrix", matrix, MATRICES), ("layout", layout, LAYOUTS)):
        if value not in tuple(choices):
            raise ValueError(f"letterbox: {name} must be one of {', '.join(choices)}, got {value!r}")
    if dtype == "uint8" and (mean is not None or std is not None):
        raise ValueError("letterbox: mean and std must be None for a uint8 result, which holds the pixels as they are")
    means, stds = _three("mean", mean), _three("std", std)
    if any(value == 0 for value in stds):
        raise ValueError(f"letterbox: std must not be zero, got {stds}")
    channels = _positive("channels", channels)
    if channels != 3 and (layout != "nhwc" or not 3 <= channels <= MAX_CHANNELS):
        rule = f"3 to {MAX_CHANNELS}" if layout == "nhwc" else '3 with layout "nchw"'
        raise ValueError(f"letterbox: channels must be {rule}, got {channels}")
    last = layout == "nhwc"
    return mode, matrix, _fill(fill), bool(swap_rb), bool(scale), means, stds, dtype, last, channels


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
        except (TypeError, ValueError, OverflowError):
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
    dtype, channels_last, channels = attributes[-3:]
    if dtype == "bfloat16":
        raise TypeError("letterbox: NumPy has no bfloat16: pass torch tensors, or ask for float32 or float16")
    return np.empty((0, *size, channels) if channels_last else (0, 3, *size), dtype)


# ---- boxes of any kind ----


def _as_float(boxes: Any, name: str) -> Any:
    if hasattr(boxes, "boxes"):
        raise TypeError(f"{name}: boxes must be an array (..., 4), got {type(boxes).__name__}; pass its .boxes")
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
        dtype = args[-3]
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


def _fake(images: Any, formats: Any, placements: Any, height: int, width: int, *attributes: Any) -> Any:
    import torch

    dtype, channels_last, channels = attributes[-3:]
    shape = (len(images), height, width, channels) if channels_last else (len(images), channels, height, width)
    return images[0].new_empty(shape, dtype=getattr(torch, dtype))


def _reference_out(out: np.ndarray, *args: Any) -> None:
    out[...] = letterbox_reference(*args)


def _fake_out(*_: Any) -> None:
    return None


_ARGUMENTS = (
    "Tensor[] images, str[] formats, int[] placements, int height, int width, str filter, str matrix, int[] fill, "
    "bool swap_rb, bool scale, float[] mean, float[] std, str dtype, bool channels_last, int channels"
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
