# SPDX-License-Identifier: Apache-2.0
"""Blocks that only DAMO-YOLO uses (arXiv 2211.15444). All BatchNorms have eps 1e-3 and momentum 0.03."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor, nn

from fastdet.models.blocks import SPP, ConvNormAct, RepConv, make_divisible

Block = Callable[[int, int], nn.Module]


class ResBlock(nn.Module):
    """Convolution to ``bottleneck``, RepConv to ``c_out``; the input is added at stride 1, before the last activation.

    A block of stride 2 has no shortcut at all; the stride is in the RepConv.
    """

    def __init__(
        self, c_in: int, c_out: int, *, bottleneck: int, kernel: int, stride: int = 1, act: type[nn.Module] = nn.ReLU
    ):
        super().__init__()
        if stride == 1 and c_in != c_out:
            raise ValueError(f"ResBlock: c_in must equal c_out at stride 1, got {c_in} and {c_out}")
        self.c_out = c_out
        self.shortcut = stride == 1
        self.conv1 = ConvNormAct(c_in, bottleneck, kernel=kernel, act=act)
        self.conv2 = RepConv(bottleneck, c_out, stride=stride, act=None)
        self.act = act(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        y = self.conv2(self.conv1(x))
        return self.act(y + x if self.shortcut else y)


class CspStage(nn.Module):
    """Backbone stage of the larger models: halve the picture, work on half of the channels, join the other half.

    ``act`` is the blocks' and the SPP's; the four convolutions around them are ReLU in every published model.
    """

    def __init__(
        self, c_in: int, c_out: int, *, bottleneck: int, blocks: int, act: type[nn.Module] = nn.SiLU, spp: bool = False
    ):
        super().__init__()
        self.c_out, half = c_out, c_out // 2
        self.blocks = nn.Sequential(
            *(ResBlock(half, half, bottleneck=bottleneck, kernel=3, act=act) for _ in range(blocks))
        )
        self.down = ConvNormAct(c_in, c_out, kernel=3, stride=2, act=nn.ReLU)
        self.spp = SPP(c_out, c_out) if spp else nn.Identity()
        self.split_main = ConvNormAct(c_out, half, act=nn.ReLU)
        self.split_side = ConvNormAct(c_out, half, act=nn.ReLU)
        self.merge = ConvNormAct(2 * half, c_out, act=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / 2), ceil(W / 2)]."""
        x = self.spp(self.down(x))
        return self.merge(torch.cat((self.blocks(self.split_main(x)), self.split_side(x)), 1))


class MobileBlock(nn.Module):
    """Inverted residual: 1x1 to ``expansion * c_out`` channels, depthwise 5x5, 1x1; shortcut where shapes allow."""

    def __init__(self, c_in: int, c_out: int, *, expansion: float, stride: int = 1):
        super().__init__()
        hidden = make_divisible(ceil(c_out * expansion))
        self.c_out = c_out
        self.shortcut = stride == 1 and c_in == c_out
        self.expand = ConvNormAct(c_in, hidden)
        self.depthwise = ConvNormAct(hidden, hidden, kernel=5, stride=stride, groups=hidden)
        self.project = ConvNormAct(hidden, c_out, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        y = self.project(self.depthwise(self.expand(x)))
        return y + x if self.shortcut else y


class RepBlock(nn.Module):
    """Neck block of the dense models: RepConv to ``ratio * c_out`` channels, 3x3 back; shortcut after activation."""

    def __init__(self, c_in: int, c_out: int, *, ratio: float = 1.0, act: type[nn.Module] = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        hidden = int(c_out * ratio)
        self.conv = ConvNormAct(hidden, c_out, kernel=3, act=act)
        self.rep = RepConv(c_in, hidden, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, c, H, W]."""
        return x + self.conv(self.rep(x))


class FusionStage(nn.Module):
    """Neck stage: one 1x1 branch is kept, the other runs through ``blocks``, and every block's output is joined.

    The second branch itself, before the first block, is not among what is joined.
    """

    def __init__(self, c_in: int, c_out: int, *, blocks: int, block: Block, act: type[nn.Module] = nn.SiLU):
        super().__init__()
        self.c_out, half = c_out, c_out // 2
        self.split_side = ConvNormAct(c_in, half, act=act)
        self.split_main = ConvNormAct(c_in, half, act=act)
        self.blocks = nn.ModuleList(block(half, half) for _ in range(blocks))
        self.merge = ConvNormAct((1 + blocks) * half, c_out, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        kept, y = [self.split_side(x)], self.split_main(x)
        for block in self.blocks:
            y = block(y)
            kept.append(y)
        return self.merge(torch.cat(kept, 1))


class DenseDown(ConvNormAct):
    """Halves the picture with a 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int, *, act: type[nn.Module] = nn.SiLU):
        super().__init__(c_in, c_out, kernel=3, stride=2, act=act)


class DepthwiseDown(nn.Module):
    """Halves the picture with a depthwise 3x3 convolution, then mixes channels with a 1x1."""

    def __init__(self, c_in: int, c_out: int, *, act: type[nn.Module] = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        self.depthwise = ConvNormAct(c_in, c_in, kernel=3, stride=2, groups=c_in, act=act)
        self.pointwise = ConvNormAct(c_in, c_out, act=act)
        for layer in (self.depthwise, self.pointwise):
            nn.init.kaiming_normal_(layer.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / 2), ceil(W / 2)]."""
        return self.pointwise(self.depthwise(x))
