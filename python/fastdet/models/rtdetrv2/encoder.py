# SPDX-License-Identifier: Apache-2.0
"""The hybrid encoder: attention inside the coarsest level (AIFI), convolutions across levels (CCFF)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdet.models.blocks import RepConv
from fastdet.models.rtdetrv2.attention import SelfAttention
from fastdet.models.rtdetrv2.backbone import ConvNorm


@lru_cache(maxsize=32)
def position_table(height: int, width: int, dim: int, device: torch.device, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines of row and column of each token of a map: [1, height * width, dim], float32.

    Token y * width + x has sin(y w), cos(y w), sin(x w), cos(x w), each of n = ``dim / 4`` frequencies w =
    temperature^(-k / n). The reference numbers the cells of a map that is not square, on which it never runs, in
    another order than its tokens; transformers does as here.
    """
    with torch.inference_mode(False):
        frequencies = temperature ** (-torch.arange(dim // 4, dtype=torch.float32, device="cpu") / (dim // 4))
        y = torch.arange(height, dtype=torch.float32, device="cpu").repeat_interleave(width)[:, None] * frequencies
        x = torch.arange(width, dtype=torch.float32, device="cpu").repeat(height)[:, None] * frequencies
        return torch.cat((y.sin(), y.cos(), x.sin(), x.cos()), 1)[None].to(device)


class EncoderLayer(nn.Module):
    """A transformer layer, norms after the sums: self attention, then two linear maps with a GELU between."""

    def __init__(self, dim: int, ffn: int, *, heads: int):
        super().__init__()
        self.attn = SelfAttention(dim, heads=heads)
        self.linear1 = nn.Linear(dim, ffn)
        self.linear2 = nn.Linear(ffn, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """[B, N, dim] and positions [1, N, dim] -> [B, N, dim]."""
        x = self.norm1(x + self.attn(x, position))
        return self.norm2(x + self.linear2(functional.gelu(self.linear1(x))))


class FusionBlock(nn.Module):
    """CSPRepLayer: one 1x1 branch runs through RepVGG blocks, the other is added; 1x1 out where widths differ."""

    def __init__(self, c_in: int, c_out: int, *, expansion: float, blocks: int = 3):
        super().__init__()
        self.c_out = c_out
        hidden = int(c_out * expansion)
        self.conv1 = ConvNorm(c_in, hidden)
        self.conv2 = ConvNorm(c_in, hidden)
        self.blocks = nn.Sequential(*(RepConv(hidden, hidden, eps=1e-5, momentum=0.1) for _ in range(blocks)))
        self.conv3 = ConvNorm(hidden, c_out) if hidden != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        return self.conv3(self.blocks(self.conv1(x)) + self.conv2(x))


class HybridEncoder(nn.Module):
    """Three levels of features to three levels of ``dim`` channels.

    Args:
        c_in: channels of the levels, strides 8, 16, 32. dim: of all outputs. ffn, heads: of the transformer layer.
        expansion: inner width of the fusion blocks over ``dim``.
    """

    def __init__(self, c_in: Sequence[int], dim: int, *, ffn: int, heads: int, expansion: float):
        super().__init__()
        self.c_out = (dim,) * len(c_in)
        self.input_proj = nn.ModuleList(ConvNorm(c, dim, act=None) for c in c_in)
        self.aifi = EncoderLayer(dim, ffn, heads=heads)
        steps = range(len(c_in) - 1)
        self.laterals = nn.ModuleList(ConvNorm(dim, dim) for _ in steps)
        self.top_down = nn.ModuleList(FusionBlock(2 * dim, dim, expansion=expansion) for _ in steps)
        self.downs = nn.ModuleList(ConvNorm(dim, dim, kernel=3, stride=2) for _ in steps)
        self.bottom_up = nn.ModuleList(FusionBlock(2 * dim, dim, expansion=expansion) for _ in steps)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, c_in[i], H_i, W_i] per level -> [B, dim, H_i, W_i] per level."""
        levels = [project(x) for project, x in zip(self.input_proj, features, strict=True)]
        levels[-1] = self.attend(levels[-1])
        coarse = [levels[-1]]  # what the way down leaves for the way up, finest first
        for lateral, fuse, finer in zip(self.laterals, self.top_down, levels[-2::-1]):
            coarse[0] = lateral(coarse[0])
            up = functional.interpolate(coarse[0], scale_factor=2.0, mode="nearest")
            coarse.insert(0, fuse(torch.cat((up, finer), 1)))
        outputs = coarse[:1]
        for down, fuse, x in zip(self.downs, self.bottom_up, coarse[1:]):
            outputs.append(fuse(torch.cat((down(outputs[-1]), x), 1)))
        return outputs

    def attend(self, x: Tensor) -> Tensor:
        """The transformer layer on one level: [B, dim, H, W] -> [B, dim, H, W], tokens row-major."""
        height, width = x.shape[-2:]
        position = position_table(height, width, x.shape[1], x.device).to(x.dtype)
        tokens = self.aifi(x.flatten(2).transpose(1, 2), position)
        return tokens.transpose(1, 2).unflatten(2, (height, width))
