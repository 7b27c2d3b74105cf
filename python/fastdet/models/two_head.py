# SPDX-License-Identifier: Apache-2.0
"""Head of YOLOv10 and YOLO26: one branch trained one-to-many, for NMS, and one trained one-to-one, which needs none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.models.distance_head import DistanceHead
from fastdet.models.heads import RawHead, level_name, top_detections
from fastdet.models.keys import shape_of

ONE = "one2one_"


class TwoHeads(DistanceHead):
    """Two DistanceHeads of equal shape on the same maps. Keys ``cv2``, ``cv3``, and ``one2one_cv2``, ``one2one_cv3``.

    The one that predicts fills ``cls_logits`` and ``reg_logits`` of the RawHead, the other the fields ``other_...``. In
    training mode the one-to-one branches get their maps detached, so that only the others' loss reaches the network
    before them. Deployed: only the one that predicts, under its own keys.

    Args:
        nms_free: the one-to-one head predicts. c_in, num_classes, options: as of DistanceHead.
    """

    OPTIONS = (*DistanceHead.OPTIONS, "nms_free")

    def __init__(self, c_in: Sequence[int], num_classes: int, *, nms_free: bool = True, **options: Any):
        super().__init__(c_in, num_classes, **options)
        self.nms_free, self.folded = nms_free, False
        self.one2one_cv2, self.one2one_cv3 = self.branches(c_in)

    def run(self, features: Sequence[Tensor], prefix: str) -> RawHead:
        """One of the two heads: ``prefix`` is that of its keys."""
        boxes, classes = getattr(self, f"{prefix}cv2"), getattr(self, f"{prefix}cv3")
        reg_logits = tuple(conv(x) for conv, x in zip(boxes, features))
        return RawHead(tuple(conv(x) for conv, x in zip(classes, features)), reg_logits)

    def forward(self, features: Sequence[Tensor]) -> RawHead:
        """[B, c_in[i], H_i, W_i] per level -> RawHead."""
        if self.folded:
            return self.run(features, ONE if self.nms_free else "")
        many = self.run(features, "")
        one = self.run([x.detach() for x in features] if self.training else features, ONE)
        first, second = (one, many) if self.nms_free else (many, one)
        return first._replace(
            other_cls_logits=second.cls_logits, other_reg_logits=second.reg_logits, other_extra=second.extra
        )

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that both heads have, without prefix."""
        return ("cv2", "cv3")

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Drop the head that does not predict. ``batch_norm`` has no say here."""
        if not self.folded:
            for part in self.parts():
                delattr(self, part if self.nms_free else ONE + part)
            self.folded = True

    def case_outputs(self, raw: RawHead) -> dict[str, Tensor]:
        """All outputs under the names of parity cases, as far as this graph has them."""
        one, many = (raw, raw.other) if self.nms_free else (raw.other, raw)
        outputs: dict[str, Tensor] = {}
        for name, head in (("o2o", one), ("o2m", many)):
            for kind, levels in (("box", head.reg_logits), ("cls", head.cls_logits), (self.extra_name, head.extra)):
                outputs |= {f"{name}.{kind}.{level_name(s)}": level for s, level in zip(self.strides, levels)}
        if many.cls_logits:
            outputs["o2m.decoded"] = self.rows(many)
        if one.cls_logits:
            boxes, scores = self.decode(one)
            outputs["o2o.decoded"] = torch.cat((boxes, scores, *self.extras(one)), -1).transpose(1, 2)
            kept = top_detections(boxes, scores, max_det=min(300, boxes.shape[1]))
            outputs["final.scores"] = kept.scores
            outputs["final.top"] = torch.cat((kept.boxes, kept.scores[..., None], kept.labels[..., None].float()), -1)
        return outputs

    @classmethod
    def read(cls, state: Mapping[str, Any], prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Class count and options that a state dict shows of a head whose keys begin with ``prefix``, or None."""
        if not shape_of(state, f"{prefix}{ONE}cv2.0.2.weight"):
            return None
        return super().read({key: state[key] for key in state if not key.startswith(prefix + ONE)}, prefix)
