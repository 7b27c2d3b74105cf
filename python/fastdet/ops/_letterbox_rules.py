# SPDX-License-Identifier: Apache-2.0
"""The pixel rules of ``letterbox`` in NumPy: formats to RGB, resizing as OpenCV and Pillow do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CHANNELS = {"grey": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
CHROMA = {"nv12": "uv", "nv21": "vu", "i420": "uv", "yv12": "vu", "yuyv": "uv", "uyvy": "uv"}
"""Formats with chroma, and the order of its two values."""
PLANAR = ("i420", "yv12")
TWO_ROWS = ("nv12", "nv21", "i420", "yv12")
"""Formats in which two rows share their chroma: arrays (3 H / 2, W)."""
MATRICES = {
    "bt601": (1220542, 1673527, -409993, -852492, 2116026),
    "bt709": (1220945, 1879825, -223607, -558796, 2215014),
}
"""In 2^-20: luma; red from V; green from U and from V; blue from U. The first is OpenCV's (1.164, 1.596, -0.391,
-0.813, 2.018), the second 255 / 219 and 255 / 224 times Rec. 709's coefficients."""


def picture_rgb(image: np.ndarray, name: str, matrix: str) -> np.ndarray:
    """(H, W, 3) of a picture of any format."""
    if name in CHROMA:
        return _yuv_to_rgb(*_yuv_planes(image, name), MATRICES[matrix])
    pixels = image.reshape(*image.shape[:2], -1)[..., :3]
    return np.broadcast_to(pixels[..., ::-1] if name.startswith("bgr") else pixels, (*image.shape[:2], 3))


def _yuv_planes(image: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, U and V of every pixel; chroma is repeated, not interpolated."""
    if name not in TWO_ROWS:
        luma = 0 if name == "yuyv" else 1
        y, chroma = image[..., luma], image[..., 1 - luma]
        return y, chroma[:, 0::2].repeat(2, 1), chroma[:, 1::2].repeat(2, 1)
    rows = image.reshape(*image.shape[:2])
    height, width = len(image) // 3 * 2, image.shape[1]
    below = rows[height:]
    planes = below.reshape(2, height // 2, width // 2) if name in PLANAR else (below[:, 0::2], below[:, 1::2])
    first, second = (plane.repeat(2, 0).repeat(2, 1) for plane in planes)
    return (rows[:height], first, second) if CHROMA[name] == "uv" else (rows[:height], second, first)


def _yuv_to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, matrix: Sequence[int]) -> np.ndarray:
    """Limited range to RGB in 2^-20, rounded half up: ``cvtColor``."""
    luma, red_v, green_u, green_v, blue_u = matrix
    bright = np.maximum(y.astype(np.int32) - 16, 0) * luma + (1 << 19)
    u, v = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    channels = (bright + red_v * v, bright + green_v * v + green_u * u, bright + blue_u * u)
    return (np.stack(channels, -1) >> 20).clip(0, 255).astype(np.uint8)


def resize(pixels: np.ndarray, new_height: int, new_width: int, mode: str) -> np.ndarray:
    """(H, W, 3) uint8 to (new_height, new_width, 3), as the library that ``mode`` names."""
    height, width = pixels.shape[:2]
    if mode == "cv2_area":
        steps = _step(height, new_height), _step(width, new_width)
        if min(steps) < 1:
            return _resize_cv2(pixels, new_height, new_width, area=True)
        return _resize_area(pixels, new_height, new_width, *steps)
    if mode == "cv2":
        return _resize_cv2(pixels, new_height, new_width, area=False)
    vertical_first = mode == "pillow" and _vertical_pass_first(height, width, new_height, new_width)
    return _resize_pillow(pixels, new_height, new_width, vertical_first)


def _step(source: int, target: int) -> float:
    """Source pixels for a pixel of the result, with OpenCV's two roundings."""
    return 1.0 / (target / source)


def _resize_cv2(pixels: np.ndarray, new_height: int, new_width: int, area: bool) -> np.ndarray:
    """OpenCV's INTER_LINEAR for uint8: weights in 1/2048, sums truncated twice before the final rounding.

    ``area``: with the positions that INTER_AREA has where a side grows.
    """
    height, width = pixels.shape[:2]
    positions = _area_positions if area else _linear_positions
    sx, fx = positions(width, new_width)
    sy, fy = positions(height, new_height)
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
    centre = ((np.arange(target) + 0.5) * _step(source, target) - 0.5).astype(np.float32)
    whole = np.floor(centre)
    return whole.astype(np.int64), centre - whole


def _area_positions(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for INTER_AREA where a side grows: the next pixel counts as far as the output pixel reaches into it."""
    at = np.arange(target)
    whole = np.floor(at * _step(source, target))
    fraction = ((at + 1) - (whole + 1) * (target / source)).astype(np.float32)
    fraction = np.where(fraction <= 0, np.float32(0), fraction - np.floor(fraction))
    return whole.astype(np.int64), fraction


def _resize_area(pixels: np.ndarray, new_height: int, new_width: int, down: float, across: float) -> np.ndarray:
    """OpenCV's INTER_AREA where no side grows: means over the part of the picture that each output pixel covers."""
    rows, columns = round(down), round(across)
    whole = abs(down - rows) < 2.0**-52 and abs(across - columns) < 2.0**-52
    if whole and rows * columns <= 1 << 23:
        sums = pixels.reshape(new_height, rows, new_width, columns, -1).sum((1, 3), dtype=np.int32)
        if rows == columns == 2:
            return ((sums + 2) >> 2).astype(np.uint8)
        return np.rint(sums.astype(np.float32) * (np.float32(1) / np.float32(rows * columns))).astype(np.uint8)
    wide = pixels.astype(np.float32).transpose(1, 0, 2)
    narrowed = _area_means(wide, new_width, across).transpose(1, 0, 2)
    return np.rint(_area_means(narrowed, new_height, down)).clip(0, 255).astype(np.uint8)


def _area_means(values: np.ndarray, target: int, step: float) -> np.ndarray:
    """Means along the first axis, summed as float32 in rising order; parts below a thousandth are left out."""
    source = len(values)
    result = np.zeros((target, *values.shape[1:]), np.float32)
    for i in range(target):
        start = i * step
        stop = start + step
        cell = min(step, source - start)
        end = min(math.floor(stop), source - 1)
        begin = min(math.ceil(start), end)
        weights = [(k, 1.0 / cell) for k in range(begin, end)]
        if begin - start > 1e-3:
            weights.insert(0, (begin - 1, (begin - start) / cell))
        if stop - end > 1e-3:
            weights.append((end, min(stop - end, 1.0, cell) / cell))
        for k, weight in weights:
            result[i] += values[k] * np.float32(weight)
    return result


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


def round_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 rounded half to even to the precision of bfloat16."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
