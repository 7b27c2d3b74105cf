# SPDX-License-Identifier: Apache-2.0
"""Formats and geometry of boxes. Every function takes and returns NumPy arrays or torch tensors of any leading shape.

``boxes`` are corners (x1, y1, x2, y2) in pixels; ``boxes_cxcywh`` centre and size; ``boxes_xywh`` top left corner and
size (COCO's format); ``boxes_norm`` corners divided by the picture's width and height. Sizes are (height, width), a
pixel covers [x, x + 1), so nothing here adds 1. Torch gradients pass through.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastdet.ops.letterbox import Letterbox

__all__ = [
    "Letterbox",
    "box_area",
    "clip_boxes",
    "cxcywh_to_xyxy",
    "norm_to_xyxy",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_norm",
    "xyxy_to_xywh",
]


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _columns(function: str, name: str, array: Any) -> tuple[Any, Any, Any, Any]:
    """The four columns of ``array`` [..., 4]; lists are taken as float32, integers keep their values as float32."""
    if not _is_torch(array):
        array = np.asarray(array, dtype=None if isinstance(array, np.ndarray) else np.float32)
        if array.dtype.kind in "iub":
            array = array.astype(np.float32)
        if array.dtype.kind != "f":
            raise TypeError(f"{function}: {name} must be numbers, got dtype {array.dtype}")
    if array.ndim < 1 or array.shape[-1] != 4:
        raise ValueError(f"{function}: {name} must be (..., 4), got {tuple(array.shape)}")
    return array[..., 0], array[..., 1], array[..., 2], array[..., 3]


def _stack(*columns: Any) -> Any:
    return sys.modules["torch"].stack(columns, -1) if _is_torch(columns[0]) else np.stack(columns, -1)


def _height_width(function: str, image_size: Any) -> tuple[float, float]:
    height, width = image_size
    if not (height > 0 and width > 0):
        raise ValueError(f"{function}: image_size must be (height, width), both > 0, got {tuple(image_size)}")
    return height, width


def xyxy_to_cxcywh(boxes: Any) -> Any:
    """Corners [..., 4] to centre x, centre y, width, height. ValueError: last dimension is not 4."""
    x1, y1, x2, y2 = _columns("xyxy_to_cxcywh", "boxes", boxes)
    return _stack((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


def cxcywh_to_xyxy(boxes_cxcywh: Any) -> Any:
    """Centre x, centre y, width, height [..., 4] to corners. ValueError: last dimension is not 4."""
    cx, cy, w, h = _columns("cxcywh_to_xyxy", "boxes_cxcywh", boxes_cxcywh)
    return _stack(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)


def xyxy_to_xywh(boxes: Any) -> Any:
    """Corners [..., 4] to left, top, width, height (COCO). ValueError: last dimension is not 4."""
    x1, y1, x2, y2 = _columns("xyxy_to_xywh", "boxes", boxes)
    return _stack(x1, y1, x2 - x1, y2 - y1)


def xywh_to_xyxy(boxes_xywh: Any) -> Any:
    """Left, top, width, height [..., 4] (COCO) to corners. ValueError: last dimension is not 4."""
    x, y, w, h = _columns("xywh_to_xyxy", "boxes_xywh", boxes_xywh)
    return _stack(x, y, x + w, y + h)


def xyxy_to_norm(boxes: Any, image_size: Any) -> Any:
    """Corners [..., 4] in pixels to fractions of ``image_size`` (height, width); not clipped to [0, 1]."""
    x1, y1, x2, y2 = _columns("xyxy_to_norm", "boxes", boxes)
    height, width = _height_width("xyxy_to_norm", image_size)
    return _stack(x1 / width, y1 / height, x2 / width, y2 / height)


def norm_to_xyxy(boxes_norm: Any, image_size: Any) -> Any:
    """Corners [..., 4] as fractions of ``image_size`` (height, width) to pixels."""
    x1, y1, x2, y2 = _columns("norm_to_xyxy", "boxes_norm", boxes_norm)
    height, width = _height_width("norm_to_xyxy", image_size)
    return _stack(x1 * width, y1 * height, x2 * width, y2 * height)


def clip_boxes(boxes: Any, image_size: Any) -> Any:
    """Corners [..., 4] moved into [0, width] x [0, height]; NaN stays NaN, a box outside becomes empty, not dropped."""
    x1, y1, x2, y2 = _columns("clip_boxes", "boxes", boxes)
    height, width = _height_width("clip_boxes", image_size)
    return _stack(x1.clip(0, width), y1.clip(0, height), x2.clip(0, width), y2.clip(0, height))


def box_area(boxes: Any) -> Any:
    """Area [...] of corners [..., 4]: max(0, width) * max(0, height), so an inverted box has area 0."""
    x1, y1, x2, y2 = _columns("box_area", "boxes", boxes)
    return (x2 - x1).clip(0) * (y2 - y1).clip(0)
