# SPDX-License-Identifier: Apache-2.0
"""The layer tables of YOLOv9: the training graphs with their auxiliary branches, and the deployed (GELAN) graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fastdet.models.blocks import Concat, ConvNormAct, Upsample
from fastdet.models.graph import Row
from fastdet.models.yolov9.blocks import ELAN1, SPPELAN, AConv, ADown, CBFuse, CBLinear, RepNCSPELAN4, Silence

AUXILIARY = "auxiliary "  # what the tap of an auxiliary map begins with

Block = tuple[int, int]  # channels after a block, and inside it


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What tells tables of one pattern apart. Widths are channels.

    Attributes:
        stem: of the two first convolutions. stages: of the four stages' blocks. first: kind of the first of them.
        down: kind of what halves a map. downs: its widths before stages 2 to 4.
        pool: of the pyramid pooling. top_down: of the neck's blocks on strides 16 and 8.
        neck_downs: widths of what halves the neck's maps. bottom_up: of its blocks on strides 16 and 32.
        repeat: bottlenecks in a part of a block.
    """

    stem: tuple[int, int]
    stages: tuple[Block, Block, Block, Block]
    down: type[nn.Module]
    downs: tuple[int, int, int]
    pool: Block
    top_down: tuple[Block, Block]
    neck_downs: tuple[int, int]
    bottom_up: tuple[Block, Block]
    repeat: int
    first: type[nn.Module] = RepNCSPELAN4


class _Table:
    """Rows written one after the other; every method adds some and returns the numbers that others refer to."""

    def __init__(self, plan: Plan):
        self.rows: list[Row] = []
        self.plan = plan

    def add(self, block: Any, channels: Any = None, source: Any = -1, **options: Any) -> int:
        self.rows.append(Row(block, channels, source=source, **options))
        return len(self.rows) - 1

    def elan(self, block: Block, **options: Any) -> int:
        return self.add(RepNCSPELAN4, block[0], mid=block[1], repeat=self.plan.repeat, **options)

    def backbone(self, image: int, routes: Sequence[Sequence[int]] = ((),) * 5) -> list[int]:
        """Stem and four stages on row ``image``. ``routes``: CBLinear rows fused into each of the five scales."""
        plan, kinds = self.plan, {}
        if plan.first is RepNCSPELAN4:
            kinds["repeat"] = plan.repeat
        picks = iter(range(5))

        def halve(block: type[nn.Module], channels: int, scale: int, **options: Any) -> int:
            row = self.add(block, channels, **options)
            if not routes[scale]:
                return row
            return self.add(CBFuse, source=(*routes[scale], row), pick=next(picks))

        stem = halve(ConvNormAct, plan.stem[0], 0, source=image, kernel=3, stride=2)
        halve(ConvNormAct, plan.stem[1], 1, kernel=3, stride=2)
        found = [stem, self.add(plan.first, plan.stages[0][0], mid=plan.stages[0][1], **kinds)]
        for i, width in enumerate(plan.downs):
            halve(plan.down, width, i + 2)
            found.append(self.elan(plan.stages[i + 1]))
        return found

    def top_down(self, stages: Sequence[int], tap: str = "") -> list[int]:
        """Pyramid pooling and the blocks on strides 16 and 8. ``tap``: put the three maps out under this name."""
        found = [self.add(SPPELAN, self.plan.pool[0], stages[4], mid=self.plan.pool[1], tap=tap and f"{tap}P5")]
        for level, block, stage in zip((4, 3), self.plan.top_down, (stages[3], stages[2])):
            self.add(Upsample)
            self.add(Concat, source=(-1, stage))
            found.append(self.elan(block, tap=tap and f"{tap}P{level}"))
        return found

    def neck(self, stages: Sequence[int]) -> None:
        """The whole main neck; its maps are P3, P4 and P5."""
        coarse, middle, fine = self.top_down(stages)
        self.rows[fine].tap = "P3"
        for level, width, block, lateral in zip((4, 5), self.plan.neck_downs, self.plan.bottom_up, (middle, coarse)):
            self.add(self.plan.down, width)
            self.add(Concat, source=(-1, lateral))
            self.elan(block, tap=f"P{level}")

    def links(self, stages: Sequence[int], widths: Sequence[int]) -> list[int]:
        """A CBLinear per stage, the coarser ones with a map for every finer scale too."""
        return [self.add(CBLinear, source=stage, widths=tuple(widths[: i + 1])) for i, stage in enumerate(stages)]


