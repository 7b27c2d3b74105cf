# SPDX-License-Identifier: Apache-2.0
"""Blocks of YOLOv7 (arXiv 2207.02696) that no other family uses. Parts bear the names of the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fastdet.models.blocks import ConvNormAct


class MaxPool(nn.Module):
    """Maxima of ``kernel`` x ``kernel`` windows: stride 1 keeps the size (odd kernels), stride 2 halves it."""

    def __init__(self, c_in: int, *, kernel: int = 2, stride: int = 2):
        super().__init__()
        self.c_out, self.kernel, self.stride = c_in, kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_in, H / stride, W / stride]."""
        return max_pool2d(x, self.kernel, self.stride, (self.kernel - 1) // 2)


class Sum(nn.Module):
    """Sum of maps of one shape."""

    def __init__(self, c_in: Sequence[int]):
        super().__init__()
        self.c_out = c_in[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[B, c_in, H, W] each -> [B, c_in, H, W]."""
        first, second = maps
        return first + second


class ReOrg(nn.Module):
    """Space to depth; phases in the order (even row, even column), (odd, even), (even, odd), (odd, odd)."""

    def __init__(self, c_in: int):
        super().__init__()
        self.c_out = 4 * c_in

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, 4 * c_in, H / 2, W / 2]; H and W even."""
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        return torch.cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), 1)


class SPPCSPC(nn.Module):
    """Spatial pyramid pooling in a cross-stage block: a processed branch with 5, 9 and 13 pixel maxima, a plain one.

    The wider windows are pooled from the narrower ones: a 5-maximum of a 5-maximum is a 9-maximum, exactly.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in, c_out)
        self.cv2 = ConvNormAct(c_in, c_out)
        self.cv3 = ConvNormAct(c_out, c_out, kernel=3)
        self.cv4 = ConvNormAct(c_out, c_out)
        self.cv5 = ConvNormAct(4 * c_out, c_out)
        self.cv6 = ConvNormAct(c_out, c_out, kernel=3)
        self.cv7 = ConvNormAct(2 * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        maps = [self.cv4(self.cv3(self.cv1(x)))]
        for _ in range(3):
            maps.append(max_pool2d(maps[-1], 5, 1, 2))
        return self.cv7(torch.cat((self.cv6(self.cv5(torch.cat(maps, 1))), self.cv2(x)), 1))


class DownC(nn.Module):
    """Half the size: half of the channels by a 3x3 convolution of stride 2, half by a maximum and a 1x1."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in, c_in)
        self.cv2 = ConvNormAct(c_in, c_out // 2, kernel=3, stride=2)
        self.cv3 = ConvNormAct(c_in, c_out // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / 2, W / 2]; H and W even."""
        return torch.cat((self.cv2(self.cv1(x)), self.cv3(max_pool2d(x, 2))), 1)
