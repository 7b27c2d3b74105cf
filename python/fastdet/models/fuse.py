# SPDX-License-Identifier: Apache-2.0
"""From the training graph to the deployed graph: BatchNorm and parallel branches folded, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def bn_scale_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The affine map y = x * scale + shift that ``bn`` is in eval mode; two [C] float64 tensors."""
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("fuse: BatchNorm must track running statistics; this one has none, so it has no deployed form")
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.affine:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() * scale
    return scale, shift + bn.bias.double() if bn.affine else shift


def folded_parameters(conv: nn.Conv2d, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the convolution that equals ``conv`` followed by ``bn`` in eval mode."""
    if isinstance(bn, nn.Identity):
        bias = torch.zeros(conv.out_channels, device=conv.weight.device) if conv.bias is None else conv.bias
        return conv.weight.double(), bias.double()
    if not isinstance(bn, nn.BatchNorm2d):
        raise TypeError(f"fuse: a convolution can be folded with a BatchNorm2d, got {type(bn).__name__}")
    scale, shift = bn_scale_shift(bn)
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    return weight, shift if conv.bias is None else shift + conv.bias.double() * scale


@torch.no_grad()
def fold_conv_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that equals ``conv`` followed by ``bn`` in eval mode; device and dtype of ``conv``."""
    return _with_parameters(conv, *folded_parameters(conv, bn))


@torch.no_grad()
def fold_rep_conv(branches: Sequence[tuple[nn.Conv2d, nn.Module]]) -> nn.Conv2d:
    """One convolution that equals the sum of (convolution, BatchNorm) branches of the same stride and groups.

    Kernels are odd and padded "same"; the smaller ones are added at the centre of the largest, which the result
    has the size of.
    """
    widest = max((conv for conv, _ in branches), key=lambda conv: conv.kernel_size[0])
    weight = torch.zeros_like(widest.weight, dtype=torch.float64)
    bias = torch.zeros(widest.out_channels, dtype=torch.float64, device=weight.device)
    for conv, bn in branches:
        if (conv.stride, conv.groups) != (widest.stride, widest.groups):
            raise ValueError(
                f"fold_rep_conv: branches must share stride and groups, got {(conv.stride, conv.groups)} "
                f"and {(widest.stride, widest.groups)}"
            )
        branch_weight, branch_bias = folded_parameters(conv, bn)
        inset = (widest.kernel_size[0] - conv.kernel_size[0]) // 2
        weight += nn.functional.pad(branch_weight, [inset] * 4)
        bias += branch_bias
    return _with_parameters(widest, weight, bias)


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
