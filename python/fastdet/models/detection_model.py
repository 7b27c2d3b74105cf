# SPDX-License-Identifier: Apache-2.0
"""What every family's module offers, so that training, prediction and files need not know the family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.models.fuse import fuse
from fastdet.models.heads import HeadMaps, top_candidates, top_detections
from fastdet.models.model_spec import ModelSpec, default_names
from fastdet.ops import Kept


class DetectionModel(nn.Module):
    """A detector between preprocessing and suppression.

    Attributes:
        spec: ModelSpec; replace it when input size or preprocessing change, ``dataclasses.replace(spec, ...)``.
        num_classes: C. names: C class names, free to replace. fused: True once in the deployed graph.
        metadata: text by name, the record of the training that the weights came with.
    """

    def __init__(self, spec: ModelSpec, num_classes: int):
        super().__init__()
        self.spec: Any = spec
        self.num_classes = num_classes
        self.fused = False
        self.metadata: dict[str, str] = {}
        self.names: list[str] = default_names(num_classes)

    @property
    def head_prefix(self) -> str | tuple[str, ...]:
        """What the state-dict keys of the head begin with; everything else does not know the number of classes."""
        return "head."

    def head_maps(self, raw: Any) -> HeadMaps | None:
        """``raw`` as ``ops.detect`` and ``ops.decode_boxes`` take it, or None where only ``decode`` knows its form."""
        return None

    def decode(self, raw: Any) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C] in [0, 1]; float32."""
        raise NotImplementedError(f"{type(self).__name__}: decode is the family's")

    def criterion(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        """``loss`` to call ``backward`` on, its weighted parts and ``num_pos``, from a RawHead and Targets."""
        raise NotImplementedError(
            f"{self.spec.name}: this version has no training loss for the family {self.spec.family}; it predicts only"
        )

    def best_pairs(self, boxes: Tensor, scores: Tensor, *, max_det: int, **options: Any) -> Kept:
        """What a model whose ``spec.nms_free`` is True finds among decoded boxes; see ``heads.top_detections``."""
        return top_detections(boxes, scores, max_det=max_det, **options)

    def best_candidates(self, maps: HeadMaps, **options: Any) -> Kept:
        """The same from raw maps, in one step; see ``heads.top_candidates``."""
        return top_candidates(maps, **options)

    def choose_head(self, *, nms_free: bool) -> None:
        """Of a model with a head for either, predict with the one that needs no suppression, or with the other.

        Raises:
            ValueError: the model has no such head (any more).
        """
        if nms_free != self.spec.nms_free:
            has = "detections without" if self.spec.nms_free else "boxes for"
            raise ValueError(f"choose_head: nms_free must be {self.spec.nms_free}; {self.spec.name} gives {has} NMS")

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless ``images`` is [B, 3, H, W] with H and W multiples of the coarsest stride."""
        step = self.spec.strides[-1]
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % step or images.shape[3] % step:
            raise ValueError(
                f"{self.spec.name}: images must be (B, 3, H, W) with H and W multiples of {step}, "
                f"got {tuple(images.shape)}"
            )

    def fuse(self, *, batch_norm: bool = True) -> DetectionModel:
        """Turn into the deployed graph, in place, and return self; see ``fastdet.models.fuse.fuse``."""
        fuse(self, batch_norm=batch_norm)
        self.fused = True
        return self
