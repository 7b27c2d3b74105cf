# SPDX-License-Identifier: Apache-2.0
"""Pairwise similarity of boxes: IoU, GIoU, DIoU, CIoU and the probabilistic IoU of rotated boxes, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real, reals
from fastdet.ops._backend import Op, kept_inputs
from fastdet.ops._iou import RULES_SCHEMA, Rules, arithmetic, over_leading, similarity


def box_iou(
    boxes1: Any, boxes2: Any, fmt: str = "xyxy", *, eps: float = 0.0, eps_union: str = "add", eps_sides: str = "none"
) -> Any:
    """Intersection over union of every box of one set with every box of another. torchvision's name and results.

    The area of the common rectangle divided by that of the union. A box without area (x2 <= x1 or y2 <= y1) or with a
    number that is not finite has IoU 0 with everything (torchvision: NaN for two such boxes).

    Args:
        boxes1: (..., M, 4) float32, float16 or bfloat16 (computed in float32), or float64; any strides.
        boxes2: (..., N, 4) with the same leading dimensions; float64 only together with boxes1.
        fmt: ``"xyxy"`` corners, ``"xywh"`` corner and size, ``"cxcywh"`` centre and size.
        eps: small number for the two places that follow; with the default 0 there is none.
        eps_union: ``"add"`` to the union, ``"clamp"`` it below, or ``"none"``.
        eps_sides: added to no side (``"none"``), to heights (``"height"``) or to all sides (``"both"``) for the areas.

    Returns:
        (..., M, N) float32 (float64 for float64 boxes) in [0, 1], of the kind given. Differentiable in both sets.
        Gradients are 0 for pairs with a box without area or not finite; where two coordinates are equal, each box has
        half of the slope; boxes that only touch do not overlap.

    Raises:
        ValueError: shapes do not agree, an unknown word, eps negative. TypeError: dtype not listed.

    Cost: one pass; memory for the result only, nothing but the boxes is kept for the backward pass, which computes
    pairs anew and adds in a fixed order: the same bits in every run and on every device.
    """
    return _pairwise(boxes1, boxes2, Rules("iou", fmt, real("box_iou", "eps", eps), eps_union, "none", eps_sides))


def generalized_box_iou(
    boxes1: Any,
    boxes2: Any,
    fmt: str = "xyxy",
    *,
    eps: float = 0.0,
    eps_union: str = "add",
    eps_enclosing: str = "add",
    eps_sides: str = "none",
) -> Any:
    """Generalised IoU (arXiv 1902.09630) of all pairs: IoU - (enclosing area - union) / enclosing area, in (-1, 1].

    Arguments, errors and gradients are those of ``box_iou`` (boxes1, boxes2, fmt, eps, eps_union, eps_sides), and
    ``eps_enclosing``: what eps does to the enclosing area, ``"add"``, ``"clamp"`` or ``"none"``. eps is 0 by default,
    as in torchvision; where the enclosing area is 0 the result is the IoU, 0 (torchvision: NaN).

    Returns:
        (..., M, N) float32 or float64; 0 for pairs with a box that is not finite.
    """
    eps = real("generalized_box_iou", "eps", eps)
    return _pairwise(boxes1, boxes2, Rules("giou", fmt, eps, eps_union, eps_enclosing, eps_sides))


def distance_box_iou(
    boxes1: Any,
    boxes2: Any,
    eps: float = 1e-7,
    fmt: str = "xyxy",
    *,
    eps_union: str = "none",
    eps_enclosing: str = "add",
    eps_sides: str = "none",
) -> Any:
    """Distance IoU (arXiv 1911.08287) of all pairs: IoU - (distance of centres / diagonal of the enclosing box)^2.

    Arguments, errors and gradients are those of ``box_iou`` (boxes1, boxes2, fmt, eps, eps_union, eps_sides), and
    ``eps_enclosing``: what eps does to the squared diagonal, ``"add"``, ``"clamp"`` or ``"none"``. The defaults are
    torchvision's: 1e-7 added to the squared diagonal, nothing to the union.

    Returns:
        (..., M, N) float32 or float64 in (-1, 1]; 0 for pairs with a box that is not finite.
    """
    eps = real("distance_box_iou", "eps", eps)
    return _pairwise(boxes1, boxes2, Rules("diou", fmt, eps, eps_union, eps_enclosing, eps_sides))


def complete_box_iou(
    boxes1: Any,
    boxes2: Any,
    eps: float = 1e-7,
    fmt: str = "xyxy",
    *,
    eps_union: str = "none",
    eps_enclosing: str = "add",
    eps_sides: str = "none",
    detach_alpha: bool = True,
) -> Any:
    """Complete IoU (arXiv 1911.08287) of all pairs: the distance IoU less a penalty for different aspect ratios.

    With v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2 and alpha = v / (1 - IoU + v + eps): distance IoU - alpha v.
    Arguments, errors and gradients are those of ``distance_box_iou`` and ``box_iou`` (boxes1, boxes2, fmt, eps,
    eps_union, eps_enclosing, eps_sides; the last also enters the angles). torchvision's results by default; the form
    of YOLOv5, YOLOv7, YOLOv9 and Ultralytics is ``eps_union="add", eps_sides="height"``.

    Args:
        detach_alpha: no gradient flows through alpha, as all references have it.

    Returns:
        (..., M, N) float32 or float64 in (-2, 1]; 0 for pairs with a box that is not finite.
    """
    eps = real("complete_box_iou", "eps", eps)
    rules = Rules("ciou", fmt, eps, eps_union, eps_enclosing, eps_sides, 0.0, bool(detach_alpha))
    return _pairwise(boxes1, boxes2, rules)


def probabilistic_box_iou(boxes1: Any, boxes2: Any, *, eps: float = 1e-7, variance_eps: float = 0.0) -> Any:
    """Probabilistic IoU (arXiv 2106.06072) of all pairs of rotated boxes: 1 - Hellinger distance of two Gaussians.

    A box becomes the Gaussian with its centre and with variances w^2 / 12 and h^2 / 12 along its axes. With the
    Bhattacharyya distance limited to [eps, 100], the result is 1 - sqrt(1 - exp(-distance) + eps): for equal boxes
    about 0.9996, far apart about 0.

    Args:
        boxes1: (..., M, 5) centre x, y, width, height, angle in radians (at most 1e6); dtypes as for ``box_iou``.
        boxes2: (..., N, 5) with the same leading dimensions.
        eps: added to the determinant of the summed covariances, to the denominator and to the argument of the
            logarithm, and under the root.
        variance_eps: added to both variances; the loss of the Ultralytics family uses 0.01.

    Returns:
        (..., M, N) float32 or float64, differentiable like ``box_iou``; 0 for pairs with a box that is not finite.
        Sides below 0 count as 0; pairs with a side that is not positive have no gradient.

    Raises:
        ValueError: shapes do not agree, eps or variance_eps negative. TypeError: dtype not listed.
    """
    eps, variance_eps = reals("probabilistic_box_iou", eps=eps, variance_eps=variance_eps)
    return _pairwise(boxes1, boxes2, Rules("probiou", "cxcywha", eps, "none", "none", "none", variance_eps))


def _pairwise(boxes1: Any, boxes2: Any, rules: Rules) -> Any:
    return over_leading("box_iou", lambda a, b: BOX_IOU(a, b, *rules), boxes1, boxes2)


def box_iou_reference(boxes1: np.ndarray, boxes2: np.ndarray, *rules: Any) -> np.ndarray:
    """All pairs of (B, M, k) and (B, N, k) in NumPy -> (B, M, N); ``rules`` are the fields of ``Rules`` in order."""
    a, b = arithmetic(boxes1, boxes2)
    return similarity(a[:, :, None], b[:, None], Rules(*rules), gradients=False)[0]


generalized_box_iou_reference = distance_box_iou_reference = complete_box_iou_reference = box_iou_reference
probabilistic_box_iou_reference = box_iou_reference


def box_iou_backward(grad: Any, boxes1: Any, boxes2: Any, *rules: Any) -> tuple[Any, Any]:
    """Gradient of ``box_iou`` and its kin for both sets of boxes, computed from the boxes. What autograd calls.

    Args:
        grad: (B, M, N) float32 (float64 for float64 boxes), gradient of the result; any strides.
        boxes1: (B, M, k). boxes2: (B, N, k).
        rules: kind, fmt, eps, eps_union, eps_enclosing, eps_sides, variance_eps, detach_alpha, and whether the
            gradients for boxes1 and for boxes2 are wanted, in this order.

    Returns:
        (B, M, k) and (B, N, k) in the dtypes of the boxes; (B, 0, k) for one that is not wanted.
    """
    return BOX_IOU_BACKWARD(grad, boxes1, boxes2, *rules)


def box_iou_backward_reference(
    grad: np.ndarray, boxes1: np.ndarray, boxes2: np.ndarray, *rules_and_wants: Any
) -> tuple[np.ndarray, np.ndarray]:
    """``box_iou_backward`` in NumPy."""
    *rules, want1, want2 = rules_and_wants
    a, b = arithmetic(boxes1, boxes2)
    _, by_a, by_b = similarity(a[:, :, None], b[:, None], Rules(*rules))
    sums = (grad[..., None].astype(np.float64) * by_a).sum(2), (grad[..., None].astype(np.float64) * by_b).sum(1)
    grad1, grad2 = (s.astype(a.dtype) for s in sums)
    return grad1 if want1 else grad1[:, :0], grad2 if want2 else grad2[:, :0]


def _fake(boxes1: Any, boxes2: Any, *_: Any) -> Any:
    import torch

    dtype = torch.float64 if boxes1.dtype == torch.float64 else torch.float32
    return boxes1.new_empty((boxes1.shape[0], boxes1.shape[1], boxes2.shape[1]), dtype=dtype)


def _fake_backward(grad: Any, boxes1: Any, boxes2: Any, *rules: Any) -> tuple[Any, Any]:
    want1, want2 = rules[-2:]
    shape1 = (boxes1.shape[0], boxes1.shape[1] if want1 else 0, boxes1.shape[2])
    shape2 = (boxes2.shape[0], boxes2.shape[1] if want2 else 0, boxes2.shape[2])
    return boxes1.new_empty(shape1), boxes2.new_empty(shape2)


def _backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
    boxes1, boxes2, *rules = kept_inputs(ctx)
    want1, want2 = ctx.needs_input_grad[:2]
    grad1, grad2 = BOX_IOU_BACKWARD(grad, boxes1, boxes2, *rules, want1, want2)
    return grad1 if want1 else None, grad2 if want2 else None, *(None for _ in rules)


BOX_IOU = Op(
    name="box_iou",
    schema=f"(Tensor boxes1, Tensor boxes2, {RULES_SCHEMA}) -> Tensor",
    native=_core.box_iou,
    reference=box_iou_reference,
    fake=_fake,
    backward=_backward,
)
BOX_IOU_BACKWARD = Op(
    name="box_iou_backward",
    schema=f"(Tensor grad, Tensor boxes1, Tensor boxes2, {RULES_SCHEMA}, bool want1, bool want2) -> (Tensor, Tensor)",
    native=_core.box_iou_backward,
    reference=box_iou_backward_reference,
    fake=_fake_backward,
    dtypes_of=(1, 2),
)
