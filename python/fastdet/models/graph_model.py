# SPDX-License-Identifier: Apache-2.0
"""Detectors that are a table and a head behind it: their specification, their module, and how states fit them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

from torch import Tensor, nn

from fastdet.models.detection_model import DetectionModel
from fastdet.models.graph import Graph, Row
from fastdet.models.heads import HeadMaps
from fastdet.models.keys import KeyMap, shape_of
from fastdet.models.model_spec import ModelSpec
from fastdet.models.refine import set_attributes
from fastdet.ops import Kept


@dataclass(frozen=True, kw_only=True)
class GraphSpec(ModelSpec):
    """One size of a family that is written as a table.

    Attributes:
        rows: the table, before scaling. depth, width, max_channels: the scaling; see ``channels`` and ``repeats``.
        head: class, called as ``head(c_in per tap, num_classes, strides=..., **options)``; its ``OPTIONS`` names those
            of the fields below that it takes. Its ``read(state, prefix)`` gives class count and options that a state
            dict shows, or None if its head is another.
        bn_eps, bn_momentum: of every BatchNorm of the rows.
        reg_max, depthwise, masks, prototype_width, keypoints, anchors: options of heads.
        activations, epsilons: (path, class name or value) where a file differs from the table.
    """

    rows: tuple[Row, ...]
    head: Any
    depth: float = 1.0
    width: float = 1.0
    max_channels: int = 1 << 16
    bn_eps: float = 1e-3
    bn_momentum: float = 0.03
    score_threshold: float = 0.001
    rect: bool = True
    reg_max: int = 16
    depthwise: bool = False
    masks: int = 32
    prototype_width: int = 256
    keypoints: tuple[int, int] = (17, 3)
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    activations: tuple[tuple[str, str], ...] = ()
    epsilons: tuple[tuple[str, float], ...] = ()

    FILE_FIELDS: ClassVar[tuple[str, ...]] = (
        *ModelSpec.FILE_FIELDS,
        *(
            "bn_eps",
            "reg_max",
            "depthwise",
            "masks",
            "prototype_width",
            "keypoints",
            "anchors",
            "activations",
            "epsilons",
        ),
    )

    def __post_init__(self) -> None:
        sizes = (self.reg_max, self.masks, self.prototype_width, *self.keypoints, *map(len, self.anchors))
        if not all(1 <= size <= 4096 for size in sizes) or len(self.keypoints) != 2:
            raise ValueError(f"{self.name}: options of the head must be 1 to 4096, got {sizes}")
        if len({*map(len, self.anchors)}) > 1 or any(len(pair) != 2 for level in self.anchors for pair in level):
            raise ValueError(f"{self.name}: anchors must be as many pairs for each level, got {self.anchors}")

    @property
    def head_options(self) -> dict[str, Any]:
        """The options that ``head`` takes."""
        return {name: getattr(self, name) for name in self.head.OPTIONS}

    def variant(self, suffix: str, **changes: Any) -> Any:
        """The same with ``suffix`` behind its name and other fields."""
        return replace(self, name=self.name + suffix, **changes)

    def channels(self, base: int) -> int:
        """Channels of a row: at most ``max_channels``, times ``width``, rounded up to a multiple of 8."""
        return 8 * ceil(min(base, self.max_channels) * self.width / 8)

    def repeats(self, base: int) -> int:
        """Repeats of a row: times ``depth``, rounded (halves to even), at least 1; a single one stays single."""
        return max(round(base * self.depth), 1) if base > 1 else base


class GraphModel(DetectionModel):
    """A table and its head. In the state dict both are ``model.<row>``, the head behind the last row."""

    def __init__(self, spec: GraphSpec, num_classes: int = 80):
        super().__init__(spec, num_classes)
        self.model = Graph(spec.rows, width=spec.channels, depth=spec.repeats)
        for block in self.modules():
            if isinstance(block, nn.BatchNorm2d):
                block.eps, block.momentum = spec.bn_eps, spec.bn_momentum
        self.model.append(spec.head(self.model.c_out, num_classes, strides=spec.strides, **spec.head_options))
        set_attributes(self, spec.activations, spec.epsilons)

    @property
    def head(self) -> Any:
        """The head: ``forward(features) -> raw``, ``decode(raw)``, ``case_outputs(raw)``."""
        return self.model[-1]

    @property
    def head_prefix(self) -> str:
        """As ``prefix_of`` its specification."""
        return prefix_of(self.spec)

    def forward(self, images: Tensor) -> Any:
        """[B, 3, H, W] float, RGB in 0..1, H and W multiples of the last stride -> what the head returns."""
        self.check_images(images)
        return self.head(self.model(images))

    def named_maps(self, raw: Any) -> dict[str, Sequence[Tensor]]:
        """The parts of ``raw`` by name, with one tensor per level; for a look inside."""
        named = getattr(self.head, "named_maps", None)
        return raw._asdict() if named is None else named(raw)

    def head_maps(self, raw: Any) -> HeadMaps | None:
        """See DetectionModel; the head tells, where it does."""
        maps = getattr(self.head, "head_maps", None)
        return None if maps is None else maps(raw)

    def decode(self, raw: Any) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C]; float32, finest level first."""
        boxes, scores = self.head.decode(raw)
        return boxes, scores

    def best_pairs(self, boxes: Tensor, scores: Tensor, *, max_det: int, **options: Any) -> Kept:
        """See DetectionModel; YOLOv10 and YOLO26 give no more pairs than there are boxes."""
        return super().best_pairs(boxes, scores, max_det=min(max_det, boxes.shape[1]), **options)

    def choose_head(self, *, nms_free: bool) -> None:
        """See DetectionModel; YOLOv10 and YOLO26 have both heads until they are fused."""
        if self.fused or not hasattr(self.head, "nms_free"):
            super().choose_head(nms_free=nms_free)
            return
        self.head.nms_free = nms_free
        self.spec = replace(self.spec, nms_free=nms_free)

    def fuse(self, *, batch_norm: bool = True) -> GraphModel:
        """Turn into the deployed graph, in place: rows that only a training-only head reads go, the rest is folded."""
        self.model.prune(len(self.spec.strides))
        super().fuse(batch_norm=batch_norm)
        return self


