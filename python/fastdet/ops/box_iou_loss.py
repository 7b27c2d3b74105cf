# SPDX-License-Identifier: Apache-2.0
"""Losses of aligned boxes, 1 - similarity, with both gradients computed in the forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import reals
from fastdet.ops._backend import Op
from fastdet.ops._iou import RULES_SCHEMA, Rules, arithmetic, similarity


def box_iou_loss(
    pred: Any,
    target: Any,
    kind: str = "giou",
    eps: float = 1e-7,
    *,
    fmt: str = "xyxy",
    eps_union: str = "add",
    eps_enclosing: str = "add",
    eps_sides: str = "none",
    variance_eps: float = 0.0,
    detach_alpha: bool = True,
    weight: Any = None,
    reduction: str = "none",
) -> Any:
    """1 - similarity of each predicted box and its target. Formulas and sources: those of ``box_iou`` and its kin.

    The defaults give torchvision's ``generalized_box_iou_loss``, and with ``kind`` its other two; which arguments give
    the losses of DAMO-YOLO, RT-DETR, YOLOv5, YOLOv7, YOLOv9 and Ultralytics stands in ``docs/ops/box_iou_loss.md``.

    Args:
        pred: (..., 4) float32, float16 or bfloat16 (computed in float32), or float64; (..., 5) for ``"probiou"``.
        target: the same shape; float64 only together with pred.
        kind: ``"iou"``, ``"giou"``, ``"diou"``, ``"ciou"``, or ``"probiou"`` for rotated boxes (centre x, y, width,
            height, angle in radians).
        eps: small number for the places named below, and in the alpha of CIoU; for ``"probiou"`` as in
            ``probabilistic_box_iou``.
        fmt: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``; rotated boxes have their own.
        eps_union: what it does to the union: ``"add"``, ``"clamp"`` (union at least eps) or ``"none"``.
        eps_enclosing: the same for the enclosing area (GIoU) or the squared diagonal of the enclosing box (DIoU, CIoU).
        eps_sides: added to no side (``"none"``), to heights (``"height"``) or to all (``"both"``), in areas and angles.
        variance_eps: added to the variances of rotated boxes.
        detach_alpha: no gradient flows through the alpha of CIoU, as all references have it.
        weight: (...) a number for each pair that multiplies its loss; a constant, which must not require a gradient.
        reduction: ``"none"``, ``"sum"``, or ``"mean"``: the sum divided by the number of pairs (not of weights); 0
            without pairs.

    Returns:
        (...) or a scalar, float32 (float64 for float64 boxes). Differentiable in pred and target: what requires a
        gradient gets it in the forward pass, kept as 4 (5) float32 per pair; backward only multiplies. Sums are float64
        in a fixed order, the same bits in every run and on every device.

    Degenerate pairs: with a box without area (x2 <= x1, y2 <= y1), the formula's value and no gradient; with a number
    that is not finite, loss 1 (times weight) and no gradient. No gradient is ever NaN.

    Raises:
        ValueError: shapes do not agree, an unknown word, eps negative, weight requires a gradient. TypeError: dtype not
        listed.

    Example:
        >>> loss = box_iou_loss(pred, target, "ciou", eps_sides="height", weight=scores, reduction="sum") / scores.sum()
    """
    eps, variance_eps = reals("box_iou_loss", eps=eps, variance_eps=variance_eps)
    if kind == "probiou":
        rules = Rules(kind, "cxcywha", eps, "none", "none", "none", variance_eps)
    else:
        rules = Rules(kind, fmt, eps, eps_union, eps_enclosing, eps_sides, variance_eps, bool(detach_alpha))
    if getattr(weight, "requires_grad", False):
        raise ValueError("box_iou_loss: weight must not require a gradient, got one that does; pass weight.detach()")
    lead = tuple(getattr(pred, "shape", ()))[:-1]
    if len(lead) != 1 and len(getattr(pred, "shape", ())) > 0:
        if tuple(getattr(target, "shape", ())) != tuple(pred.shape):
            shapes = f"{tuple(pred.shape)} and {tuple(getattr(target, 'shape', ()))}"
            raise ValueError(f"box_iou_loss: pred and target must have the same shape, got {shapes}")
        if weight is not None and tuple(getattr(weight, "shape", ())) != lead:
            got = tuple(weight.shape) if hasattr(weight, "shape") else repr(weight)
            raise ValueError(f"box_iou_loss: weight must be {lead}, got {got}")
        count = 1
        for size in lead:
            count = count * size
        pred, target = (b.reshape((count, b.shape[-1])) for b in (pred, target))
        weight = weight.reshape((count,)) if hasattr(weight, "shape") else weight
    wants = [bool(getattr(b, "requires_grad", False)) for b in (pred, target)]
    loss = BOX_IOU_LOSS(pred, target, weight, *rules, reduction, *wants)[0]
    return loss if len(lead) == 1 or reduction != "none" else loss.reshape(lead)


def box_iou_loss_reference(
    pred: np.ndarray, target: np.ndarray, weight: np.ndarray | None, *rules_and_rest: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss of (N, k) pairs in NumPy, and its gradients (0, k) or (N, k); arguments of the operator's schema."""
    *rules, reduction, want_pred, want_target = rules_and_rest
    p, t = arithmetic(pred, target)
    one = p.dtype.type
    value, *grads = similarity(p, t, Rules(*rules))
    factor = np.ones(len(p), one) if weight is None else weight.astype(one)
    loss, count = factor * (1 - value), max(len(p), 1)
    if reduction != "none":
        loss = np.asarray(loss.astype(np.float64).sum() / (count if reduction == "mean" else 1)).astype(one)
        loss = np.asarray(loss)
    factor = factor * (1 / one(count) if reduction == "mean" else one(1))
    by_pred, by_target = (-factor[:, None] * g for g in grads)
    return loss, by_pred if want_pred else by_pred[:0], by_target if want_target else by_target[:0]


