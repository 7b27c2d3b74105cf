# SPDX-License-Identifier: Apache-2.0
"""Names in the files of lyuwenyu/RT-DETR (v2 and v1), DEIM and Hugging Face transformers beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastdet.models.keys import KeyMap, official_layout
from fastdet.models.rtdetrv2 import huggingface

if TYPE_CHECKING:
    from fastdet.models.detection_model import DetectionModel
    from fastdet.models.rtdetrv2.specs import RtDetrSpec

Pairs = tuple[tuple[str, str], ...]


def _norm(official: str, ours: str) -> Pairs:
    """A convolution with its norm."""
    return (
        (f"{official}.conv.{{rest}}", f"{ours}.conv.{{rest}}"),
        (f"{official}.norm.{{rest}}", f"{ours}.bn.{{rest}}"),
    )


def _fusion(official: str, ours: str) -> Pairs:
    block, mine = f"{official}.{{i}}.bottlenecks.{{j}}", f"{ours}.{{i}}.blocks.{{j}}"
    return (
        *_norm(f"{block}.conv1", f"{mine}.dense"),
        *_norm(f"{block}.conv2", f"{mine}.point"),
        *(pair for k in (1, 2, 3) for pair in _norm(f"{official}.{{i}}.conv{k}", f"{ours}.{{i}}.conv{k}")),
    )


_BLOCK, _OURS = "backbone.res_layers.{i}.blocks.{j}", "backbone.stages.{i}.{j}"
BACKBONE_KEYS: Pairs = (
    *(pair for n in (0, 1, 2) for pair in _norm(f"backbone.conv1.conv1_{n + 1}", f"backbone.stem.{n}")),
    *(pair for n, name in enumerate("abc") for pair in _norm(f"{_BLOCK}.branch2{name}", f"{_OURS}.conv{n + 1}")),
    # The first stage has no pooling before its shortcut, and one module less around it.
    *_norm("backbone.res_layers.0.blocks.{j}.short", "backbone.stages.0.{j}.shortcut.conv"),
    *_norm(f"{_BLOCK}.short.conv", f"{_OURS}.shortcut.conv"),
)
ENCODER_KEYS: Pairs = (
    *_norm("encoder.input_proj.{i}", "encoder.input_proj.{i}"),
    ("encoder.encoder.0.layers.0.self_attn.{rest}", "encoder.aifi.attn.{rest}"),
    ("encoder.encoder.0.layers.0.{rest}", "encoder.aifi.{rest}"),
    *_norm("encoder.lateral_convs.{i}", "encoder.laterals.{i}"),
    *_norm("encoder.downsample_convs.{i}", "encoder.downs.{i}"),
    *_fusion("encoder.fpn_blocks", "encoder.top_down"),
    *_fusion("encoder.pan_blocks", "encoder.bottom_up"),
)
_LAYER = "decoder.decoder.layers.{i}"
DECODER_KEYS: Pairs = (
    *_norm("decoder.input_proj.{i}", "decoder.input_proj.{i}"),
    (f"{_LAYER}.self_attn.{{rest}}", "decoder.layers.{i}.attn.{rest}"),
    (f"{_LAYER}.cross_attn.num_points_scale", "decoder.layers.{i}.cross.points_scale"),
    (f"{_LAYER}.cross_attn.sampling_offsets.{{rest}}", "decoder.layers.{i}.cross.offsets.{rest}"),
    (f"{_LAYER}.cross_attn.attention_weights.{{rest}}", "decoder.layers.{i}.cross.weights.{rest}"),
    (f"{_LAYER}.cross_attn.output_proj.{{rest}}", "decoder.layers.{i}.cross.out_proj.{rest}"),
    (f"{_LAYER}.cross_attn.{{rest}}", "decoder.layers.{i}.cross.{rest}"),
    (f"{_LAYER}.{{rest}}", "decoder.layers.{i}.{rest}"),
    ("decoder.denoising_class_embed.{rest}", "decoder.denoising_embed.{rest}"),
    ("decoder.query_pos_head.{rest}", "decoder.query_pos.{rest}"),
    ("decoder.enc_output.{rest}", "decoder.token_output.{rest}"),
    ("decoder.enc_score_head.{rest}", "decoder.token_score.{rest}"),
    ("decoder.enc_bbox_head.{rest}", "decoder.token_box.{rest}"),
    ("decoder.dec_score_head.{rest}", "decoder.score.{rest}"),
    ("decoder.dec_bbox_head.{rest}", "decoder.box.{rest}"),
)
KEYS = KeyMap(BACKBONE_KEYS + ENCODER_KEYS + DECODER_KEYS)

_PARTS = ("encoder", "decoder")
# (a name in RT-DETR's first version, whose networks are the same ones; the name since)
V1_KEYS = KeyMap(
    (
        *((f"{part}.input_proj.{{i}}.0.{{rest}}", f"{part}.input_proj.{{i}}.conv.{{rest}}") for part in _PARTS),
        *((f"{part}.input_proj.{{i}}.1.{{rest}}", f"{part}.input_proj.{{i}}.norm.{{rest}}") for part in _PARTS),
        ("decoder.enc_output.0.{rest}", "decoder.enc_output.proj.{rest}"),
        ("decoder.enc_output.1.{rest}", "decoder.enc_output.norm.{rest}"),
    )
)
# Entries that follow from the specification: only the files of the second version need have them all.
_CONSTANTS = ("anchors", "valid_mask", "points_scale")


def key_map(spec: RtDetrSpec) -> KeyMap:
    """The official names, the same for every size."""
    return KEYS


def is_huggingface(state: Mapping[str, Any]) -> bool:
    """Whether ``state`` bears the names of transformers."""
    return any(key.startswith("model.decoder.layers.") for key in state)


def layout(module: DetectionModel, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries of ``module`` (in parts where a file has parts), under the names that ``state`` uses.

    Where ``state`` has an entry under none of its names the first one stands there, to be found missing.
    """
    found: dict[str, Tensor] = {}
    foreign = is_huggingface(state)
    first_version = any(V1_KEYS.to_ours(key) for key in state)
    _fit_anchors(module, state)
    for official, tensor in official_entries(module):
        optional = (foreign or first_version) and official.endswith(_CONSTANTS)
        optional = optional or (foreign and official.endswith("num_batches_tracked"))
        for names, part in _named(official, tensor, foreign):
            name = next((name for name in names if name in state), None)
            if name is None and optional:
                continue
            name = name or names[0]
            second = huggingface.tied(name)
            if second is not None and second in state:
                found[second] = part
            found[name] = part
    return found