_SAME = KeyMap([("model.{rest}", "model.{rest}")])


def case_outputs(module: Any, images: Tensor) -> dict[str, Tensor]:
    """Every output of ``module`` for ``images``, under the names that parity cases use."""
    outputs: dict[str, Tensor] = module.head.case_outputs(module(images))
    return outputs


def prefix_of(spec: GraphSpec) -> str:
    """What stands before the head's keys: the number of rows."""
    return f"model.{len(spec.rows)}."


def num_classes_in(specs: Iterable[GraphSpec], state: Mapping[str, Any]) -> int | None:
    """Class count of an official state dict whose head is that of one of ``specs``, else None."""
    readings = (spec.head.read(state, prefix_of(spec)) for spec in specs)
    return next((reading[0] for reading in readings if reading), None)


def fit(spec: GraphSpec, state: Mapping[str, Any]) -> GraphSpec:
    """``spec`` with those options of its head that keys and shapes of ``state`` show to be others."""
    reading = spec.head.read(state, prefix_of(spec))
    if reading is None or all(getattr(spec, name) == value for name, value in reading[1].items()):
        return spec
    return replace(spec, **reading[1])


@dataclass(frozen=True)
class GraphFamily:
    """What ``registry.Family`` asks of a family, for one that is nothing but its specifications."""

    SPECS: Mapping[str, GraphSpec]

    def build(self, spec: GraphSpec, num_classes: int) -> GraphModel:
        """A freshly initialised model in its training graph."""
        return GraphModel(spec, num_classes)

    def num_classes_of(self, state: Mapping[str, Any]) -> int | None:
        """Class count of an official state dict, or None if it is none of this family's."""
        return num_classes_in(self.SPECS.values(), state)

    def candidates(self, state: Mapping[str, Any]) -> list[GraphSpec]:
        """The specifications with the head of ``state``, and as wide in the first row."""
        stem = shape_of(state, "model.0.conv.weight")[:1]
        wide = [spec for spec in self.SPECS.values() if stem == (spec.channels(spec.rows[0].channels or 0),)]
        return [fit(spec, state) for spec in wide if spec.head.read(state, prefix_of(spec))]

    def fit(self, spec: GraphSpec, state: Mapping[str, Any]) -> GraphSpec:
        """``spec`` with those options of its head that ``state`` shows to be others."""
        return fit(spec, state)

    def key_map(self, spec: GraphSpec) -> KeyMap:
        """Names inside rows and heads are those of the checkpoints: nothing is renamed."""
        return _SAME

    def case_outputs(self, module: GraphModel, images: Tensor) -> dict[str, Tensor]:
        """Every output under the names that parity cases use."""
        return case_outputs(module, images)
