# SPDX-License-Identifier: Apache-2.0
"""Heads of YOLOv7: the anchor-based one, with implicit knowledge (arXiv 2105.04206), and with auxiliary maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastdet.models.anchor_head import AnchorHead
from fastdet.models.heads import AnchorRaw, cxcywh_to_xyxy
from fastdet.models.keys import shape_of


class PlainHead(AnchorHead):
    """The deployed head. Keys ``anchors`` (in cells), ``anchor_grid`` (the same in pixels), ``m``."""

    class_margin = 0.99
    anchor_grid: Tensor

    def __init__(self, c_in: Sequence[int], num_classes: int, **options: Any):
        super().__init__(c_in, num_classes, **options)
        strides = torch.tensor(self.strides, dtype=torch.float32)[:, None, None]
        self.register_buffer("anchor_grid", (self.anchors * strides)[:, None, :, None, None])

    single_class_objectness = True

    def decode(self, raw: AnchorRaw) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C]; float32.

        A score is objectness times class; with one class it is the objectness, since the class was never trained.
        """
        if self.num_classes > 1:
            return super().decode(raw)
        boxes, scores, _ = self.predictions(raw)
        return cxcywh_to_xyxy(boxes), scores[..., :1]

    @classmethod
    def read(cls, state: Mapping[str, Any], prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Class count and options that a state dict shows of this kind of head, None for another."""
        if f"{prefix}anchor_grid" not in state or cls.layout(state, prefix) is not cls:
            return None
        return AnchorHead.read(state, prefix)

    @staticmethod
    def layout(state: Mapping[str, Any], prefix: str) -> type[PlainHead]:
        """The kind of head whose keys ``state`` has."""
        if not shape_of(state, f"{prefix}ia.0.implicit"):
            return PlainHead
        return AuxiliaryHead if shape_of(state, f"{prefix}m2.0.weight") else ImplicitHead


class Implicit(nn.Module):
    """A learned vector for the channels of a map, drawn about ``mean``. Key ``implicit`` [1, channels, 1, 1]."""

    def __init__(self, channels: int, mean: float):
        super().__init__()
        self.implicit = nn.Parameter(torch.empty(1, channels, 1, 1))
        nn.init.normal_(self.implicit, mean, 0.02)


class ImplicitHead(PlainHead):
    """The training head: a vector is added to the input of each convolution, another multiplies its output.

    Deployed: both are inside the convolution. Keys as of PlainHead, and ``ia``, ``im``.
    """

    def __init__(self, c_in: Sequence[int], num_classes: int, **options: Any):
        super().__init__(c_in, num_classes, **options)
        self.folded = False
        self.before_implicit(c_in)
        self.ia = nn.ModuleList(Implicit(conv.in_channels, 0.0) for conv in self._convs())
        self.im = nn.ModuleList(Implicit(conv.out_channels, 1.0) for conv in self._convs())

    def before_implicit(self, c_in: Sequence[int]) -> None:
        """Modules that stand before the implicit vectors in checkpoints."""

    def _convs(self) -> list[nn.Conv2d]:
        return [cast(nn.Conv2d, conv) for conv in self.m]

    def forward(self, features: Sequence[Tensor]) -> AnchorRaw:
        """[B, c_in[i], H_i, W_i] per level -> AnchorRaw."""
        if self.folded:
            return super().forward(features)
        pairs = zip(self.ia, self.im)
        vectors = [(cast(Implicit, add).implicit, cast(Implicit, scale).implicit) for add, scale in pairs]
        return AnchorRaw(tuple(conv(x + add) * scale for conv, x, (add, scale) in zip(self.m, features, vectors)))

    @torch.no_grad()
    def fold_(self, *, batch_norm: bool = True) -> None:
        """Fold the implicit vectors: b' = (b + W a) m, W' = m W, in float64. ``batch_norm`` has no say here."""
        if self.folded:
            return
        for conv, add, scale in zip(self._convs(), self.ia, self.im):
            a, m = (cast(Implicit, vector).implicit.double().flatten() for vector in (add, scale))
            bias = cast(Tensor, conv.bias)
            weight = conv.weight.double().flatten(1)
            bias.copy_((bias.double() + weight @ a) * m)
            conv.weight.copy_((weight * m[:, None]).view_as(conv.weight))
        del self.ia, self.im
        self.folded = True


class AuxiliaryHead(ImplicitHead):
    """The training head of the models with four levels: plain convolutions ``m2`` on as many auxiliary maps.

    The maps that lead come first. Deployed: a PlainHead on those.
    """

    def __init__(self, c_in: Sequence[int], num_classes: int, **options: Any):
        levels = len(c_in) // 2
        self._auxiliary = tuple(c_in[levels:])
        super().__init__(c_in[:levels], num_classes, **options)

    def before_implicit(self, c_in: Sequence[int]) -> None:
        """The auxiliary convolutions."""
        self.m2 = nn.ModuleList(nn.Conv2d(c, self.per_cell * self.columns, 1) for c in self._auxiliary)
        self.start_biases(self.m2)

    def forward(self, features: Sequence[Tensor]) -> AnchorRaw:
        """[B, c_in[i], H_i, W_i] per level, leading and then auxiliary maps -> AnchorRaw."""
        raw = super().forward(features)
        if self.folded:
            return raw
        others = features[len(self.strides) :]
        return raw._replace(other_logits=tuple(conv(x) for conv, x in zip(self.m2, others)))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Drop the auxiliary convolutions and fold the implicit vectors."""
        if not self.folded:
            del self.m2
        super().fold_(batch_norm=batch_norm)
