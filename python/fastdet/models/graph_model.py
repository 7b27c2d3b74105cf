# SPDX-License-Identifier: Apache-2.0
"""Detectors that are a table and a head behind it: their specification, their module, and how states fit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from torch import Tensor, nn

from fastdet.models.detection_model import DetectionModel
from fastdet.models.graph import Graph, Row
from fastdet.models.keys import KeyMap
from fastdet.models.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class GraphSpec(ModelSpec):
    """One size of a family that is written as a table.

    Attributes:
        rows: the table, before scaling. depth, width, max_channels: the scaling; see ``channels`` and ``repeats``.
        head: ``head(c_in per tap, num_classes, strides=..., **head_options)``.
        head_options: plain values, by name.
        bn_eps, bn_momentum: of every BatchNorm of the rows and of the head.
    """

    rows: tuple[Row, ...]
    head: Callable[..., nn.Module]
    head_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    depth: float = 1.0
    width: float = 1.0
    max_channels: int = 1 << 16
    bn_eps: float = 1e-3
    bn_momentum: float = 0.03
    score_threshold: float = 0.001

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
        self.model.append(spec.head(self.model.c_out, num_classes, strides=spec.strides, **spec.head_options))
        for block in self.modules():
            if isinstance(block, nn.BatchNorm2d):
                block.eps, block.momentum = spec.bn_eps, spec.bn_momentum

    @property
    def head(self) -> Any:
        """The head: ``forward(features) -> raw``, ``decode(raw)``, ``case_outputs(raw)``."""
        return self.model[-1]

    def forward(self, images: Tensor) -> Any:
        """[B, 3, H, W] float, RGB in 0..1, H and W multiples of the last stride -> what the head returns."""
        self.check_images(images)
        return self.head(self.model(images))

    def decode(self, raw: Any) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C]; float32, finest level first."""
        boxes, scores = self.head.decode(raw)
        return boxes, scores

    def fuse(self, *, batch_norm: bool = True) -> GraphModel:
        """Turn into the deployed graph, in place: rows that only a training-only head reads go, the rest is folded."""
        self.model.prune(len(self.spec.strides))
        super().fuse(batch_norm=batch_norm)
        return self


# Names inside rows and heads are those of the checkpoints.
_SAME = KeyMap([("model.{rest}", "model.{rest}")])


def key_map(spec: ModelSpec) -> KeyMap:
    """The key map of a table whose blocks bear the checkpoint's own names: nothing is renamed."""
    return _SAME


def case_outputs(module: Any, images: Tensor) -> dict[str, Tensor]:
    """Every output of ``module`` for ``images``, under the names that parity cases use."""
    outputs: dict[str, Tensor] = module.head.case_outputs(module(images))
    return outputs


def shape_of(state: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Shape of the entry ``key`` of a state dict, () where there is none."""
    return tuple(getattr(state.get(key), "shape", ()))


def fitting(specs: Iterable[GraphSpec], state: Mapping[str, Any]) -> list[GraphSpec]:
    """The specs as wide as ``state`` in the first row and with the head in its last row."""
    stem = shape_of(state, "model.0.conv.weight")[:1]
    numbers = [key.split(".")[1] for key in state if key.startswith("model.")]
    last = max((int(number) for number in numbers if number.isdigit()), default=-1)
    return [spec for spec in specs if len(spec.rows) == last and stem == (spec.channels(spec.rows[0].channels or 0),)]
