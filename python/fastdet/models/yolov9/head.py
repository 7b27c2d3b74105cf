# SPDX-License-Identifier: Apache-2.0
"""Head of YOLOv9: distance bins from grouped box branches, and in training a second one on the auxiliary maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.models.distance_head import DistanceHead, Projection
from fastdet.models.heads import RawHead, level_name, xyxy_to_cxcywh


class MainHead(DistanceHead):
    """The head of the deployed graph. Keys ``cv2`` boxes, ``cv3`` classes, ``dfl``."""

    OPTIONS = ("class_limit", "class_width")

    def __init__(
        self,
        c_in: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int],
        class_limit: tuple[int, int] = (2, 128),
        class_width: int = 0,
    ):
        super().__init__(
            c_in, num_classes, strides=strides, box_groups=4, class_limit=class_limit, class_width=class_width,
            box_start=1.0,
        )  # fmt: skip

    def columns(self, raw: RawHead, prefix: str, decoded: str) -> dict[str, Tensor]:
        """One head's outputs under the names of parity cases: maps, boxes (centre, size) and scores."""
        levels = zip(self.strides, raw.reg_logits, raw.cls_logits)
        outputs = {f"{prefix}_{level_name(s).lower()}": torch.cat((box, cls), 1) for s, box, cls in levels}
        boxes, scores = self.decode(raw)
        boxes = xyxy_to_cxcywh(boxes)
        return outputs | {f"{decoded}_box": boxes.transpose(1, 2), f"{decoded}_score": scores.transpose(1, 2)}

    def case_outputs(self, raw: RawHead) -> dict[str, Tensor]:
        """All outputs under the names of parity cases."""
        return self.columns(raw, "raw", "pred")


class DualHead(MainHead):
    """The head of the training graph, on the main maps and then as many auxiliary ones.

    ``cv2``, ``cv3`` and ``dfl`` belong to the auxiliary maps, ``cv4``, ``cv5`` and ``dfl2`` to the main ones. The
    deployed graph is a MainHead of the latter.
    """

    def __init__(self, c_in: Sequence[int], num_classes: int, **options: Any):
        main, auxiliary = c_in[: len(c_in) // 2], c_in[len(c_in) // 2 :]
        super().__init__(auxiliary, num_classes, **options)
        projection = self.dfl
        del self.dfl  # stands behind the branches in checkpoints
        self.cv4, self.cv5 = self.branches(main)
        self.dfl, self.dfl2 = projection, Projection(self.reg_max)
        self.folded = False

    def forward(self, features: Sequence[Tensor]) -> RawHead:
        """[B, c_in[i], H_i, W_i] per level, main and then auxiliary maps -> RawHead."""
        if self.folded:
            return super().forward(features)
        levels = len(self.strides)
        other = super().forward(features[levels:])
        reg_logits = tuple(conv(x) for conv, x in zip(self.cv4, features))
        cls_logits = tuple(conv(x) for conv, x in zip(self.cv5, features))
        return RawHead(cls_logits, reg_logits, other_cls_logits=other.cls_logits, other_reg_logits=other.reg_logits)

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Drop the auxiliary part. ``batch_norm`` has no say here."""
        if not self.folded:
            self.cv2, self.cv3, self.dfl = self.cv4, self.cv5, self.dfl2
            del self.cv4, self.cv5, self.dfl2
            self.folded = True

    def case_outputs(self, raw: RawHead) -> dict[str, Tensor]:
        """All outputs under the names of parity cases, as far as this graph has them."""
        if self.folded:
            return super().case_outputs(raw)
        return self.columns(raw, "raw", "pred") | self.columns(raw.other, "aux", "aux_pred")
