# SPDX-License-Identifier: Apache-2.0
"""YOLOv7 (arXiv 2207.02696; reference WongKinYiu/yolov7): ELAN blocks with an anchor-based head.

Each size has two layouts: the training graph (``yolov7``: implicit knowledge, and in the models with four levels an
auxiliary head) and the published deployed one (``yolov7-deploy``: neither, BatchNorms and RepConv as in training).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fastdet.models import graph_model
from fastdet.models.anchor_head import COCO_ANCHORS
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphModel, GraphSpec, case_outputs, num_classes_in, prefix_of
from fastdet.models.keys import KeyMap, as_tensor
from fastdet.models.yolov7 import tables
from fastdet.models.yolov7.head import AuxiliaryHead, ImplicitHead, PlainHead
from fastdet.models.yolov7.tables import compound_scaled

__all__ = [
    "SPECS",
    "build",
    "candidates",
    "case_outputs",
    "compound_scaled",
    "fit",
    "key_map",
    "num_classes_of",
    "upgrade",
]

DEPLOYED = "-deploy"
BN_EPS = 1e-3
P5_ANCHORS = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
P6_ANCHORS = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
P5 = {
    "yolov7": (tables.YOLOV7, P5_ANCHORS),
    "yolov7x": (tables.YOLOV7X, P5_ANCHORS),
    "yolov7-tiny": (tables.TINY, COCO_ANCHORS),
}
P6 = {
    "yolov7-w6": tables.YOLOV7_W6,
    "yolov7-e6": tables.YOLOV7_E6,
    "yolov7-d6": tables.YOLOV7_D6,
    "yolov7-e6e": tables.YOLOV7_E6E,
}


def _spec(name: str, rows: tuple[Row, ...], anchors: Any) -> GraphSpec:
    return GraphSpec(
        name=name,
        family="yolov7",
        input_size=(640, 640),
        rows=rows,
        head=ImplicitHead,
        anchors=anchors,
        bn_eps=BN_EPS,
        iou_threshold=0.65,
        predict_iou_threshold=0.45,
        ideal_ratio=True,
        license="GPL-3.0",
    )


def _specs() -> list[GraphSpec]:
    specs = []
    for name, (rows, anchors) in P5.items():
        spec = _spec(name, rows, anchors)
        specs += [spec, spec.variant(DEPLOYED, head=PlainHead)]
    for name, rows in P6.items():
        spec = replace(
            _spec(name, rows, P6_ANCHORS), head=AuxiliaryHead, input_size=(1280, 1280), strides=(8, 16, 32, 64)
        )
        specs += [spec, spec.variant(DEPLOYED, rows=rows[: -len(spec.strides)], head=PlainHead)]
    return specs


SPECS = {spec.name: spec for spec in _specs()}
build = GraphModel

_KEYS = KeyMap(
    [
        ("model.{i}.rbr_dense.0.{rest}", "model.{i}.dense.conv.{rest}"),
        ("model.{i}.rbr_dense.1.{rest}", "model.{i}.dense.bn.{rest}"),
        ("model.{i}.rbr_1x1.0.{rest}", "model.{i}.point.conv.{rest}"),
        ("model.{i}.rbr_1x1.1.{rest}", "model.{i}.point.bn.{rest}"),
        ("model.{rest}", "model.{rest}"),
    ]
)


def upgrade(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """``state`` with RepConv folded by the authors' code (``rbr_reparam``) split again: all of it in the 3x3 branch.

    That branch's BatchNorm does nothing but add the bias, and the 1x1 branch is zero.
    """
    folded = [key.removesuffix("rbr_reparam.weight") for key in state if key.endswith(".rbr_reparam.weight")]
    if not folded or num_classes_of(state) is None:
        return state
    upgraded = {key: value for key, value in state.items() if ".rbr_reparam." not in key}
    for prefix in folded:
        weight = as_tensor(state[f"{prefix}rbr_reparam.weight"], prefix, "load_official").float()
        bias = as_tensor(state[f"{prefix}rbr_reparam.bias"], prefix, "load_official").float()
        neutral = torch.full_like(bias, (1 + BN_EPS) ** 0.5)
        branches = (("rbr_dense", weight, neutral, bias), ("rbr_1x1", weight[..., 1:2, 1:2] * 0, neutral, bias * 0))
        for branch, kernel, gamma, beta in branches:
            norm = {"weight": gamma, "bias": beta, "running_mean": bias * 0, "running_var": torch.ones_like(bias)}
            upgraded[f"{prefix}{branch}.0.weight"] = kernel
            upgraded |= {f"{prefix}{branch}.1.{name}": value for name, value in norm.items()}
            upgraded[f"{prefix}{branch}.1.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    return upgraded


def key_map(spec: GraphSpec) -> KeyMap:
    """The key map, the same for all."""
    return _KEYS


def num_classes_of(state: Mapping[str, Any]) -> int | None:
    """Class count of an official state dict, or None if it is none of this family's."""
    return num_classes_in(SPECS.values(), state)


def candidates(state: Mapping[str, Any]) -> list[GraphSpec]:
    """The models that an official state dict could be: place and kind of the head tell them all apart."""
    return [graph_model.fit(spec, state) for spec in SPECS.values() if spec.head.read(state, prefix_of(spec))]


def fit(spec: GraphSpec, state: Mapping[str, Any]) -> GraphSpec:
    """``spec``, or that one of the same size whose layout ``state`` has."""
    size = spec.name.removesuffix(DEPLOYED)
    alike = [found for found in candidates(state) if found.name.removesuffix(DEPLOYED) == size]
    return graph_model.fit(spec, state) if not alike or alike[0].name == spec.name else alike[0]
