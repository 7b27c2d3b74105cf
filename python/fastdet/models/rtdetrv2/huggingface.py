# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers' RT-DETR and RT-DETRv2: names, and configurations as specifications."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from fastdet.models.keys import KeyMap
from fastdet.models.rtdetrv2.specs import SPECS, RtDetrSpec

Pairs = tuple[tuple[str, str], ...]
_BACKBONE, _STAGE = "model.backbone.model", "model.backbone.model.encoder.stages.{i}.layers.{j}"
_BLOCK, _LAYER = "backbone.res_layers.{i}.blocks.{j}", "decoder.decoder.layers.{i}"


def _norm(theirs: str, official: str) -> Pairs:
    return (
        (f"{theirs}.convolution.{{rest}}", f"{official}.conv.{{rest}}"),
        (f"{theirs}.normalization.{{rest}}", f"{official}.norm.{{rest}}"),
    )


def _layer(theirs: str, official: str, norms: tuple[str, ...]) -> Pairs:
    """A transformer layer; queries, keys and values are one entry here and are split later."""
    return (
        *((f"{theirs}.{name}.{{rest}}", f"{official}.norm{n + 1}.{{rest}}") for n, name in enumerate(norms)),
        (f"{theirs}.self_attn.o_proj.{{rest}}", f"{official}.self_attn.out_proj.{{rest}}"),
        (f"{theirs}.self_attn.{{rest}}", f"{official}.self_attn.{{rest}}"),
        (f"{theirs}.mlp.fc1.{{rest}}", f"{official}.linear1.{{rest}}"),
        (f"{theirs}.mlp.fc2.{{rest}}", f"{official}.linear2.{{rest}}"),
    )


# (their key, the official key)
KEYS = KeyMap(
    (
        *(p for n in (0, 1, 2) for p in _norm(f"{_BACKBONE}.embedder.embedder.{n}", f"backbone.conv1.conv1_{n + 1}")),
        *(p for n, name in enumerate("abc") for p in _norm(f"{_STAGE}.layer.{n}", f"{_BLOCK}.branch2{name}")),
        *_norm(f"{_BACKBONE}.encoder.stages.0.layers.{{j}}.shortcut", "backbone.res_layers.0.blocks.{j}.short"),
        *_norm(f"{_STAGE}.shortcut.1", f"{_BLOCK}.short.conv"),
        *(
            pair
            for part in ("encoder", "decoder")
            for pair in (
                (f"model.{part}_input_proj.{{i}}.0.{{rest}}", f"{part}.input_proj.{{i}}.conv.{{rest}}"),
                (f"model.{part}_input_proj.{{i}}.1.{{rest}}", f"{part}.input_proj.{{i}}.norm.{{rest}}"),
            )
        ),
        *_layer(
            "model.encoder.aifi.0.layers.0",
            "encoder.encoder.0.layers.0",
            ("self_attn_layer_norm", "final_layer_norm"),
        ),
        ("model.encoder.{rest}", "encoder.{rest}"),
        *_layer(
            "model.decoder.layers.{i}",
            _LAYER,
            ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
        ),
        ("model.decoder.layers.{i}.encoder_attn.n_points_scale", f"{_LAYER}.cross_attn.num_points_scale"),
        ("model.decoder.layers.{i}.encoder_attn.{rest}", f"{_LAYER}.cross_attn.{{rest}}"),
        ("model.decoder.class_embed.{rest}", "decoder.dec_score_head.{rest}"),
        ("model.decoder.bbox_embed.{rest}", "decoder.dec_bbox_head.{rest}"),
        ("model.decoder.query_pos_head.{rest}", "decoder.query_pos_head.{rest}"),
        ("model.enc_output.0.{rest}", "decoder.enc_output.proj.{rest}"),
        ("model.enc_output.1.{rest}", "decoder.enc_output.norm.{rest}"),
        ("model.enc_{rest}", "decoder.enc_{rest}"),
        ("model.denoising_class_embed.{rest}", "decoder.denoising_class_embed.{rest}"),
    )
)
# What an entry is called on the Hub beside what it is called in memory.
_ON_THE_HUB = (
    (".self_attn.o_proj.", ".self_attn.out_proj."),
    (".mlp.fc", ".fc"),
    ("model.encoder.aifi.", "model.encoder.encoder."),
)


