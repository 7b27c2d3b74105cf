# SPDX-License-Identifier: Apache-2.0
"""torchvision's suppression and IoU functions by fastdet's operators: called by name, or put in torchvision's place.

``nms``, ``batched_nms``, ``box_iou``, ``generalized_box_iou``, ``distance_box_iou`` and ``complete_box_iou`` have
torchvision's signatures and results. Boxes without area, or with numbers that are not finite, overlap nothing and are
never kept, where torchvision gives NaN or keeps them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from fastdet import ops
from fastdet.integrations.exchange import Exchange

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "batched_nms",
    "box_iou",
    "complete_box_iou",
    "distance_box_iou",
    "generalized_box_iou",
    "nms",
    "patch",
    "patched",
    "unpatch",
]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """``torchvision.ops.nms``: indices of the boxes that are kept, by falling score.

    Args:
        boxes: (N, 4) corners. scores: (N,). iou_threshold: overlap above which the weaker box goes. float64 is
            computed in float32.

    Returns:
        (K,) int64. Scores that are equal are taken by rising index (torchvision leaves their order open).
    """
    return ops.nms(_single(boxes), _single(scores), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``torchvision.ops.batched_nms``: ``nms`` inside each class, without shifting coordinates.

    Args:
        boxes, scores, iou_threshold: as for ``nms``.
        idxs: (N,) class of each box, of any whole numbers; floating point classes are compared as they are.

    Returns:
        (K,) int64, by falling score over all classes.
    """
    if idxs.is_floating_point():
        idxs = idxs.unique(return_inverse=True)[1]
    return ops.batched_nms(_single(boxes), _single(scores), idxs.long(), iou_threshold)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """``torchvision.ops.box_iou``: (..., N, M) from (..., N, 4) and (..., M, 4).

    Args:
        boxes1, boxes2: floating point or whole numbers. fmt: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.
    """
    return ops.box_iou(*_pair(boxes1, boxes2), fmt)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``torchvision.ops.generalized_box_iou``, of all pairs.

    Args:
        boxes1, boxes2: corners, (N, 4) and (M, 4).
    """
    return ops.generalized_box_iou(*_pair(boxes1, boxes2))


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """``torchvision.ops.distance_box_iou``, of all pairs.

    Args:
        boxes1, boxes2: corners, (N, 4) and (M, 4). eps: added to the squared diagonal.
    """
    return ops.distance_box_iou(*_pair(boxes1, boxes2), eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """``torchvision.ops.complete_box_iou``, of all pairs.

    Args:
        boxes1, boxes2: corners, (N, 4) and (M, 4). eps: as torchvision uses it.
    """
    return ops.complete_box_iou(*_pair(boxes1, boxes2), eps)


# ---- in torchvision's place ----------------------------------------------------------------------------------------

_FUNCTIONS = (nms, batched_nms, box_iou, generalized_box_iou, distance_box_iou, complete_box_iou)
_EXCHANGE = Exchange("torchvision.ops", {function.__name__: function for function in _FUNCTIONS}, ["torchvision"])


def patch() -> None:
    """Put these functions into torchvision, for the whole process, until ``unpatch``.

    Every loaded module of torchvision that holds one of its functions gets ours (``torchvision.ops.nms``,
    ``torchvision.ops.boxes.nms``, its detectors' own references to them), and so does whatever imports them from there
    later. Code outside torchvision that has done ``from torchvision.ops import nms`` before keeps what it has: patch
    first. Patching twice needs unpatching twice.

    Raises:
        ImportError: torchvision is not installed or does not load.
    """
    _EXCHANGE.patch()


def unpatch() -> None:
    """Undo ``patch``: torchvision's own functions stand where they stood, in modules loaded meanwhile too. More calls
    than of ``patch`` do nothing.
    """
    _EXCHANGE.unpatch()


def patched() -> AbstractContextManager[None]:
    """``patch`` inside a ``with`` statement, for all threads."""
    return _EXCHANGE.patched()


def _single(a: Tensor) -> Tensor:
    import torch

    return a.float() if a.dtype == torch.float64 else a


def _pair(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    if not dtype.is_floating_point:
        dtype = torch.float32
    return boxes1.to(dtype), boxes2.to(dtype)
