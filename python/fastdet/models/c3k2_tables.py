# SPDX-License-Identifier: Apache-2.0
"""The table that YOLO11 and YOLO26 share: C2f blocks of bottlenecks or C3k units, attention behind the pooling."""

from __future__ import annotations

from torch import nn

from fastdet.models.blocks import C2PSA, Bottleneck, C2f, C3k, Concat, ConvNormAct, Upsample
from fastdet.models.graph import Row

# depth, width, most channels, C3k units everywhere
SIZES = {
    "n": (0.5, 0.25, 1024, False),
    "s": (0.5, 0.5, 1024, False),
    "m": (0.5, 1.0, 512, True),
    "l": (1.0, 1.0, 512, True),
    "x": (1.0, 1.5, 512, True),
}


def backbone(wide: bool) -> tuple[Row, ...]:
    """Rows 0 to 8. ``wide``: sizes m, l and x have C3k units everywhere."""
    early = C3k if wide else Bottleneck
    return (
        Row(ConvNormAct, 64, kernel=3, stride=2),
        Row(ConvNormAct, 128, kernel=3, stride=2),
        Row(C2f, 256, repeat=2, expansion=0.25, unit=early),
        Row(ConvNormAct, 256, kernel=3, stride=2),
        Row(C2f, 512, repeat=2, expansion=0.25, unit=early),
        Row(ConvNormAct, 512, kernel=3, stride=2),
        Row(C2f, 512, repeat=2, unit=C3k),
        Row(ConvNormAct, 1024, kernel=3, stride=2),
        Row(C2f, 1024, repeat=2, unit=C3k),
    )


def neck(pooling: Row, unit: type[nn.Module], last: Row) -> tuple[Row, ...]:
    """Rows 9 (``pooling``) to 22 (``last``), with blocks of ``unit`` between them."""
    return (
        pooling,
        Row(C2PSA, 1024, repeat=2),
        Row(Upsample),
        Row(Concat, source=(-1, 6)),
        Row(C2f, 512, repeat=2, unit=unit),
        Row(Upsample),
        Row(Concat, source=(-1, 4)),
        Row(C2f, 256, repeat=2, unit=unit, tap="P3"),
        Row(ConvNormAct, 256, kernel=3, stride=2),
        Row(Concat, source=(-1, 13)),
        Row(C2f, 512, repeat=2, unit=unit, tap="P4"),
        Row(ConvNormAct, 512, kernel=3, stride=2),
        Row(Concat, source=(-1, 10)),
        last,
    )