def entries(official: str, tensor: Tensor) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Their entries for one official entry: names, the usual one first, and the part of ``tensor`` that each holds."""
    theirs = KEYS.to_official(official)
    if theirs is None:
        return
    stem, packed, kind = theirs.rpartition("in_proj_")
    if packed:
        for name, part in zip("qkv", tensor.chunk(3)):
            yield _spellings(f"{stem}{name}_proj.{kind}"), part
    else:
        yield _spellings(theirs), tensor


def _spellings(key: str) -> tuple[str, ...]:
    older = key
    for new, old in _ON_THE_HUB:
        older = older.replace(new, old)
    return (key,) if older == key else (key, older)


def tied(key: str) -> str | None:
    """The second name that a head has in a whole state dict (their heads are tied to the decoder's), or None."""
    for name in ("class_embed", "bbox_embed"):
        if key.startswith(f"model.decoder.{name}."):
            return key.removeprefix("model.decoder.")
    return None


def huggingface_spec(config: Mapping[str, Any], name: str = "rtdetrv2-l") -> RtDetrSpec:
    """The specification of a network that a configuration of transformers describes.

    Args:
        config: of an RTDetrV2ForObjectDetection or RTDetrForObjectDetection, the content of ``config.json`` or
            ``config.to_dict()``. The class count is not part of a specification: it is the number of ``id2label``.
        name: which of our models to take for everything that a configuration does not hold.

    Raises:
        ValueError: the configuration asks for something that these networks do not have here.
    """
    backbone = config["backbone_config"]
    levels = len(config["feat_strides"])
    expected = {
        "encoder_layers": 1,
        "encode_proj_layers": [levels - 1],
        "activation_function": "silu",
        "decoder_activation_function": "relu",
        "encoder_activation_function": "gelu",
        "normalize_before": False,
        "learn_initial_query": False,
        "positional_encoding_temperature": 10000,
        "layer_norm_eps": 1e-5,
        "batch_norm_eps": 1e-5,
        "decoder_offset_scale": 0.5,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ValueError(f"huggingface_spec: {key} must be {value!r}, got {config[key]!r}")
    if config["encoder_attention_heads"] != config["decoder_attention_heads"]:
        raise ValueError("huggingface_spec: encoder and decoder must have the same number of heads")
    bottleneck = backbone.get("layer_type", "bottleneck") == "bottleneck"
    hidden = backbone["hidden_sizes"]
    embedding = backbone["embedding_size"]
    points = config.get("decoder_n_points", 4)
    values = {
        "strides": tuple(config["feat_strides"]),
        "depths": tuple(backbone["depths"]),
        "bottleneck": bottleneck,
        "stem": (embedding // 2, embedding // 2, embedding),
        "widths": tuple(width // 4 for width in hidden) if bottleneck else tuple(hidden),
        "frozen": bool(config.get("freeze_backbone_batch_norms", True)),
        "encoder_dim": config["encoder_hidden_dim"],
        "encoder_ffn": config["encoder_ffn_dim"],
        "expansion": config["hidden_expansion"],
        "decoder_dim": config["d_model"],
        "decoder_ffn": config["decoder_ffn_dim"],
        "heads": config["decoder_attention_heads"],
        "queries": config["num_queries"],
        "points": tuple(points) if isinstance(points, (list, tuple)) else (points,) * levels,
        "decoder_layers": config["decoder_layers"],
        "eval_layer": config["decoder_layers"] - 1,
        "sampling": config.get("decoder_method", "default"),
        "act": nn.ReLU,
        "query_pos": (2 * config["d_model"],),
        "denoising": config["num_denoising"],
        "label_noise": config["label_noise_ratio"],
        "box_noise": config["box_noise_scale"],
    }
    return dataclasses.replace(SPECS[name], **values)
