# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions whose gradients are computed in the faster of the available precisions on a CPU.

oneDNN's bfloat16 kernels for the weight gradient, and for the input gradient at stride 2, take about three times as
long as the float32 ones; with them a step in bfloat16 is slower than one in float32. The other passes stay in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_backward = torch.ops.aten.convolution_backward


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight.to(x.dtype), None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, weight = ctx.saved_tensors
        rest = ([ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], x.shape[1])
        narrow = ctx.stride == 1
        wide = _backward(grad.float(), x.float(), weight, None, *rest, [not narrow, True, False])
        grad_x = _backward(grad, x, weight.to(x.dtype), None, *rest, [True, False, False])[0] if narrow else wide[0]
        return grad_x.to(x.dtype), wide[1], None, None


class DepthwiseConv2d(nn.Conv2d):
    """Conv2d with one channel a group; under CPU autocast the gradient passes choose their own precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W]; returns [B, C, H', W'] in the autocast precision."""
        if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return _DepthwiseConv.apply(
                x.to(torch.get_autocast_dtype("cpu")), self.weight, self.stride[0], self.padding[0]
            )


def use_fast_depthwise(module: nn.Module) -> int:
    """Turn the plain square depthwise convolutions of ``module`` into DepthwiseConv2d, in place; returns how many."""
    count = 0
    for part in module.modules():
        if (
            type(part) is nn.Conv2d
            and part.groups == part.in_channels == part.out_channels > 1
            and part.bias is None
            and part.dilation == (1, 1)
            and part.padding_mode == "zeros"
            and not isinstance(part.padding, str)
            and part.stride[0] == part.stride[1]
            and part.padding[0] == part.padding[1]
        ):
            part.__class__ = DepthwiseConv2d
            count += 1
    return count
