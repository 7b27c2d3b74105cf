# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of the letterbox: geometry and pixels of synthetic pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]
_COLUMNS = [
    "in_h",
    "in_w",
    "target_h",
    "target_w",
    "auto",
    "scaleup",
    "stride",
    "new_h",
    "new_w",
    "top",
    "bottom",
    "left",
    "right",
    "out_h",
    "out_w",
]  # the last eight are results


def letterbox_vectors(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of ``letterbox``: rows completed by their geometry, pixels at the places asked for, loader's sizes."""
    names = [str(name) for name in arrays["columns"]] if "columns" in arrays else _COLUMNS
    rows = np.zeros((len(arrays["rows"]), len(_COLUMNS)), np.int32)
    outputs: Arrays = {}
    for i, given in enumerate(np.asarray(arrays["rows"])):
        row = dict(zip(names, (int(number) for number in given)))
        prefix = f"{i}/"
        for name, value in _letterbox_row(
            row, {k: np.asarray(arrays[prefix + k]) for k in _inputs(arrays, prefix)}
        ).items():
            outputs[prefix + name] = value
        rows[i] = [row[name] for name in _COLUMNS]
    outputs["rows"] = rows
    if "load_resize" in arrays:
        outputs["load_resize"] = np.array([_load_resize(*map(int, row[:3])) for row in arrays["load_resize"]], np.int32)
    return outputs


def _inputs(arrays: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    return [name for name in ("picture_seed", "index", "input_index") if prefix + name in arrays]


def _letterbox_row(row: dict[str, int], given: Arrays) -> Arrays:
    """Results of one picture; its geometry is written into ``row``."""
    from fastdet.ops import letterbox

    image = _picture(row["in_h"], row["in_w"], int(given.get("picture_seed", np.int64(0))))
    target = (row["target_h"], row["target_w"])
    stride = row["stride"] if row["auto"] else None
    batch, geometry = letterbox(
        image, target, scale_up=bool(row["scaleup"]), stride=stride, dtype="uint8", layout="nhwc"
    )
    (new_h, new_w), (top, left), (out_h, out_w) = geometry.resized_sizes[0], geometry.offsets[0], geometry.input_size
    row.update(new_h=new_h, new_w=new_w, top=top, left=left, out_h=out_h, out_w=out_w)
    row.update(bottom=out_h - new_h - top, right=out_w - new_w - left)
    ratio = min(target[0] / row["in_h"], target[1] / row["in_w"])
    ratio = ratio if row["scaleup"] else min(ratio, 1.0)
    result = {"full": batch[0], "mean": batch[0].mean((0, 1)), "ratio": np.array([ratio, ratio])}
    if "index" in given:
        result["value"] = batch.ravel()[given["index"]]
    if "input_index" in given:
        result["input_value"] = image.ravel()[given["input_index"]]
    return result


def _picture(height: int, width: int, seed: int) -> np.ndarray:
    """The synthetic picture of the vectors: slopes, blocks and noise, by integer arithmetic only."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    slope = (x * (7 + 2 * c) + y * (13 - 3 * c) + 29 * seed) // 4
    triangle = np.abs(2 * (slope % 256) - 255)
    blocks = 2 * ((5 * (x // 37) + 3 * (y // 23) + 41 * c) % 64)
    noise = (((73856093 * x) ^ (19349663 * y) ^ (83492791 * seed)) * (c + 1)) % 61
    return ((2 * triangle + 2 * blocks + 2 * noise) // 5).clip(0, 255).astype(np.uint8)


def _load_resize(height: int, width: int, size: int) -> list[int]:
    """The loader's resize before the letterbox: the long side to ``size``, sides rounded up."""
    ratio = size / max(height, width)
    return [height, width, size, *(min(math.ceil(side * ratio), size) for side in (height, width))]
