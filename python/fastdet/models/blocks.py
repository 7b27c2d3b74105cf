# SPDX-License-Identifier: Apache-2.0
"""Blocks that more than one family uses. Protocol: ``Block(c_in, c_out, **options)`` and an attribute ``c_out``.

A block that has a deployed form has ``fold_(batch_norm=True)``, which changes it in place (``fastdet.models.fuse``).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from fastdet.models.fuse import fold_conv_bn, fold_rep_conv


def conv2d(
    c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution with "same" padding for odd kernels: output side = ceil(input side / stride)."""
    return nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=bias)


def activation(kind: type[nn.Module] | None) -> nn.Module:
    """An activation of class ``kind``; ReLU in place, since neither it nor a BatchNorm before it needs its input."""
    if kind is None:
        return nn.Identity()
    return kind(inplace=True) if kind is nn.ReLU else kind()


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm, activation; deployed: convolution with bias, activation.

    Args:
        c_in, c_out: channels. kernel, stride, groups: of the convolution.
        act: class of the activation, or None for none.
        eps, momentum: of the BatchNorm.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ):
        super().__init__()
        self.c_out = c_out
        self.conv = conv2d(c_in, c_out, kernel, stride=stride, groups=groups)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=eps, momentum=momentum)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        return self.act(self.bn(self.conv(x)))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Fold the BatchNorm into the convolution, unless ``batch_norm`` is False or it is done already."""
        if batch_norm and isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fold_conv_bn(self.conv, self.bn)
            self.bn = nn.Identity()


class RepConv(nn.Module):
    """RepVGG convolution (arXiv 2101.03697) without the identity branch: act(BN(conv3x3) + BN(conv1x1)).

    Deployed: one 3x3 convolution with bias, then the activation.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, act: type[nn.Module] | None = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        self.dense: ConvNormAct | None = ConvNormAct(c_in, c_out, kernel=3, stride=stride, act=None)
        self.point: ConvNormAct | None = ConvNormAct(c_in, c_out, kernel=1, stride=stride, act=None)
        self.conv: nn.Conv2d | None = None
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        if self.dense is not None and self.point is not None:
            return self.act(self.dense(x) + self.point(x))
        return self.act(cast(nn.Conv2d, self.conv)(x))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Replace the two branches by one convolution. ``batch_norm`` has no say here: a branch's is always folded."""
        if self.dense is not None and self.point is not None:
            self.conv = fold_rep_conv([(branch.conv, branch.bn) for branch in (self.dense, self.point)])
            self.dense = self.point = None


class Focus(nn.Module):
    """Space to depth, then a convolution: [B, 3, H, W] -> [B, 12, H/2, W/2] -> [B, c_out, H/2, W/2].

    The four phases are concatenated in the order (even row, even column), (odd, even), (even, odd), (odd, odd).
    """

    def __init__(self, c_in: int, c_out: int, *, kernel: int = 3, act: type[nn.Module] | None = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        self.conv = ConvNormAct(4 * c_in, c_out, kernel=kernel, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / 2, W / 2]; H and W even."""
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        phases = (even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2])
        return self.conv(torch.cat(phases, 1))


class SPP(nn.Module):
    """Spatial pyramid pooling: 1x1 to c_in / 2, beside it its 5, 9 and 13 pixel maxima, 1x1 to c_out.

    The wider windows are pooled from the narrower ones: a 5-maximum of a 5-maximum is a 9-maximum, exactly.
    """

    def __init__(self, c_in: int, c_out: int, *, act: type[nn.Module] | None = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        self.conv1 = ConvNormAct(c_in, c_in // 2, act=act)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = ConvNormAct(4 * (c_in // 2), c_out, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        x = self.conv1(x)
        five = self.pool(x)
        nine = self.pool(five)
        return self.conv2(torch.cat((x, five, nine, self.pool(nine)), 1))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, never more than 10 % below it (MobileNetV2's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
