# SPDX-License-Identifier: Apache-2.0
"""The layer tables of YOLOv7, written from patterns and widths, and the rule that scales them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from fastdet.models.blocks import Concat, ConvNormAct, RepConv, Upsample
from fastdet.models.graph import Row
from fastdet.models.yolov7.blocks import SPPCSPC, DownC, MaxPool, ReOrg, Sum

SLOPE = 0.1  # of the LeakyReLU in the tiny model


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What tells tables of one pattern apart. Widths are channels, finest level first.

    Attributes:
        stem: of the convolutions before the first stage. stages: of the backbone's stages, after each one's ELAN block.
        pool: of the pyramid pooling. neck: of the neck's ELAN blocks, finest first, then back down to the coarsest.
        lead: of the convolutions before the head.
        inner: of the chains in the stages' ELAN blocks. neck_inner: of the 1x1 convolutions in those of the neck.
        depth: 3x3 convolutions chained in a block. blocks: parallel ELAN blocks that are summed.
        neck_step: every how many of a chain's convolutions the neck joins. neck_chain: width of the neck's chains as a
            part of ``neck_inner``.
    """

    stem: tuple[int, ...]
    stages: tuple[int, ...]
    pool: int
    neck: tuple[int, ...]
    lead: tuple[int, ...]
    inner: tuple[int, ...]
    neck_inner: tuple[int, ...]
    depth: int = 4
    blocks: int = 1
    neck_step: int = 1
    neck_chain: float = 0.5


def compound_scaled(base: Plan, depth: float) -> Plan:
    """``base`` made deeper, and what stands between its blocks wider by as much as their concatenations grow.

    A block with a chain of n convolutions joins its two 1x1 branches and every second convolution: 2 + n / 2 maps of
    one width. With ``depth`` times the convolutions it joins 2 + depth n / 2. Only what reads or writes a concatenation
    takes the ratio of the two; the widths inside the blocks stay (compound scaling of concatenation-based models, arXiv
    2207.02696, section 3.3).

    Raises:
        ValueError: the scaled chain would not have an even number of convolutions.
    """
    chained = base.depth * depth
    if chained < 2 or chained % 2:
        raise ValueError(f"compound_scaled: depth must give chains of an even length, got {depth} x {base.depth}")
    ratio = (2 + chained / 2) / (2 + base.depth / 2)
    wider: dict[str, Any] = {
        name: tuple(int(width * ratio) for width in getattr(base, name)) for name in ("stem", "stages", "neck", "lead")
    }
    return replace(base, **wider, pool=int(base.pool * ratio), depth=int(chained))


class _Table:
    """Rows written one after the other; every method adds some and returns the number of the last."""

    def __init__(self, act: Any = nn.SiLU):
        self.rows: list[Row] = []
        self.act = act

    def add(self, block: Any, channels: int | None = None, source: Any = -1, **options: Any) -> int:
        self.rows.append(Row(block, channels, source=source, **options))
        return len(self.rows) - 1

    def conv(self, channels: int, kernel: int = 1, *, stride: int = 1, source: int = -1, **options: Any) -> int:
        return self.add(ConvNormAct, channels, source, kernel=kernel, stride=stride, act=self.act, **options)

    def elan(self, channels: int, inner: int, chain: int, *, depth: int = 4, step: int = 2, blocks: int = 1) -> int:
        """``blocks`` ELAN blocks on the row before, summed."""
        source, outputs = len(self.rows) - 1, []
        for _ in range(blocks):
            side = self.conv(inner, source=source)
            main = self.conv(inner, source=source)
            chained = [self.conv(chain, 3) for _ in range(depth)]
            self.add(Concat, source=(*reversed(chained[step - 1 :: step]), main, side))
            outputs.append(self.conv(channels))
        return self.add(Sum, source=tuple(outputs)) if blocks > 1 else outputs[0]

    def halve(self, channels: int, *lateral: int) -> int:
        """A convolution of stride 2 and a maximum, ``channels`` each, and ``lateral`` joined."""
        source = len(self.rows) - 1
        self.add(MaxPool)
        pooled = self.conv(channels)
        self.conv(channels, source=source)
        return self.add(Concat, source=(self.conv(channels, 3, stride=2), pooled, *lateral))

    def double(self, channels: int, source: int) -> int:
        """The row before at twice the size beside row ``source``, ``channels`` each."""
        self.conv(channels)
        upsampled = self.add(Upsample)
        return self.add(Concat, source=(self.conv(channels, source=source), upsampled))


