# SPDX-License-Identifier: Apache-2.0
"""From the training graph to the deployed graph: BatchNorm and parallel branches folded, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastdet import ops
from fastdet.ops import BatchNorm, RepBranch


def bn_statistics(bn: nn.BatchNorm2d) -> BatchNorm:
    """What ``fastdet.ops.fold_conv_bn`` needs of a BatchNorm layer."""
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("fuse: BatchNorm must track running statistics; this one has none, so it has no deployed form")
    return BatchNorm(bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps)


def rep_branch(conv: nn.Conv2d | None, bn: nn.Module | None) -> RepBranch:
    """What ``fastdet.ops.fold_rep_conv`` needs of a branch; ``conv`` None is the identity, ``bn`` may be absent."""
    if bn is not None and not isinstance(bn, (nn.BatchNorm2d, nn.Identity)):
        raise TypeError(f"fuse: a convolution can be folded with a BatchNorm2d, got {type(bn).__name__}")
    norm = bn_statistics(bn) if isinstance(bn, nn.BatchNorm2d) else None
    return RepBranch(bn=norm) if conv is None else RepBranch(conv.weight, conv.bias, norm)


def fold_conv_bn(conv: nn.Conv2d, bn: nn.Module) -> nn.Conv2d:
    """One convolution with bias that equals ``conv`` followed by ``bn`` in eval mode; device and dtype of ``conv``."""
    return _with_parameters(conv, *ops.fold_rep_conv([rep_branch(conv, bn)], groups=conv.groups))


def fold_rep_conv(branches: Sequence[tuple[nn.Conv2d | None, nn.Module | None]]) -> nn.Conv2d:
    """One convolution that equals the sum of (convolution, BatchNorm) branches of the same stride and groups.

    Kernels are odd and padded "same"; the smaller ones are added at the centre of the largest, which the result
    has the size of. A branch whose convolution is None is the identity.
    """
    convolutions = [conv for conv, _ in branches if conv is not None]
    widest = max(convolutions, key=lambda conv: conv.kernel_size[0])
    for conv in convolutions:
        if (conv.stride, conv.groups) != (widest.stride, widest.groups):
            raise ValueError(
                f"fold_rep_conv: branches must share stride and groups, got {(conv.stride, conv.groups)} "
                f"and {(widest.stride, widest.groups)}"
            )
    folded = ops.fold_rep_conv([rep_branch(conv, bn) for conv, bn in branches], groups=widest.groups)
    return _with_parameters(widest, *folded)


def _with_parameters(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    conv = copy.deepcopy(like)
    # The memory format travels with the parameter, so a channels_last model stays one.
    layout = torch.empty_like(like.weight, requires_grad=False)
    conv.weight = nn.Parameter(layout.copy_(weight), requires_grad=like.weight.requires_grad)
    conv.bias = nn.Parameter(bias.to(like.weight.dtype), requires_grad=like.weight.requires_grad)
    return conv


def fuse(module: nn.Module, *, batch_norm: bool = True) -> nn.Module:
    """Turn ``module`` into its deployed graph, in place: every block that has a ``fold_`` is folded.

    The result computes what the training graph computes in eval mode, to float32 rounding, and can be trained no
    further. With ``batch_norm=False`` only parallel branches are folded and plain BatchNorms stay, the form whose
    parameters the papers count. Folding twice changes nothing.
    """
    for block in list(module.modules()):
        fold = getattr(block, "fold_", None)
        if fold is not None:
            fold(batch_norm=batch_norm)
    return module
