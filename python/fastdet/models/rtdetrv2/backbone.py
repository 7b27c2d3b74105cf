# SPDX-License-Identifier: Apache-2.0
"""PResNet: the ResNet-vd backbones. Strides 8, 16 and 32 are returned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.models.blocks import ConvNormAct
from fastdet.models.rep_conv import RepConv2d

# Norms of the whole family: eps 1e-5, and torch's own momentum.
ConvNorm = partial(ConvNormAct, eps=1e-5, momentum=0.1)
EXPANSION = 4


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm whose weight and bias are constants too; it normalises with its statistics in every mode."""

    weight: Any
    bias: Any

    def __init__(self, channels: int, *, eps: float = 1e-5):
        nn.Module.__init__(self)
        self.num_features, self.eps, self.momentum = channels, eps, 0.0
        self.affine = self.track_running_stats = True
        self.num_batches_tracked = None
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    # BatchNorm's own adds a counter of batches that is not there.
    _load_from_state_dict = nn.Module._load_from_state_dict  # type: ignore[assignment]


class Shortcut(nn.Module):
    """1x1 convolution and norm; at stride 2 behind a 2x2 average ("vd"), which keeps every pixel."""

    def __init__(self, c_in: int, c_out: int, *, stride: int):
        super().__init__()
        self.c_out = c_out
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.conv = ConvNorm(c_in, c_out, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        return self.conv(self.pool(x))


def add_and_relu(conv: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """ReLU(conv(x) + residual); a deployed ``conv`` does all of it in one pass."""
    if isinstance(conv, RepConv2d):
        return conv(x, residual)
    return (conv(x) + residual).relu_()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; c_out = ``width``. The first block of a stage has a projected shortcut."""

    expansion, last = 1, "conv2"

    def __init__(self, c_in: int, width: int, *, stride: int, first: bool):
        super().__init__()
        self.c_out = width
        self.shortcut = Shortcut(c_in, width, stride=stride) if first else nn.Identity()
        self.conv1 = ConvNorm(c_in, width, kernel=3, stride=stride, act=nn.ReLU)
        self.conv2 = ConvNorm(width, width, kernel=3, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / stride, W / stride]."""
        return add_and_relu(self.conv2, self.conv1(x), self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 to ``width``, 3x3 (which has the stride), 1x1 to c_out = 4 ``width``."""

    expansion, last = EXPANSION, "conv3"

    def __init__(self, c_in: int, width: int, *, stride: int, first: bool):
        super().__init__()
        self.c_out = width * EXPANSION
        self.conv1 = ConvNorm(c_in, width, act=nn.ReLU)
        self.conv2 = ConvNorm(width, width, kernel=3, stride=stride, act=nn.ReLU)
        self.conv3 = ConvNorm(width, self.c_out, act=None)
        self.shortcut = Shortcut(c_in, self.c_out, stride=stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / stride, W / stride]."""
        return add_and_relu(self.conv3, self.conv2(self.conv1(x)), self.shortcut(x))


class PResNet(nn.Module):
    """ResNet-vd: a stem of three 3x3 convolutions, a maximum, four stages.

    Args:
        depths: blocks per stage. bottleneck: their kind. stem: channels of the stem's convolutions.
        widths: inner channels of the stages. frozen: norms are constants and the stem does not train.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        bottleneck: bool,
        stem: Sequence[int] = (32, 32, 64),
        widths: Sequence[int] = (64, 128, 256, 512),
        frozen: bool = False,
    ):
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        self.stem = nn.Sequential(
            *(
                ConvNorm(c_in, c_out, kernel=3, stride=2 if i == 0 else 1, act=nn.ReLU)
                for i, (c_in, c_out) in enumerate(zip((3, *stem), stem))
            )
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        channels = stem[-1]
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, width, stride=2 if i and not j else 1, first=j == 0))
                channels = blocks[-1].c_out
            self.stages.append(nn.Sequential(*blocks))
        self.c_out = tuple(width * block.expansion for width in widths[1:])
        if frozen:
            self._freeze()

    def _freeze(self) -> None:
        for layer in self.modules():
            if isinstance(layer, ConvNormAct):
                layer.bn = FrozenBatchNorm2d(layer.c_out)
        self.stem.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> features of strides 8, 16, 32, each [B, c_out[i], H / stride, W / stride]."""
        x, features = self.pool(self.stem(images)), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]
