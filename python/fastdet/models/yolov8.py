# SPDX-License-Identifier: Apache-2.0
"""YOLOv8: C2f blocks, and the anchor-free head with distance bins, for five tasks."""

from __future__ import annotations

from fastdet.models.blocks import SPPF, C2f, Concat, ConvNormAct, Upsample
from fastdet.models.classify_head import ClassifyHead
from fastdet.models.distance_head import DistanceHead
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphSpec
from fastdet.models.task_specs import distance_tasks

__all__ = ["SPECS"]

BACKBONE = (
    Row(ConvNormAct, 64, kernel=3, stride=2),
    Row(ConvNormAct, 128, kernel=3, stride=2),
    Row(C2f, 128, repeat=3, shortcut=True),
    Row(ConvNormAct, 256, kernel=3, stride=2),
    Row(C2f, 256, repeat=6, shortcut=True),
    Row(ConvNormAct, 512, kernel=3, stride=2),
    Row(C2f, 512, repeat=6, shortcut=True),
    Row(ConvNormAct, 1024, kernel=3, stride=2),
    Row(C2f, 1024, repeat=3, shortcut=True),
)
NECK = (
    Row(SPPF, 1024),
    Row(Upsample),
    Row(Concat, source=(-1, 6)),
    Row(C2f, 512, repeat=3),
    Row(Upsample),
    Row(Concat, source=(-1, 4)),
    Row(C2f, 256, repeat=3, tap="P3"),
    Row(ConvNormAct, 256, kernel=3, stride=2),
    Row(Concat, source=(-1, 12)),
    Row(C2f, 512, repeat=3, tap="P4"),
    Row(ConvNormAct, 512, kernel=3, stride=2),
    Row(Concat, source=(-1, 9)),
    Row(C2f, 1024, repeat=3, tap="P5"),
)
# depth, width, most channels
SIZES = {
    "n": (0.33, 0.25, 1024),
    "s": (0.33, 0.5, 1024),
    "m": (0.67, 0.75, 768),
    "l": (1.0, 1.0, 512),
    "x": (1.0, 1.25, 512),
}


def _specs(size: str) -> tuple[GraphSpec, ...]:
    depth, width, most = SIZES[size]
    plain = GraphSpec(
        name=f"yolov8{size}",
        family="yolov8",
        input_size=(640, 640),
        rows=BACKBONE + NECK,
        head=DistanceHead,
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
            rows=(*BACKBONE[:-1], Row(C2f, 1024, repeat=3, shortcut=True, tap="P5")),
            head=ClassifyHead,
            max_channels=1024,
            bn_eps=1e-5,
            bn_momentum=0.1,
        ),
    )


SPECS = {spec.name: spec for size in SIZES for spec in _specs(size)}
