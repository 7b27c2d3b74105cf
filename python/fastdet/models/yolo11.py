# SPDX-License-Identifier: Apache-2.0
"""YOLO11: C2f blocks of bottlenecks or C3k, attention behind the pooling, depthwise class branches; five tasks."""

from __future__ import annotations

from fastdet.models.blocks import C2PSA, SPPF, Bottleneck, C2f, C3k
from fastdet.models.c3k2_tables import SIZES, backbone, neck
from fastdet.models.classify_head import ClassifyHead
from fastdet.models.distance_head import DistanceHead
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphSpec
from fastdet.models.task_specs import distance_tasks

__all__ = ["SPECS"]


def _specs(size: str) -> tuple[GraphSpec, ...]:
    depth, width, most, wide = SIZES[size]
    plain = GraphSpec(
        name=f"yolo11{size}",
        family="yolo11",
        input_size=(640, 640),
        rows=backbone(wide)
        + neck(Row(SPPF, 1024), C3k if wide else Bottleneck, Row(C2f, 1024, repeat=2, unit=C3k, tap="P5")),
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
            reference_names=(f"yolo26{size}-cls",),  # the same network
            task="classify",
            num_classes=1000,
            input_size=(224, 224),
            rows=(*backbone(wide), Row(C2PSA, 1024, repeat=2, tap="P5")),
            head=ClassifyHead,
            bn_eps=1e-5,
            bn_momentum=0.1,
        ),
    )


SPECS = {spec.name: spec for size in SIZES for spec in _specs(size)}
