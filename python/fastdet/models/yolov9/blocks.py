# SPDX-License-Identifier: Apache-2.0
"""Blocks of YOLOv9 (arXiv 2402.13616): generalised ELAN, and the routes that feed an auxiliary branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from fastdet.models.blocks import ConvNormAct, RepConv


def _average(x: Tensor) -> Tensor:
    """Mean of each 2x2 window at stride 1: the map shrinks by one row and one column."""
    return avg_pool2d(x, 2, stride=1)


class AConv(nn.Module):
    """Half the size: 2x2 averages, then a 3x3 convolution of stride 2."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in, c_out, kernel=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / 2, W / 2]; H and W even."""
        return self.cv1(_average(x))


class ADown(nn.Module):
    """Half the size: 2x2 averages; half of the channels through a 3x3 convolution, half through a maximum and a 1x1."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in // 2, c_out // 2, kernel=3, stride=2)
        self.cv2 = ConvNormAct(c_in // 2, c_out // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / 2, W / 2]; H and W even."""
        left, right = _average(x).chunk(2, 1)
        return torch.cat((self.cv1(left), self.cv2(max_pool2d(right, 3, stride=2, padding=1))), 1)


class RepBottleneck(nn.Module):
    """x + conv3x3(rep_conv3x3(x))."""

    def __init__(self, c_in: int):
        super().__init__()
        self.c_out = c_in
        self.cv1 = RepConv(c_in, c_in)
        self.cv2 = ConvNormAct(c_in, c_in, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> the same shape."""
        return x + self.cv2(self.cv1(x))


class RepCSP(nn.Module):
    """Two 1x1 branches of half the width, one of them through ``repeat`` bottlenecks; joined by a 1x1."""

    def __init__(self, c_in: int, c_out: int, *, repeat: int = 1):
        super().__init__()
        self.c_out, inner = c_out, c_out // 2
        self.cv1 = ConvNormAct(c_in, inner)
        self.cv2 = ConvNormAct(c_in, inner)
        self.cv3 = ConvNormAct(2 * inner, c_out)
        self.m = nn.Sequential(*(RepBottleneck(inner) for _ in range(repeat)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class ELAN1(nn.Module):
    """1x1 to ``mid`` channels; their second half through two 3x3 convolutions in chain; everything joined by a 1x1."""

    def __init__(self, c_in: int, c_out: int, *, mid: int):
        super().__init__()
        self.c_out, half = c_out, mid // 2
        self.cv1 = ConvNormAct(c_in, mid)
        self.cv2 = self.part(half)
        self.cv3 = self.part(half)
        self.cv4 = ConvNormAct(4 * half, c_out)

    def part(self, channels: int) -> nn.Module:
        """One of the two parts in chain."""
        return ConvNormAct(channels, channels, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        first, second = self.cv1(x).chunk(2, 1)
        third = self.cv2(second)
        return self.cv4(torch.cat((first, second, third, self.cv3(third)), 1))


class RepNCSPELAN4(ELAN1):
    """ELAN1 whose parts are a RepCSP with ``repeat`` bottlenecks and a 3x3 convolution each."""

    def __init__(self, c_in: int, c_out: int, *, mid: int, repeat: int):
        self.repeat = repeat
        super().__init__(c_in, c_out, mid=mid)

    def part(self, channels: int) -> nn.Module:
        """One of the two parts in chain."""
        return nn.Sequential(RepCSP(channels, channels, repeat=self.repeat), ConvNormAct(channels, channels, kernel=3))


class SPPELAN(nn.Module):
    """1x1 to ``mid`` channels, beside it its 5, 9 and 13 pixel maxima, 1x1 to c_out."""

    def __init__(self, c_in: int, c_out: int, *, mid: int):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in, mid)
        self.cv5 = ConvNormAct(4 * mid, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(max_pool2d(maps[-1], 5, stride=1, padding=2))
        return self.cv5(torch.cat(maps, 1))


class Silence(nn.Module):
    """The picture as a row of its own, for a second path."""

    def __init__(self, c_in: int):
        super().__init__()
        self.c_out = c_in

    def forward(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


class CBLinear(nn.Module):
    """A plain 1x1 convolution with bias whose output is split into maps of ``widths`` channels."""

    def __init__(self, c_in: int, *, widths: tuple[int, ...]):
        super().__init__()
        self.c_out = widths
        self.conv = nn.Conv2d(c_in, sum(widths), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, c_in, H, W] -> [B, width, H, W] for each of ``widths``."""
        return self.conv(x).split(self.c_out, 1)


class CBFuse(nn.Module):
    """Adds map number ``pick`` of each CBLinear to the last input, at the last input's size (nearest pixel)."""

    def __init__(self, c_in: Sequence[Any], *, pick: int):
        super().__init__()
        self.c_out, self.pick = c_in[-1], pick

    def forward(self, inputs: Sequence[Any]) -> Tensor:
        """Outputs of CBLinear blocks, then one map [B, c_out, H, W] -> [B, c_out, H, W]."""
        *routes, total = inputs
        for route in routes:
            total = total + interpolate(route[self.pick], size=total.shape[-2:], mode="nearest")
        return total