def box_iou_loss_backward(grad_loss: Any, kept_pred: Any, kept_target: Any) -> tuple[Any, Any]:
    """What autograd calls: the gradients kept by ``box_iou_loss`` times the gradient of its result.

    Args:
        grad_loss: (N,) or a scalar, float32 or float64; any strides.
        kept_pred: (N, k) or (0, k) of the same dtype. kept_target: (N, k) or (0, k).

    Returns:
        Two arrays shaped like kept_pred and kept_target.
    """
    return BOX_IOU_LOSS_BACKWARD(grad_loss, kept_pred, kept_target)


def box_iou_loss_backward_reference(
    grad_loss: np.ndarray, kept_pred: np.ndarray, kept_target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``box_iou_loss_backward`` in NumPy."""
    by_row = grad_loss if grad_loss.ndim == 0 else grad_loss[:, None]
    return by_row * kept_pred if len(kept_pred) else kept_pred, by_row * kept_target if len(
        kept_target
    ) else kept_target


def _fake(pred: Any, target: Any, weight: Any, *rest: Any) -> tuple[Any, Any, Any]:
    import torch

    reduction, want_pred, want_target = rest[-3:]
    dtype = torch.float64 if pred.dtype == torch.float64 else torch.float32
    n, k = pred.shape
    return (
        pred.new_empty((n,) if reduction == "none" else (), dtype=dtype),
        pred.new_empty((n if want_pred else 0, k), dtype=dtype),
        pred.new_empty((n if want_target else 0, k), dtype=dtype),
    )


def _fake_backward(grad_loss: Any, kept_pred: Any, kept_target: Any) -> tuple[Any, Any]:
    return kept_pred.new_empty(kept_pred.shape), kept_target.new_empty(kept_target.shape)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, kept_pred, kept_target = output
    ctx.mark_non_differentiable(kept_pred, kept_target)
    ctx.save_for_backward(kept_pred, kept_target)
    ctx.dtypes = inputs[0].dtype, inputs[1].dtype
    ctx.kept = inputs[-2:]
    ctx.arguments = len(inputs)


def _backward(ctx: Any, grad_loss: Any, *_: Any) -> tuple[Any, ...]:
    for wanted, kept, name in zip(ctx.needs_input_grad, ctx.kept, ("want_pred", "want_target")):
        if wanted and not kept:
            raise RuntimeError(f"box_iou_loss: {name} must be true where a gradient is needed; call ops.box_iou_loss")
    grads = BOX_IOU_LOSS_BACKWARD(grad_loss, *ctx.saved_tensors)
    wanted = [
        g.to(dtype) if need else None for g, dtype, need in zip(grads, ctx.dtypes, ctx.needs_input_grad, strict=False)
    ]
    return *wanted, *(None for _ in range(ctx.arguments - 2))


BOX_IOU_LOSS = Op(
    name="box_iou_loss",
    schema=(
        f"(Tensor pred, Tensor target, Tensor? weight, {RULES_SCHEMA}, str reduction, bool want_pred, "
        "bool want_target) -> (Tensor, Tensor, Tensor)"
    ),
    native=_core.box_iou_loss,
    reference=box_iou_loss_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_keep_gradients,
)
BOX_IOU_LOSS_BACKWARD = Op(
    name="box_iou_loss_backward",
    schema="(Tensor grad_loss, Tensor kept_pred, Tensor kept_target) -> (Tensor, Tensor)",
    native=_core.box_iou_loss_backward,
    reference=box_iou_loss_backward_reference,
    fake=_fake_backward,
)
