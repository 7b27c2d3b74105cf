# SPDX-License-Identifier: Apache-2.0
"""Folding for deployment: BatchNorm into the convolution before it, parallel branches into one convolution."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class BatchNorm(NamedTuple):
    """Statistics and affine part of a BatchNorm: y = (x - mean) / sqrt(var + eps) * weight + bias, per channel."""

    weight: Any  # [C] gamma, or None for 1
    bias: Any  # [C] beta, or None for 0
    mean: Any  # [C] running mean
    var: Any  # [C] running variance
    eps: float = 1e-5


class RepBranch(NamedTuple):
    """One of the parallel branches that ``fold_rep_conv`` adds up: a convolution or the identity, then a BatchNorm."""

    weight: Any = None  # [O, I / groups, kh, kw], or None for the identity
    bias: Any = None  # [O] of the convolution, or None
    bn: BatchNorm | None = None  # None: no BatchNorm


def fold_conv_bn(
    weight: Any, bias: Any, bn_weight: Any, bn_bias: Any, running_mean: Any, running_var: Any, eps: float
) -> tuple[Any, Any]:
    """Weight and bias of the one convolution that equals a convolution followed by a BatchNorm in eval mode.

    weight' = weight * s and bias' = (bias - running_mean) * s + bn_bias with s = bn_weight / sqrt(running_var + eps)
    for each output channel, computed in float64 and rounded once to the dtype of ``weight``.

    Args:
        weight: (O, ...) of the convolution (or linear layer), output channels first; any floating point dtype.
        bias: (O,) or None for none.
        bn_weight, bn_bias: (O,) gamma and beta, or None for a BatchNorm without affine part.
        running_mean, running_var: (O,) statistics.
        eps: as the BatchNorm has it: 1e-3 in the YOLO families and DAMO-YOLO, 1e-5 is torch's default.

    Returns:
        (weight, bias): of the shape of ``weight`` and (O,), both in its dtype; NumPy or torch as ``weight`` is, on its
        device, without gradient history.

    Raises:
        ValueError: shapes do not agree, or running_var + eps is not positive. TypeError: not a floating point array.
    """
    folded, shift = _folded("fold_conv_bn", weight, bias, BatchNorm(bn_weight, bn_bias, running_mean, running_var, eps))
    return _cast(folded, weight), _cast(shift, weight)


def fold_rep_conv(
    branches: Sequence[RepBranch], *, groups: int = 1, bn_after: BatchNorm | None = None
) -> tuple[Any, Any]:
    """Weight and bias of the one convolution that equals the sum of parallel branches in eval mode.

    Covers RepVGG (arXiv 2101.03697: 3x3 + 1x1 + identity), the RepConv of YOLOv7, YOLOv9, DAMO-YOLO and RT-DETR
    (3x3 + 1x1), the depthwise 7x7 + 3x3 of YOLOv10, and QARepVGG (arXiv 2212.01593: a BatchNorm after the sum, some
    branches without one). Smaller kernels are added at the centre of the largest; the identity is a 1x1 kernel with a
    1 from each channel to itself. Everything is float64 until the result is rounded once.

    Args:
        branches: at least one convolution among them. All branches see the same input, have the same stride and
            groups, and are padded so that their kernels have one centre: (k - 1) / 2 for each odd k.
        groups: of the convolutions.
        bn_after: BatchNorm behind the sum, if there is one.

    Returns:
        (weight, bias): (O, I / groups, kh, kw) with the largest kernel, and (O,); kind, device and dtype of the first
        branch's weight, without gradient history. To be used with padding ((kh - 1) / 2, (kw - 1) / 2).

    Raises:
        ValueError: no convolution, shapes do not agree, or kernels have no common centre. TypeError: no floating
        point array.

    Example:
        >>> bn = BatchNorm(gamma, beta, mean, var, eps=1e-3)
        >>> weight, bias = fold_rep_conv([RepBranch(w3, bn=bn), RepBranch(w1, bn=bn1), RepBranch(bn=bn0)])
    """
    op = "fold_rep_conv"
    for i, branch in enumerate(branches):
        if not isinstance(branch, RepBranch):
            raise TypeError(f"{op}: branches[{i}] must be a RepBranch, got {type(branch).__name__}")
    convolutions = [branch.weight for branch in branches if branch.weight is not None]
    if not convolutions:
        raise ValueError(f"{op}: branches must hold at least one convolution, got {len(branches)} branches without")
    like = convolutions[0]
    for weight in convolutions:
        if getattr(weight, "ndim", 0) != 4 or tuple(weight.shape[:2]) != tuple(like.shape[:2]):
            raise ValueError(
                f"{op}: weights must be ({like.shape[0]}, {like.shape[1]}, kh, kw) like the first, "
                f"got {tuple(weight.shape)}"
            )
    size = tuple(max(int(weight.shape[axis]) for weight in convolutions) for axis in (2, 3))
    channels = int(like.shape[0])
    total = _zeros(like, (channels, int(like.shape[1]), *size))
    shift = _zeros(like, (channels,))
    for branch in branches:
        kernel, moved = (
            _identity(op, like, groups, branch)
            if branch.weight is None
            else _folded(op, branch.weight, branch.bias, branch.bn)
        )
        inset = [(size[axis] - int(kernel.shape[2 + axis])) / 2 for axis in (0, 1)]
        if any(step != int(step) for step in inset):
            raise ValueError(f"{op}: kernels must have a common centre, got {tuple(kernel.shape[2:])} within {size}")
        top, left = int(inset[0]), int(inset[1])
        total[:, :, top : top + kernel.shape[2], left : left + kernel.shape[3]] += kernel
        shift += moved
    if bn_after is not None:
        total, shift = _folded(op, total, shift, bn_after)
    return _cast(total, like), _cast(shift, like)


def _folded(op: str, weight: Any, bias: Any, bn: BatchNorm | None) -> tuple[Any, Any]:
    """float64 weight and bias of a convolution and the BatchNorm behind it."""
    folded = _double(op, "weight", weight)
    channels = int(folded.shape[0]) if folded.ndim > 0 else -1
    if folded.ndim < 2:
        raise ValueError(f"{op}: weight must be (O, I, ...), got {tuple(folded.shape)}")
    shift = _zeros(weight, (channels,)) if bias is None else _vector(op, "bias", bias, channels)
    if bn is None:
        return folded, shift
    scale, moved = _scale_shift(op, bn, channels)
    return folded * scale.reshape(-1, *([1] * (folded.ndim - 1))), shift * scale + moved


def _identity(op: str, like: Any, groups: int, branch: RepBranch) -> tuple[Any, Any]:
    """float64 1x1 kernel and bias of a branch without a convolution."""
    channels, per_group = int(like.shape[0]), int(like.shape[1])
    if groups < 1 or per_group * groups != channels:
        raise ValueError(
            f"{op}: the identity needs as many input as output channels, got {per_group * groups} and {channels} "
            f"(groups {groups})"
        )
    kernel = _zeros(like, (channels, per_group, 1, 1))
    for channel in range(channels):
        kernel[channel, channel % per_group] = 1.0
    if branch.bn is None:
        return kernel, _zeros(like, (channels,))
    scale, moved = _scale_shift(op, branch.bn, channels)
    return kernel * scale.reshape(-1, 1, 1, 1), moved


def _scale_shift(op: str, bn: BatchNorm, channels: int) -> tuple[Any, Any]:
    """The affine map y = x * scale + shift that ``bn`` is, in float64."""
    var = _vector(op, "running_var", bn.var, channels) + float(bn.eps)
    if not bool((var > 0).all()):
        raise ValueError(f"{op}: running_var + eps must be positive, got {float(var.min())}")
    scale = 1.0 / var**0.5
    if bn.weight is not None:
        scale = scale * _vector(op, "bn_weight", bn.weight, channels)
    shift = -_vector(op, "running_mean", bn.mean, channels) * scale
    return scale, shift if bn.bias is None else shift + _vector(op, "bn_bias", bn.bias, channels)


def _is_tensor(a: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(a, torch.Tensor)


def _double(op: str, name: str, a: Any) -> Any:
    if _is_tensor(a):
        if not a.is_floating_point():
            raise TypeError(f"{op}: {name} must be floating point, got {a.dtype}")
        return a.detach().double()
    if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
        raise TypeError(f"{op}: {name} must be a floating point array (NumPy, torch), got {_kind(a)}")
    return a.astype(np.float64)


def _vector(op: str, name: str, a: Any, channels: int) -> Any:
    values = _double(op, name, a)
    if tuple(values.shape) != (channels,):
        raise ValueError(f"{op}: {name} must be ({channels},) as the weight has {channels} rows, got {_kind(a)}")
    return values


def _kind(a: Any) -> str:
    return f"{a.dtype} {tuple(a.shape)}" if hasattr(a, "shape") else type(a).__name__


def _zeros(like: Any, shape: tuple[int, ...]) -> Any:
    if _is_tensor(like):
        return like.new_zeros(shape, dtype=sys.modules["torch"].float64)
    return np.zeros(shape, np.float64)


def _cast(values: Any, like: Any) -> Any:
    """``values`` in the dtype of ``like``."""
    if _is_tensor(like):
        return values.to(like.dtype)
    with np.errstate(over="ignore"):
        return values.astype(like.dtype)
