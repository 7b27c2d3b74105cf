# SPDX-License-Identifier: Apache-2.0
"""YOLO11: C2f blocks of bottlenecks or C3k, attention behind the pooling, depthwise class branches; five tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdet.models.blocks import C2PSA, SPPF, Bottleneck, C2f, C3k, Concat, ConvNormAct, Upsample
from fastdet.models.classify_head import ClassifyHead
from fastdet.models.distance_head import DistanceHead
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphModel, GraphSpec, case_outputs, fit, fitting, key_map, num_classes_in
from fastdet.models.task_specs import distance_tasks

__all__ = ["SPECS", "build", "candidates", "case_outputs", "fit", "key_map", "num_classes_of"]


def _backbone(wide: bool) -> tuple[Row, ...]:
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


def _neck(wide: bool) -> tuple[Row, ...]:
    """Rows 9 to 22."""
    unit = C3k if wide else Bottleneck
    return (
        Row(SPPF, 1024),
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
        Row(C2f, 1024, repeat=2, unit=C3k, tap="P5"),
    )


# depth, width, most channels, C3k units everywhere
SIZES = {
    "n": (0.5, 0.25, 1024, False),
    "s": (0.5, 0.5, 1024, False),
    "m": (0.5, 1.0, 512, True),
    "l": (1.0, 1.0, 512, True),
    "x": (1.0, 1.5, 512, True),
}


def _specs(size: str) -> tuple[GraphSpec, ...]:
    depth, width, most, wide = SIZES[size]
    plain = GraphSpec(
        name=f"yolo11{size}",
        family="yolo11",
        input_size=(640, 640),
        rows=_backbone(wide) + _neck(wide),
        head=DistanceHead,
        depthwise=True,
        depth=depth,
        width=width,
        max_channels=most,
        license="AGPL-3.0",
    )
    return (
        plain,
        *distance_tasks(plain),
        plain.variant(
            "-cls",
            task="classify",
            num_classes=1000,
            input_size=(224, 224),
            rows=(*_backbone(wide), Row(C2PSA, 1024, repeat=2, tap="P5")),
            head=ClassifyHead,
            bn_eps=1e-5,
            bn_momentum=0.1,
        ),
    )


SPECS = {spec.name: spec for size in SIZES for spec in _specs(size)}
build = GraphModel


def num_classes_of(state: Mapping[str, Any]) -> int | None:
    """Class count of an official state dict, or None if it is none of this family's."""
    return num_classes_in(SPECS.values(), state)


def candidates(state: Mapping[str, Any]) -> list[GraphSpec]:
    """The models that an official state dict could be."""
    return fitting(SPECS.values(), state)
