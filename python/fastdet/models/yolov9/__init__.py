# SPDX-License-Identifier: Apache-2.0
"""YOLOv9 (arXiv 2402.13616; reference WongKinYiu/yolov9): generalised ELAN, trained with auxiliary branches.

Three layouts are published, each with specifications of its own: the training graph (``yolov9c``), the deployed graph
(``gelan-c``, whose files are called ``gelan-c`` or ``yolov9-c-converted``), and Ultralytics' port of the latter, whose
box branches have no groups (``yolov9cu``). Size t has two widths of its class branches (``yolov9t``, ``yolov9t-w80``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastdet.models import graph_model
from fastdet.models.graph_model import GraphModel
from fastdet.models.keys import KeyMap
from fastdet.models.yolov9.head import MainHead
from fastdet.models.yolov9.specs import SPECS, Yolov9Spec, candidates, num_classes_of

__all__ = ["SPECS", "Yolov9Spec", "build", "candidates", "case_outputs", "fit", "key_map", "num_classes_of"]

build = GraphModel

_REP = "model.{i}.cv{j}.0.m.{k}.cv1"
_KEYS = KeyMap(
    [
        (_REP + ".conv1.{rest}", _REP + ".dense.{rest}"),
        (_REP + ".conv2.{rest}", _REP + ".point.{rest}"),
        ("model.{rest}", "model.{rest}"),
    ]
)


def key_map(spec: Yolov9Spec) -> KeyMap:
    """The key map, the same in all layouts."""
    return _KEYS


def fit(spec: Yolov9Spec, state: Mapping[str, Any]) -> Yolov9Spec:
    """``spec``, or that one of the same size whose layout ``state`` has."""
    alike = [found for found in candidates(state) if found.plan is spec.plan]
    if any((found.name, found.head_options) == (spec.name, spec.head_options) for found in alike) or not alike:
        return spec
    return alike[0]


def case_outputs(module: GraphModel, images: Tensor) -> dict[str, Tensor]:
    """Every output under the names of parity cases; the authors' hold those of the deployed graph too."""
    outputs = graph_model.case_outputs(module, images)
    if isinstance(module.head, MainHead):
        deployed = module if module.fused else copy.deepcopy(module).fuse()
        for name, value in graph_model.case_outputs(deployed, images).items():
            outputs[f"deployed_{name.removeprefix('raw_')}"] = value
    return outputs
