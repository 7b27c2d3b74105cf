# SPDX-License-Identifier: Apache-2.0
"""The pixel rules of ``compose`` in NumPy: bilinear warp and 8-bit HSV, the arithmetic of OpenCV 5 with AVX2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

F32 = np.float32


def inverse_map(matrix: np.ndarray) -> np.ndarray:
    """Output pixel -> canvas pixel, 9 float32: ``inverse_numbers``, rounded once."""
    return np.array(inverse_numbers(np.asarray(matrix, np.float64).tolist()), F32)


def inverse_numbers(matrix: Sequence[Sequence[float]]) -> list[float]:
    """The inverse of ``matrix`` (three rows), row by row, in OpenCV's order of operations.

    The matrix must be finite and regular (ZeroDivisionError). Affine ones (last row 0, 0, 1) keep that row.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix
    if (g, h, i) == (0, 0, 1):
        scale = 1.0 / (a * e - b * d)
        m0, m1, m3, m4 = e * scale, b * -scale, d * -scale, a * scale
        return [m0, m1, -m0 * c - m1 * f, m3, m4, -m3 * c - m4 * f, 0.0, 0.0, 1.0]
    scale = 1.0 / (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    cofactors = [e * i - f * h, c * h - b * i, b * f - c * e, f * g - d * i, a * i - c * g]
    cofactors += [c * d - a * f, d * h - e * g, b * g - a * h, a * e - b * d]
    return [cofactor * scale for cofactor in cofactors]


def warp(canvas: np.ndarray, inverse: np.ndarray, size: tuple[int, int], fill: np.ndarray) -> np.ndarray:
    """Bilinear samples of ``canvas`` (H, W, 3) uint8 at the positions of an output of ``size``, in ``fill`` outside.

    Positions: ``x m0 + (y m1 + m2)`` in float32, the inner product and sum rounded each, the outer ones once (fused);
    a projective map divides. Fractions are not quantised. Between pixels: ``p + t (q - p)``, fused, first along the
    row; the result is rounded half to even. A position that is no number or lies a pixel outside gives ``fill``.
    """
    inverse = np.asarray(inverse, F32)
    y, x = (np.broadcast_to(axis.astype(F32), size) for axis in np.ogrid[: size[0], : size[1]])
    m = inverse.reshape(3, 3)
    with np.errstate(all="ignore"):
        sx, sy = (fused(x, m[k, 0], y * m[k, 1] + m[k, 2]) for k in range(2))
        if tuple(inverse[6:]) != (0, 0, 1):
            sw = fused(x, m[2, 0], y * m[2, 1] + m[2, 2])
            sx, sy = sx / sw, sy / sw
        height, width = canvas.shape[:2]
        inside = (sx >= -1) & (sx < width) & (sy >= -1) & (sy < height)
    sx, sy = np.where(inside, sx, F32(-1)), np.where(inside, sy, F32(-1))
    ix, iy = np.floor(sx), np.floor(sy)
    along, down = (sx - ix)[..., None], (sy - iy)[..., None]
    framed = np.empty((height + 2, width + 2, 3), F32)
    framed[:] = fill
    framed[1:-1, 1:-1] = canvas
    column, row = ix.astype(np.int64) + 1, iy.astype(np.int64) + 1
    upper, lower = (fused(along, framed[r, column + 1] - framed[r, column], framed[r, column]) for r in (row, row + 1))
    values = np.rint(fused(down, lower - upper, upper))
    return np.where(inside[..., None], values, np.asarray(fill, F32)).astype(np.uint8)


def fused(a: np.ndarray, b: Any, c: np.ndarray) -> np.ndarray:
    """``a b + c`` in float32, rounded once: in float64, rounded to odd where inexact, then to float32."""
    product = a.astype(np.float64) * np.asarray(b, np.float64)
    addend = np.broadcast_to(c, product.shape).astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(F32)


def blend_layers(first: np.ndarray, second: np.ndarray, blend: float) -> np.ndarray:
    """``blend first + (1 - blend) second`` in float64, cut off to uint8."""
    return (first.astype(np.float64) * blend + second.astype(np.float64) * (1.0 - blend)).astype(np.uint8)


def apply_hsv(pixels: np.ndarray, tables: np.ndarray, bgr: bool) -> np.ndarray:
    """``pixels`` (..., 3) through three tables of 256 over hue (0 .. 179), saturation and value."""
    rgb = pixels[..., ::-1] if bgr else pixels
    hsv = rgb_to_hsv(rgb)
    moved = np.stack([np.asarray(tables)[k][hsv[..., k]] for k in range(3)], -1)
    result = hsv_to_rgb(moved)
    return result[..., ::-1] if bgr else result


def rgb_to_hsv(rgb: np.ndarray) -> np.ndarray:
    """OpenCV's 8-bit ``COLOR_RGB2HSV``: quotients by tables in 2^-12."""
    r, g, b = (rgb[..., k].astype(np.int64) for k in range(3))
    value, least = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    span = value - least
    divisors = np.arange(1, 256)
    saturation_of = np.concatenate([[0], np.rint((255 << 12) / divisors)]).astype(np.int64)
    hue_of = np.concatenate([[0], np.rint((180 << 12) / (6.0 * divisors))]).astype(np.int64)
    hue = np.where(value == r, g - b, np.where(value == g, b - r + 2 * span, r - g + 4 * span))
    hue = (hue * hue_of[span] + (1 << 11)) >> 12
    hue = np.where(hue < 0, hue + 180, hue)
    return np.stack([hue, (span * saturation_of[value] + (1 << 11)) >> 12, value], -1).astype(np.uint8)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """OpenCV's 8-bit ``COLOR_HSV2RGB``: float32, ``1 - s f`` fused, results cut off."""
    hue, saturation, value = (hsv[..., k].astype(F32) for k in range(3))
    saturation, value = saturation * F32(1 / 255), value * F32(1 / 255)
    hue = hue * (F32(6) / F32(180))
    whole = np.trunc(hue)
    part = hue - whole
    one = np.ones_like(part)
    shades = [value, value * (one - saturation)]
    shades += [value * fused(-saturation, fraction, one) for fraction in (part, one - part)]
    sector = whole - np.trunc(whole * F32(1 / 6)) * F32(6)
    choice = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])[sector.astype(np.int64)]
    rgb = np.take_along_axis(np.stack(shades, -1), choice, -1)
    return np.trunc(rgb * F32(255)).clip(0, 255).astype(np.uint8)
