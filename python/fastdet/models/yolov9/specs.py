# SPDX-License-Identifier: Apache-2.0
"""The published sizes and layouts of YOLOv9, as data, and how a state dict tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fastdet.models.distance_head import DistanceHead, class_width
from fastdet.models.graph_model import GraphSpec
from fastdet.models.recognition import shape_of
from fastdet.models.yolov9 import tables
from fastdet.models.yolov9.head import DualHead, MainHead


@dataclass(frozen=True, kw_only=True)
class Yolov9Spec(GraphSpec):
    """One size in one layout.

    Attributes:
        plan: the widths. image_row: 1 where row 0 is the picture itself.
        class_limit, class_width: of the class branches, see ``distance_head``.
    """

    family: str = "yolov9"
    input_size: tuple[int, int] = (640, 640)
    license: str = "GPL-3.0"
    predict_iou_threshold: float = 0.45
    predict_max_det: int = 1000
    ideal_ratio: bool = True
    plan: tables.Plan
    image_row: int = 0
    class_limit: tuple[int, int] = (2, 128)
    class_width: int = 0

    FILE_FIELDS: ClassVar[tuple[str, ...]] = (*GraphSpec.FILE_FIELDS, "class_width")


def _specs() -> list[Yolov9Spec]:
    specs = []
    for size, plan in (("t", tables.T), ("s", tables.S), ("m", tables.M), ("c", tables.C), ("e", tables.E)):
        image_row = int(size == "e")
        if size == "e":
            training = tables.with_two_backbones(plan, auxiliary=True)
            deployed = tables.with_two_backbones(plan, auxiliary=False)
        else:
            deployed = tables.gelan(plan)
            training = tables.with_auxiliary_neck(plan) if size in "ts" else tables.with_auxiliary_backbone(plan)
        dual = Yolov9Spec(
            name=f"yolov9{size}", plan=plan, rows=training, head=DualHead, image_row=int(size not in "ts")
        )
        single = Yolov9Spec(
            name=f"gelan-{size}",
            plan=plan,
            rows=deployed,
            head=MainHead,
            image_row=image_row,
            reference_names=(f"yolov9-{size}-converted",) if size != "t" else (),
        )
        port = replace(
            single,
            name=f"yolov9{size}u",
            head=DistanceHead,
            class_limit=(1, 100),
            predict_iou_threshold=0.7,
            predict_max_det=300,
            ideal_ratio=False,
            reference_names=(),
            license="AGPL-3.0",
        )
        specs += [dual, single, port]
        if size == "t":
            narrow = {"class_limit": (1, 100)}  # of the published figures and files, not of the published code
            specs.append(dual.variant("-w80", **narrow))
            specs.append(single.variant("-w80", **narrow, reference_names=("yolov9-t-converted",)))
    return specs


SPECS = {spec.name: spec for spec in _specs()}


def _head(state: Mapping[str, Any]) -> tuple[int, type[DistanceHead]] | None:
    """Row and kind of the head in a state dict of this family, or None for any other."""
    if not any(f"model.{row}.cv2.0.cv3.conv.weight" in state for row in (2, 3, 4)):  # a RepNCSPELAN4 near the picture
        return None
    for row in (29, 38, 49):
        if f"model.{row}.dfl2.conv.weight" in state:
            return row, DualHead
    for row in (22, 42):
        box = shape_of(state, f"model.{row}.cv2.0.1.conv.weight")
        if box:
            return row, DistanceHead if box[0] == box[1] else MainHead
    return None


def _class_branch(state: Mapping[str, Any], row: int, head: type[DistanceHead]) -> tuple[int, ...]:
    """Shape of the last convolution of the first class branch that predicts: classes, width, 1, 1."""
    return shape_of(state, f"model.{row}.{'cv5' if head is DualHead else 'cv3'}.0.2.weight")


def num_classes_of(state: Mapping[str, Any]) -> int | None:
    """Class count of an official state dict, or None if it is none of this family's."""
    found = _head(state)
    shape = _class_branch(state, *found) if found else ()
    return shape[0] if len(shape) == 4 else None


def candidates(state: Mapping[str, Any]) -> list[Yolov9Spec]:
    """The specifications that an official state dict could be, with its own width of the class branches."""
    found = _head(state)
    shape = _class_branch(state, *found) if found else ()
    if found is None or len(shape) != 4:
        return []
    row, head = found
    depthwise = f"model.{row}.cv3.0.0.0.conv.weight" in state  # as some releases of the port build them
    alike = [
        replace(spec, depthwise=depthwise) if depthwise else spec
        for spec in SPECS.values()
        if spec.head is head
        and len(spec.rows) == row
        and shape_of(state, f"model.{spec.image_row}.conv.weight")[:1] == spec.plan.stem[:1]
        and ("model.2.cv2.conv.weight" in state) == (spec.plan.first is tables.ELAN1)
    ]
    exact = [s for s in alike if class_width(s.plan.top_down[1][0], shape[0], s.class_limit) == shape[1]]
    return exact or [replace(spec, class_width=shape[1]) for spec in alike[:1]]
