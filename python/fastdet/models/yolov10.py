# SPDX-License-Identifier: Apache-2.0
"""YOLOv10 (arXiv 2405.14458): C2f and compact inverted blocks, partial attention, and two heads, one NMS-free."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.models.blocks import SPPF, Attention, C2f, Concat, ConvNormAct, Upsample
from fastdet.models.fuse import fold_rep_conv
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphSpec
from fastdet.models.two_head import TwoHeads

__all__ = ["SPECS"]


class RepVGGDW(nn.Module):
    """Depthwise 7x7 and 3x3 convolutions, summed, then SiLU. Keys ``conv``, ``conv1``; deployed: one 7x7 ``conv``."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv: nn.Module = ConvNormAct(channels, channels, kernel=7, groups=channels, act=None)
        self.conv1: ConvNormAct | None = ConvNormAct(channels, channels, kernel=3, groups=channels, act=None)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        y = self.conv(x)
        return self.act(y if self.conv1 is None else y + self.conv1(x))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Replace the two branches by one convolution. ``batch_norm`` has no say here: a branch's is always folded."""
        if isinstance(self.conv, ConvNormAct) and self.conv1 is not None:
            self.conv = fold_rep_conv([(branch.conv, branch.bn) for branch in (self.conv, self.conv1)])
            self.conv1 = None


class CIB(nn.Module):
    """Compact inverted block: three depthwise convolutions with two 1x1 between them, added to the input. Key ``cv1``.

    ``large``: the middle depthwise convolution is a RepVGGDW.
    """

    def __init__(self, c_in: int, c_out: int, *, large: bool = False):
        super().__init__()
        middle = 2 * c_out
        depthwise = partial(ConvNormAct, kernel=3)
        self.cv1 = nn.Sequential(
            depthwise(c_in, c_in, groups=c_in),
            ConvNormAct(c_in, middle),
            RepVGGDW(middle) if large else depthwise(middle, middle, groups=middle),
            ConvNormAct(middle, c_out),
            depthwise(c_out, c_out, groups=c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> the same shape."""
        return x + self.cv1(x)


class SCDown(nn.Module):
    """Half the size: a 1x1 convolution, then a depthwise 3x3 of stride 2 without activation. Keys ``cv1``, ``cv2``."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in, c_out)
        self.cv2 = ConvNormAct(c_out, c_out, kernel=3, stride=2, groups=c_out, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / 2, W / 2]."""
        return self.cv2(self.cv1(x))


class PSA(nn.Module):
    """Partial self-attention: half of the channels through attention and a small network. Keys ``attn``, ``ffn``."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.c_out, half = c_out, c_out // 2
        self.cv1 = ConvNormAct(c_in, 2 * half)
        self.cv2 = ConvNormAct(2 * half, c_out)
        self.attn = Attention(half, max(half // 64, 1))
        self.ffn = nn.Sequential(ConvNormAct(half, 2 * half), ConvNormAct(2 * half, half, act=None))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        side, main = self.cv1(x).chunk(2, 1)
        main = main + self.attn(main)
        return self.cv2(torch.cat((side, main + self.ffn(main)), 1))


def _rows(compact: tuple[int, ...], large: bool) -> tuple[Row, ...]:
    """The table. ``compact``: rows whose units are CIB; ``large``: with large kernels."""

    def units(row: int, **plain: Any) -> dict[str, Any]:
        return {"unit": CIB, "large": large} if row in compact else plain

    return (
        Row(ConvNormAct, 64, kernel=3, stride=2),
        Row(ConvNormAct, 128, kernel=3, stride=2),
        Row(C2f, 128, repeat=3, shortcut=True),
        Row(ConvNormAct, 256, kernel=3, stride=2),
        Row(C2f, 256, repeat=6, shortcut=True),
        Row(SCDown, 512),
        Row(C2f, 512, repeat=6, **units(6, shortcut=True)),
        Row(SCDown, 1024),
        Row(C2f, 1024, repeat=3, **units(8, shortcut=True)),
        Row(SPPF, 1024),
        Row(PSA, 1024),
        Row(Upsample),
        Row(Concat, source=(-1, 6)),
        Row(C2f, 512, repeat=3, **units(13)),
        Row(Upsample),
        Row(Concat, source=(-1, 4)),
        Row(C2f, 256, repeat=3, tap="P3"),
        Row(ConvNormAct, 256, kernel=3, stride=2),
        Row(Concat, source=(-1, 13)),
        Row(C2f, 512, repeat=3, **units(19), tap="P4"),
        Row(SCDown, 512),
        Row(Concat, source=(-1, 10)),
        Row(C2f, 1024, repeat=3, **units(22), tap="P5"),
    )


# depth, width, most channels, rows with compact inverted blocks, large kernels in them
SIZES: dict[str, tuple[float, float, int, tuple[int, ...], bool]] = {
    "n": (0.33, 0.25, 1024, (22,), True),
    "s": (0.33, 0.5, 1024, (8, 22), True),
    "m": (0.67, 0.75, 768, (8, 19, 22), False),
    "b": (0.67, 1.0, 512, (8, 13, 19, 22), False),
    "l": (1.0, 1.0, 512, (8, 13, 19, 22), False),
    "x": (1.0, 1.25, 512, (6, 8, 13, 19, 22), False),
}


def _spec(size: str) -> GraphSpec:
    depth, width, most, compact, large = SIZES[size]
    return GraphSpec(
        name=f"yolov10{size}",
        family="yolov10",
        input_size=(640, 640),
        rows=_rows(compact, large),
        head=TwoHeads,
        depthwise=True,
        nms_free=True,
        depth=depth,
        width=width,
        max_channels=most,
        license="AGPL-3.0",
    )


SPECS = {spec.name: spec for spec in map(_spec, SIZES)}
