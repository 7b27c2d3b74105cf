# SPDX-License-Identifier: Apache-2.0
"""DAMO-YOLO (arXiv 2211.15444; reference tinyvision/DAMO-YOLO, Apache-2.0): seven sizes, written as modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastdet import assign
from fastdet.models.damo_yolo.criterion import Criterion
from fastdet.models.damo_yolo.head import ZeroHead
from fastdet.models.damo_yolo.keys import key_map
from fastdet.models.damo_yolo.neck import RepGFPN
from fastdet.models.damo_yolo.specs import SPECS, DamoSpec
from fastdet.models.detection_model import DetectionModel
from fastdet.models.heads import RawHead, Targets

__all__ = ["SPECS", "DamoSpec", "DamoYolo", "build", "candidates", "case_outputs", "key_map", "num_classes_of"]


class DamoYolo(DetectionModel):
    """A DAMO-YOLO in its training graph: ``backbone``, ``neck`` and ``head``, each fed with the one before it."""

    def __init__(self, spec: DamoSpec, num_classes: int = 80):
        super().__init__(spec, num_classes)
        self.backbone = spec.backbone(spec.stem, spec.stages, spec.act)
        self.neck = RepGFPN(
            self.backbone.c_out,
            spec.neck_out,
            blocks=spec.neck_blocks,
            block=spec.neck_block,
            down=spec.neck_down,
            act=spec.act,
        )
        self.head = ZeroHead(
            spec.neck_out, num_classes, kernel=spec.head_kernel, reg_max=spec.reg_max, strides=spec.strides
        )
        self.loss = Criterion(num_classes, spec.reg_max)

    def forward(self, images: Tensor) -> RawHead:
        """[B, 3, H, W] float, RGB in 0..255, H and W multiples of 32 -> RawHead."""
        self.check_images(images)
        return self.head(self.neck(self.backbone(images)))

    def decode(self, raw: RawHead) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C]; float32, finest level first."""
        return self.head.decode(raw)

    def criterion(self, raw: RawHead, targets: Targets) -> dict[str, Tensor]:
        """The training loss.

        Args:
            raw: output of ``forward``. targets: one entry per picture, in input pixels; entries may be empty.

        Returns:
            Scalars: ``loss`` to call ``backward`` on, its weighted parts ``loss_cls``, ``loss_bbox``, ``loss_dfl``
            (detached), and ``num_pos``, the number of matched points.
        """
        flat = self.head.flatten(raw)
        truth = assign.pad_targets(targets.boxes, targets.labels, self.num_classes, device=flat.cls_logits.device)
        return self.loss(flat, truth)[0]


def build(spec: DamoSpec, num_classes: int) -> DamoYolo:
    """A freshly initialised model in its training graph."""
    return DamoYolo(spec, num_classes)


def num_classes_of(state: Mapping[str, Any]) -> int | None:
    """Class count of an official state dict, or None if it is none of this family's."""
    shape: tuple[int, ...] = tuple(getattr(state.get("head.gfl_cls.0.weight"), "shape", ()))
    return shape[0] if len(shape) == 4 else None


def candidates(state: Mapping[str, Any]) -> list[DamoSpec]:
    """The sizes whose head an official state dict could have, by the widths and kernels of its class convolutions."""
    shapes = [tuple(getattr(state.get(f"head.gfl_cls.{i}.weight"), "shape", ())) for i in range(3)]
    found = [(spec, spec.neck_out, spec.head_kernel) for spec in SPECS.values()]
    return [spec for spec, widths, k in found if [shape[1:] for shape in shapes] == [(c, k, k) for c in widths]]


def case_outputs(module: DamoYolo, images: Tensor) -> dict[str, Tensor]:
    """Every intermediate and final output, under the names that parity cases use."""
    features = module.backbone(images)
    fused = module.neck(features)
    raw = module.head(fused)
    boxes, scores = module.decode(raw)
    outputs = {"distances": module.head.distances(raw), "scores": scores, "boxes": boxes}
    for i, stride in enumerate(module.spec.strides):
        outputs[f"backbone_s{stride}"] = features[i]
        outputs[f"neck_s{stride}"] = fused[i]
        outputs[f"cls_logits_s{stride}"] = raw.cls_logits[i]
        outputs[f"reg_logits_s{stride}"] = raw.reg_logits[i]
    return outputs