def official_entries(module: DetectionModel) -> Iterator[tuple[str, Tensor]]:
    """(official key, tensor) in the order of the reference's files."""
    for official, (_, tensor) in official_layout(module, KEYS).items():
        if official == "decoder.input_proj.0.conv.weight":
            yield "decoder.anchors", module.get_buffer("decoder.anchors")
            yield "decoder.valid_mask", module.get_buffer("decoder.valid")
        yield official, tensor


def _named(official: str, tensor: Tensor, foreign: bool) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if foreign:
        yield from huggingface.entries(official, tensor)
    else:
        first = V1_KEYS.to_official(official)
        yield (official,) if first is None else (official, first), tensor


def _fit_anchors(module: DetectionModel, state: Mapping[str, Any]) -> None:
    """Give the two entries that hang on the reference's input size, which nothing reads, the shapes in ``state``."""
    for name, official in (("anchors", "decoder.anchors"), ("valid", "decoder.valid_mask")):
        shape = tuple(getattr(state.get(official), "shape", ()))
        entry = getattr(module.decoder, name)
        if len(shape) == 3 and shape[::2] == tuple(entry.shape)[::2] and shape != tuple(entry.shape):
            setattr(module.decoder, name, entry.new_zeros(shape))


def to_huggingface(module: DetectionModel, *, frozen_backbone: bool = True) -> dict[str, Tensor]:
    """The weights of ``module`` (training graph) as the state dict of an RTDetrV2ForObjectDetection.

    Args:
        module: an RT-DETRv2. frozen_backbone: leave out the backbone's counters of batches, which transformers'
            model has only where its configuration says ``freeze_backbone_batch_norms=False``.

    Returns:
        Tensors by transformers' names, the tied heads under both of theirs; views of the module's own.
    """
    if module.fused:
        raise ValueError("to_huggingface: module must be in its training graph, got a fused one; build it anew")
    found = {}
    for official, tensor in official_entries(module):
        if frozen_backbone and official.startswith("backbone.") and official.endswith("num_batches_tracked"):
            continue
        for names, part in huggingface.entries(official, tensor):
            found[names[0]] = part
            second = huggingface.tied(names[0])
            if second is not None:
                found[second] = part
    return found