def p5_rows(plan: Plan, *, rep: bool) -> tuple[Row, ...]:
    """YOLOv7 and YOLOv7x, three levels. ``rep``: the convolutions before the head are RepConv."""
    table = _Table()
    first, second, third, fourth = plan.stem
    table.conv(first, 3)
    table.conv(second, 3, stride=2)
    table.conv(third, 3)
    table.conv(fourth, 3, stride=2)
    stages: list[int] = []
    for width, inner in zip(plan.stages, plan.inner):
        if stages:
            table.halve(plan.stages[len(stages) - 1] // 2)
        stages.append(table.elan(width, inner, inner, depth=plan.depth))
    elan = partial(table.elan, depth=plan.depth, step=plan.neck_step)

    def neck(i: int) -> int:
        return elan(plan.neck[i], plan.neck_inner[i], int(plan.neck_inner[i] * plan.neck_chain))

    pooled = table.add(SPPCSPC, plan.pool)
    table.double(plan.neck[0], stages[2])
    middle = neck(0)
    table.double(plan.neck[1], stages[1])
    levels = [neck(1)]
    table.halve(plan.neck[1], middle)
    levels.append(neck(2))
    table.halve(plan.neck[2], pooled)
    levels.append(neck(3))
    for i, (level, width) in enumerate(zip(levels, plan.lead)):
        if rep:
            table.add(RepConv, width, level, tap=f"P{i + 3}")
        else:
            table.conv(width, 3, source=level, tap=f"P{i + 3}")
    return tuple(table.rows)


def tiny_rows() -> tuple[Row, ...]:
    """YOLOv7-tiny: LeakyReLU, two convolutions in a chain, the pyramid pooling unrolled."""
    table = _Table(partial(nn.LeakyReLU, SLOPE))

    def elan(channels: int, inner: int) -> int:
        return table.elan(channels, inner, inner, depth=2, step=1)

    table.conv(32, 3, stride=2)
    table.conv(64, 3, stride=2)
    stages = [elan(64, 32)]
    for width, inner in ((128, 64), (256, 128), (512, 256)):
        table.add(MaxPool)
        stages.append(elan(width, inner))
    side = table.conv(256)
    main = table.conv(256, source=stages[3])
    pools = [table.add(MaxPool, source=main, kernel=kernel, stride=1) for kernel in (5, 9, 13)]
    table.add(Concat, source=(*reversed(pools), main))
    table.add(Concat, source=(table.conv(256), side))
    pooled = table.conv(256)
    table.double(128, stages[2])
    middle = elan(128, 64)
    table.double(64, stages[1])
    levels = [elan(64, 32)]
    for width, inner, lateral in ((128, 64, middle), (256, 128, pooled)):
        table.add(Concat, source=(table.conv(width, 3, stride=2), lateral))
        levels.append(elan(width, inner))
    for i, (level, width) in enumerate(zip(levels, (128, 256, 512))):
        table.conv(width, 3, source=level, tap=f"P{i + 3}")
    return tuple(table.rows)


def p6_rows(plan: Plan, *, down: type[nn.Module], auxiliary: int) -> tuple[Row, ...]:
    """YOLOv7-W6, E6, D6 and E6E, four levels. ``auxiliary``: width of the finest auxiliary map."""
    table = _Table()
    elan = partial(table.elan, depth=plan.depth, blocks=plan.blocks)

    def halve(channels: int) -> int:
        return table.conv(channels, 3, stride=2) if down is ConvNormAct else table.add(down, channels)

    def neck(i: int) -> int:
        inner = plan.neck_inner[i]
        return elan(plan.neck[i], inner, int(inner * plan.neck_chain), step=plan.neck_step)

    table.add(ReOrg)
    table.conv(plan.stem[0], 3)
    stages: list[int] = []
    for width, inner in zip(plan.stages, plan.inner):
        halve(width)
        stages.append(elan(width, inner, inner))
    top_down = [table.add(SPPCSPC, plan.pool)]
    for i in range(3):
        table.double(plan.neck[i], stages[3 - i])
        top_down.append(neck(i))
    levels = [top_down[3]]
    for i in range(3, 6):
        table.add(Concat, source=(halve(plan.neck[i]), top_down[5 - i]))
        levels.append(neck(i))
    for i, (level, width) in enumerate(zip(levels, plan.lead)):
        table.conv(width, 3, source=level, tap=f"P{i + 3}")
    for i, level in enumerate(reversed(top_down)):
        table.conv((i + 1) * auxiliary, 3, source=level, tap=f"auxiliary P{i + 3}")
    return tuple(table.rows)


BASE = Plan(
    stem=(32, 64, 64, 128),
    stages=(256, 512, 1024, 1024),
    pool=512,
    neck=(256, 128, 256, 512),
    lead=(256, 512, 1024),
    inner=(64, 128, 256, 256),
    neck_inner=(256, 128, 256, 512),
)
W6 = Plan(
    stem=(64,),
    stages=(128, 256, 512, 768, 1024),
    pool=512,
    neck=(384, 256, 128, 256, 384, 512),
    lead=(256, 512, 768, 1024),
    inner=(64, 128, 256, 384, 512),
    neck_inner=(384, 256, 128, 256, 384, 512),
)
YOLOV7 = p5_rows(BASE, rep=True)
# Besides being scaled, the neck's blocks are those of the backbone here.
YOLOV7X = p5_rows(replace(compound_scaled(BASE, 1.5), neck_step=2, neck_chain=1.0), rep=False)
TINY = tiny_rows()
YOLOV7_W6 = p6_rows(W6, down=ConvNormAct, auxiliary=320)
YOLOV7_E6 = p6_rows(compound_scaled(W6, 1.5), down=DownC, auxiliary=320)
YOLOV7_D6 = p6_rows(compound_scaled(W6, 2), down=DownC, auxiliary=384)
YOLOV7_E6E = p6_rows(replace(compound_scaled(W6, 1.5), blocks=2), down=DownC, auxiliary=320)
