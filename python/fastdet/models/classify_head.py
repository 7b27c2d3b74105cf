# SPDX-License-Identifier: Apache-2.0
"""Classifier of the YOLO families: a convolution, the mean over the picture, a linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fastdet.models.blocks import ConvNormAct
from fastdet.models.heads import ClassLogits
from fastdet.models.keys import shape_of


class ClassifyHead(nn.Module):
    """Class logits of a picture. Keys ``conv``, ``linear``. Its BatchNorm has torch's own constants in all families.

    Args:
        c_in: channels of the only feature map, as a sequence. num_classes: C. strides: not needed.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ()
    WIDTH = 1280

    def __init__(self, c_in: Sequence[int], num_classes: int, *, strides: Sequence[int] = ()):
        super().__init__()
        self.num_classes = num_classes
        self.conv = ConvNormAct(c_in[0], self.WIDTH, eps=1e-5, momentum=0.1)
        self.linear = nn.Linear(self.WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> ClassLogits:
        """[B, c_in, H, W] in a sequence -> ClassLogits."""
        return ClassLogits(self.linear(self.conv(features[0]).mean((2, 3))))

    def decode(self, raw: ClassLogits) -> tuple[Tensor, Tensor]:
        """A classifier finds no boxes: always NotImplementedError."""
        raise NotImplementedError("decode: a classifier finds no boxes; its scores are raw.logits.softmax(-1)")

    def case_outputs(self, raw: ClassLogits) -> dict[str, Tensor]:
        """All outputs under the names of parity cases."""
        return {"logits": raw.logits, "probs": raw.logits.softmax(-1)}

    @classmethod
    def read(cls, state: Mapping[str, Any], prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Class count and options that a state dict shows of a head whose keys begin with ``prefix``, or None."""
        linear = shape_of(state, f"{prefix}linear.weight")
        return (linear[0], {}) if len(linear) == 2 else None