def gelan(plan: Plan) -> tuple[Row, ...]:
    """The deployed graph of t, s, m and c."""
    table = _Table(plan)
    table.neck(table.backbone(-1))
    return tuple(table.rows)


def with_auxiliary_neck(plan: Plan) -> tuple[Row, ...]:
    """The training graph of t and s: a second top-down neck on the same backbone."""
    table = _Table(plan)
    stages = table.backbone(-1)
    table.neck(stages)
    table.top_down(stages, AUXILIARY)
    return tuple(table.rows)


def with_auxiliary_backbone(plan: Plan) -> tuple[Row, ...]:
    """The training graph of m and c: a second backbone on the picture, fed with maps of the first one."""
    table = _Table(plan)
    image = table.add(Silence)
    stages = table.backbone(image)
    table.neck(stages)
    links = table.links(stages[2:], plan.downs)
    second = table.backbone(image, [(), (), links, links[1:], links[2:]])
    for level, row in enumerate(second[2:], 3):
        table.rows[row].tap = f"{AUXILIARY}P{level}"
    return tuple(table.rows)


def with_two_backbones(plan: Plan, *, auxiliary: bool) -> tuple[Row, ...]:
    """Size e: the second backbone is the main one. ``auxiliary``: with the neck on the first, as in training."""
    table = _Table(plan)
    image = table.add(Silence)
    stages = table.backbone(image)
    links = table.links(stages, (*plan.stem, *plan.downs))
    second = table.backbone(image, [links[i:] for i in range(5)])
    if auxiliary:
        table.top_down(stages, AUXILIARY)
    table.neck(second)
    return tuple(table.rows)


T = Plan(
    stem=(16, 32),
    stages=((32, 32), (64, 64), (96, 96), (128, 128)),
    first=ELAN1,
    down=AConv,
    downs=(64, 96, 128),
    pool=(128, 64),
    top_down=((96, 96), (64, 64)),
    neck_downs=(48, 64),
    bottom_up=((96, 96), (128, 128)),
    repeat=3,
)
S = Plan(
    stem=(32, 64),
    stages=((64, 64), (128, 128), (192, 192), (256, 256)),
    first=ELAN1,
    down=AConv,
    downs=(128, 192, 256),
    pool=(256, 128),
    top_down=((192, 192), (128, 128)),
    neck_downs=(96, 128),
    bottom_up=((192, 192), (256, 256)),
    repeat=3,
)
M = Plan(
    stem=(32, 64),
    stages=((128, 128), (240, 240), (360, 360), (480, 480)),
    down=AConv,
    downs=(240, 360, 480),
    pool=(480, 240),
    top_down=((360, 360), (240, 240)),
    neck_downs=(180, 240),
    bottom_up=((360, 360), (480, 480)),
    repeat=1,
)
C = Plan(
    stem=(64, 128),
    stages=((256, 128), (512, 256), (512, 512), (512, 512)),
    down=ADown,
    downs=(256, 512, 512),
    pool=(512, 256),
    top_down=((512, 512), (256, 256)),
    neck_downs=(256, 512),
    bottom_up=((512, 512), (512, 512)),
    repeat=1,
)
E = Plan(
    stem=(64, 128),
    stages=((256, 128), (512, 256), (1024, 512), (1024, 512)),
    down=ADown,
    downs=(256, 512, 1024),
    pool=(512, 256),
    top_down=((512, 512), (256, 256)),
    neck_downs=(256, 512),
    bottom_up=((512, 512), (512, 1024)),
    repeat=2,
)
