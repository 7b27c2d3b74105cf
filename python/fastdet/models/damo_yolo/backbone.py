# SPDX-License-Identifier: Apache-2.0
"""The three TinyNAS backbones. Stage indices equal the reference's; the neck takes strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from fastdet.models.blocks import SPP, ConvNormAct, Focus
from fastdet.models.damo_yolo.blocks import CspStage, MobileBlock, ResBlock


class Stage(NamedTuple):
    """One row of a searched structure: ``blocks`` blocks, of which the first has ``stride`` and ``c_in``.

    ``bottleneck`` is the inner width of residual blocks, ``expansion`` the inner width of mobile blocks over c_out.
    """

    c_in: int
    c_out: int
    blocks: int
    stride: int
    bottleneck: int = 0
    expansion: float = 0.0


class Backbone(nn.Module):
    """A chain of ``stages``, of which the outputs numbered ``taps`` are returned; ``c_out`` are their channels."""

    taps: tuple[int, int, int]

    def __init__(self, stages: Sequence[nn.Module], c_out: Sequence[int]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.c_out = tuple(c_out[tap] for tap in self.taps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] -> features of strides 8, 16, 32, each [B, c_out[i], H / stride, W / stride]."""
        x, features = images, []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.taps:
                features.append(x)
        return tuple(features)


def _with_spp(blocks: list[nn.Module], channels: int, last: bool) -> nn.Sequential:
    """The blocks of a stage; the last stage has an SPP, always SiLU, after its first block."""
    if last:
        blocks.insert(1, SPP(channels, channels))
    return nn.Sequential(*blocks)


class ResidualBackbone(Backbone):
    """T and S: residual blocks of a 1x1 and a 3x3 convolution."""

    taps = (2, 4, 5)

    def __init__(self, stem: int, rows: Sequence[Stage], act: type[nn.Module]):
        stages: list[nn.Module] = [Focus(3, stem, act=act)]
        for row in rows:
            blocks: list[nn.Module] = [
                ResBlock(
                    row.c_out if i else row.c_in,
                    row.c_out,
                    bottleneck=row.bottleneck,
                    kernel=1,
                    stride=1 if i else row.stride,
                    act=act,
                )
                for i in range(row.blocks)
            ]
            stages.append(_with_spp(blocks, row.c_out, row is rows[-1]))
        super().__init__(stages, [stem, *(row.c_out for row in rows)])


class CspBackbone(Backbone):
    """M and L: cross-stage partial stages of residual blocks with two 3x3 convolutions.

    A row of stride 1 is joined to the stage before it; a stage's own down-sampling replaces the first block of a
    row of stride 2.
    """

    taps = (2, 3, 4)

    def __init__(self, stem: int, rows: Sequence[Stage], act: type[nn.Module]):
        grouped: list[Stage] = []
        for row in rows:
            if row.stride == 1:
                grouped[-1] = grouped[-1]._replace(blocks=grouped[-1].blocks + row.blocks)
            else:
                grouped.append(row._replace(blocks=row.blocks - 1))
        stages: list[nn.Module] = [Focus(3, stem, act=act)]
        for row in grouped:
            stages.append(
                CspStage(
                    row.c_in,
                    row.c_out,
                    bottleneck=row.bottleneck,
                    blocks=row.blocks,
                    act=act,
                    spp=row is grouped[-1],
                )
            )
        super().__init__(stages, [stem, *(row.c_out for row in grouped)])


class MobileBackbone(Backbone):
    """Ns, Nm and Nl: inverted residuals, wider inside towards the end."""

    taps = (2, 4, 5)

    def __init__(self, stem: int, rows: Sequence[Stage], act: type[nn.Module]):
        stages: list[nn.Module] = [ConvNormAct(3, stem, kernel=3, stride=2, act=act)]
        for row in rows:
            blocks: list[nn.Module] = [
                MobileBlock(
                    row.c_out if i else row.c_in,
                    row.c_out,
                    expansion=row.expansion,
                    stride=1 if i else row.stride,
                )
                for i in range(row.blocks)
            ]
            stages.append(_with_spp(blocks, row.c_out, row is rows[-1]))
        super().__init__(stages, [stem, *(row.c_out for row in rows)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 1 / module.weight.shape[1])
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 1e-4)
