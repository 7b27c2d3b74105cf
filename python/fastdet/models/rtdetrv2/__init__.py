# SPDX-License-Identifier: Apache-2.0
"""RT-DETRv2 (arXiv 2304.08069, 2407.17140; reference lyuwenyu/RT-DETR, Apache-2.0), written as modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdet.models.detection_model import DetectionModel
from fastdet.models.heads import Targets
from fastdet.models.rtdetrv2.backbone import PResNet
from fastdet.models.rtdetrv2.decoder import Prediction, RtDetrDecoder
from fastdet.models.rtdetrv2.denoising import DenoisingGroups, DenoisingRandom, denoising_groups, draw_random
from fastdet.models.rtdetrv2.deploy import deploy_convolutions
from fastdet.models.rtdetrv2.encoder import HybridEncoder
from fastdet.models.rtdetrv2.huggingface import huggingface_spec
from fastdet.models.rtdetrv2.keys import is_huggingface, key_map, layout, to_huggingface
from fastdet.models.rtdetrv2.specs import SPECS, RtDetrSpec

__all__ = [
    "SPECS",
    "DenoisingGroups",
    "DenoisingRandom",
    "Prediction",
    "RawDetr",
    "RtDetr",
    "RtDetrSpec",
    "build",
    "candidates",
    "case_outputs",
    "denoising_groups",
    "draw_random",
    "fit",
    "huggingface_spec",
    "key_map",
    "layout",
    "num_classes_of",
    "to_huggingface",
]


class RawDetr(NamedTuple):
    """What the network returns: nothing decoded, no order among the queries of a picture.

    logits: [B, Q, C], before the sigmoid. boxes_norm: [B, Q, 4] cxcywh in parts of the input.
    image_size: (height, width) of the input. The rest is there in training mode only:
    auxiliary: predictions of the decoder layers before the last. selected: of the selected tokens.
    denoised: of all decoder layers for the denoising queries, which denoising describes.
    """

    logits: Tensor
    boxes_norm: Tensor
    image_size: tuple[int, int]
    auxiliary: tuple[Prediction, ...] = ()
    selected: Prediction | None = None
    denoised: tuple[Prediction, ...] = ()
    denoising: DenoisingGroups | None = None


class RtDetr(DetectionModel):
    """An RT-DETRv2 in its training graph: ``backbone``, ``encoder`` and ``decoder``, each fed with the one before.

    No suppression: every object is found by one query.
    """

    # In the order of the reference's files.
    backbone: PResNet
    decoder: RtDetrDecoder
    encoder: HybridEncoder

    def __init__(self, spec: RtDetrSpec, num_classes: int = 80):
        super().__init__(spec, num_classes)
        self.backbone = PResNet(
            spec.depths, bottleneck=spec.bottleneck, stem=spec.stem, widths=spec.widths, frozen=spec.frozen
        )
        self.decoder = RtDetrDecoder(spec, num_classes)
        self.encoder = HybridEncoder(
            self.backbone.c_out, spec.encoder_dim, ffn=spec.encoder_ffn, heads=spec.heads, expansion=spec.expansion
        )

    def forward(self, images: Tensor, targets: Targets | None = None, random: DenoisingRandom | None = None) -> RawDetr:
        """Predictions for a batch.

        Args:
            images: [B, 3, H, W] float, RGB in 0..1, H and W multiples of 32.
            targets: ground truth; given in training mode, denoising queries are made of it.
            random: their random numbers, by default drawn from torch's generator.
        """
        self.check_images(images)
        height, width = images.shape[-2:]
        groups = None
        if self.training and targets is not None and self.spec.denoising > 0:
            groups = self._denoising(targets, (height, width), random)
        layers, selection = self.decoder(self.encoder(self.backbone(images)), groups)
        if not self.training:
            return RawDetr(layers[-1].logits, layers[-1].boxes_norm, (height, width))
        extra = 0 if groups is None else groups.labels.shape[1]
        own = [Prediction(p.logits[:, extra:], p.boxes_norm[:, extra:]) for p in layers]
        return RawDetr(
            own[-1].logits,
            own[-1].boxes_norm,
            (height, width),
            tuple(own[:-1]),
            Prediction(selection.logits, selection.box_logits.sigmoid()),
            tuple(Prediction(p.logits[:, :extra], p.boxes_norm[:, :extra]) for p in layers) if extra else (),
            groups,
        )

    def _denoising(
        self, targets: Targets, size: tuple[int, int], random: DenoisingRandom | None
    ) -> DenoisingGroups | None:
        embed = self.decoder.denoising_embed
        if embed is None:
            raise ValueError(f"{self.spec.name}: a deployed model cannot be trained; build it anew")
        scale = torch.tensor([size[1], size[0]], dtype=torch.float32, device=embed.weight.device)
        boxes = []
        for each in targets.boxes:
            low, high = (each.to(scale).reshape(-1, 2, 2) / scale).unbind(1)
            boxes.append(torch.cat(((low + high) / 2, high - low), -1))
        if random is None:
            counts = [len(each) for each in boxes]
            random = draw_random(counts, self.num_classes, self.spec.denoising, device=scale.device)
        return denoising_groups(
            boxes,
            targets.labels,
            embed.weight,
            random,
            queries=self.decoder.queries_of(size, self.spec.strides),
            nominal=self.spec.denoising,
            label_noise=self.spec.label_noise,
            box_noise=self.spec.box_noise,
        )

    @property
    def head_prefix(self) -> tuple[str, ...]:
        """What knows the number of classes."""
        return ("decoder.token_score.", "decoder.score.", "decoder.denoising_embed.")

    def named_maps(self, raw: RawDetr) -> dict[str, tuple[Tensor, ...]]:
        """What the queries say, by name."""
        return {"logits": (raw.logits,), "boxes_norm": (raw.boxes_norm,)}

    def fuse(self, *, batch_norm: bool = True) -> RtDetr:
        """Turn into the deployed graph; see ``fastdet.models.fuse.fuse``.

        Unless BatchNorms are to stay, every convolution then does what follows it (activation, sum) in its own pass;
        and on the CPU the weights are channels_last, which all of them then work in.
        """
        super().fuse(batch_norm=batch_norm)
        if batch_norm:
            deploy_convolutions(self)
            if next(self.parameters()).device.type == "cpu":
                self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def decode(self, raw: RawDetr) -> tuple[Tensor, Tensor]:
        """Boxes [B, Q, 4] xyxy in input pixels, not clipped, and scores [B, Q, C]; float32."""
        height, width = raw.image_size
        return _corners(raw.boxes_norm, height, width), raw.logits.float().sigmoid()


def _corners(boxes_norm: Tensor, height: int, width: int) -> Tensor:
    """cxcywh in parts of a picture -> xyxy in its pixels, float32."""
    cx, cy, w, h = boxes_norm.float().unbind(-1)
    return torch.stack(
        ((cx - 0.5 * w) * width, (cy - 0.5 * h) * height, (cx + 0.5 * w) * width, (cy + 0.5 * h) * height), -1
    )


def build(spec: RtDetrSpec, num_classes: int) -> RtDetr:
    """A freshly initialised model in its training graph."""
    return RtDetr(spec, num_classes)


def num_classes_of(state: Mapping[str, Any]) -> int | None:
    """Class count of a state dict in any of the family's layouts, or None if it is none of this family's."""
    for key in ("decoder.enc_score_head.weight", "model.enc_score_head.weight"):
        shape: tuple[int, ...] = tuple(getattr(state.get(key), "shape", ()))
        if len(shape) == 2:
            return shape[0]
    return None


def fit(spec: RtDetrSpec, state: Mapping[str, Any]) -> RtDetrSpec:
    """``spec`` with what a file of transformers shows: how many decoder layers, and whether norms are frozen."""
    if not is_huggingface(state):
        return spec
    counted = any(key.startswith("model.backbone") and key.endswith("num_batches_tracked") for key in state)
    layers = len({key.split(".")[3] for key in state if key.startswith("model.decoder.layers.")})
    last = min(spec.eval_layer, max(layers - 1, 0))
    return dataclasses.replace(spec, frozen=not counted, decoder_layers=layers, eval_layer=last)


def candidates(state: Mapping[str, Any]) -> list[RtDetrSpec]:
    """The sizes that ``state`` could be of. Discrete sampling leaves no trace in it; see ``RtDetrSpec.sampling``."""
    foreign = is_huggingface(state)

    def shape(official: str, theirs: str) -> tuple[int, ...]:
        return tuple(getattr(state.get(theirs if foreign else official), "shape", ()))

    def count(official: str, theirs: str) -> int:
        prefix = theirs if foreign else official
        return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})

    deim = bool(shape("decoder.query_pos_head.layers.2.weight", "model.decoder.query_pos_head.layers.2.weight"))
    blocks = count("backbone.res_layers.2.blocks.", "model.backbone.model.encoder.stages.2.layers.")
    wide = shape("encoder.input_proj.0.conv.weight", "model.encoder_input_proj.0.0.weight") or shape(
        "encoder.input_proj.0.0.weight", ""
    )
    fused = shape("encoder.fpn_blocks.0.conv1.conv.weight", "model.encoder.fpn_blocks.0.conv1.conv.weight")
    points = shape(
        "decoder.decoder.layers.0.cross_attn.attention_weights.weight",
        "model.decoder.layers.0.encoder_attn.attention_weights.weight",
    )
    found = []
    for spec in SPECS.values():
        channels = spec.widths[1] * (4 if spec.bottleneck else 1)
        if (
            spec.sampling == "default"
            and (len(spec.query_pos) == 2) == deim
            and spec.depths[2] == blocks
            and wide[:2] == (spec.encoder_dim, channels)
            and fused[:1] == (int(spec.encoder_dim * spec.expansion),)
            and points[:1] == (spec.heads * sum(spec.points),)
        ):
            found.append(fit(spec, state))
    return found


def case_outputs(module: RtDetr, images: Tensor, image_size_wh: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Every intermediate and final output, under the names that parity cases use.

    ``image_size_wh``: (width, height) of the original picture for ``post_boxes``; by default that of ``images``.
    """
    decoder = module.decoder
    features = module.backbone(images)
    levels = module.encoder(features)
    memory, shapes = decoder.memory(levels)
    content, logits = decoder.tokens(memory, shapes)
    selection = decoder.select(memory, shapes)
    final = decoder.decode(selection.content, selection.box_logits, memory, shapes)[-1]
    order = selection.tokens.argsort(1)

    def by_token(x: Tensor) -> Tensor:
        return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))

    dec_logits, dec_boxes = by_token(final.logits), by_token(final.boxes_norm)
    width, height = image_size_wh or (images.shape[-1], images.shape[-2])
    score = logits.amax(-1)
    outputs = {
        "memory": memory,
        "enc_logits": logits,
        "enc_boxes": decoder.box_logits(content, shapes).sigmoid(),
        "enc_score": score,
        "enc_selected": torch.zeros_like(score).scatter_(1, selection.tokens, 1.0),
        "enc_topk_score": score.gather(1, selection.tokens),
        "query_content": by_token(selection.content),
        "query_boxes": by_token(selection.box_logits).sigmoid(),
        "dec_logits": dec_logits,
        "dec_boxes": dec_boxes,
        **_post(dec_logits, dec_boxes, module.spec.max_det, height, width),
    }
    for i in range(len(levels)):
        outputs[f"backbone.{i}"], outputs[f"encoder.{i}"] = features[i], levels[i]
    return outputs


def _post(logits: Tensor, boxes_norm: Tensor, max_det: int, height: int, width: int) -> dict[str, Tensor]:
    """The detections of a picture: the best (query, class) pairs; which ones, and in the order of the pairs."""
    scores = logits.sigmoid().flatten(1)
    best, pair = scores.topk(max_det, 1)
    rising = pair.sort(1).values
    classes = logits.shape[-1]
    boxes = _corners(boxes_norm, height, width)
    return {
        "post_selected": torch.zeros_like(scores).scatter_(1, pair, 1.0).view_as(logits),
        "post_scores": best,
        "post_labels": (rising % classes).float(),
        "post_boxes": boxes.gather(1, (rising // classes)[..., None].expand(-1, -1, 4)),
    }
