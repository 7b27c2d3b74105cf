# SPDX-License-Identifier: Apache-2.0
"""Small detectors of Hugging Face transformers with random weights; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
import transformers

RT_DETR = {
    "encoder_in_channels": [32, 48, 64],
    "hidden_expansion": 0.5,
    "decoder_layers": 2,
    "num_labels": 7,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 64,
    "d_model": 64,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 72,
    "num_queries": 30,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_denoising": 0,
    "dropout": 0.0,
}


def _backbone(layer_type: str = "basic") -> Any:
    sizes = [16, 32, 48, 64]
    return transformers.RTDetrResNetConfig(
        depths=[1, 1, 2, 1],
        hidden_sizes=sizes,
        layer_type=layer_type,
        embedding_size=16,
        out_features=["stage2", "stage3", "stage4"],
    )


def _rt_detr(**options: Any) -> torch.nn.Module:
    layer_type = options.pop("layer_type", "basic")
    config = transformers.RTDetrConfig(backbone_config=_backbone(layer_type), **(RT_DETR | options))
    return transformers.RTDetrForObjectDetection(config)


def _rt_detr_v2(**options: Any) -> torch.nn.Module:
    layer_type = options.pop("layer_type", "basic")
    config = transformers.RTDetrV2Config(backbone_config=_backbone(layer_type), **(RT_DETR | options))
    return transformers.RTDetrV2ForObjectDetection(config)


def _d_fine(**options: Any) -> torch.nn.Module:
    backbone = transformers.HGNetV2Config(
        hidden_sizes=[32, 48, 64, 64],
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 32, 48, 64],
        stage_mid_channels=[8, 16, 16, 16],
        stage_out_channels=[32, 48, 64, 64],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        use_learnable_affine_block=options.pop("lab", True),
        out_features=["stage2", "stage3", "stage4"],
        return_idx=[1, 2, 3],
    )
    config = RT_DETR | {
        "encoder_in_channels": [48, 64, 64],
        "decoder_n_points": [3, 6, 2],
        "d_model": 32,
        "decoder_ffn_dim": 48,
        "encoder_ffn_dim": 48,
    }
    return transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=backbone, **config | options))


def _resnet() -> Any:
    sizes = [16, 32, 48, 64]
    return transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=sizes, depths=[1, 1, 2, 1], out_features=["stage2", "stage3", "stage4"]
    )


DEFORMABLE = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "num_labels": 5,
    "dropout": 0.0,
}


def _deformable_detr(**options: Any) -> torch.nn.Module:
    config = transformers.DeformableDetrConfig(backbone_config=_resnet(), **(DEFORMABLE | options))
    return transformers.DeformableDetrForObjectDetection(config)


def _grounding_dino(**options: Any) -> torch.nn.Module:
    text = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, vocab_size=1020
    )
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    small = {"max_text_len": 16, "text_enhancer_dropout": 0.0, "fusion_dropout": 0.0, "fusion_droppath": 0.0}
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, **(DEFORMABLE | small | options)
    )
    return transformers.GroundingDinoForObjectDetection(config)


MAKERS = {
    "RT-DETR": _rt_detr,
    "RT-DETRv2": _rt_detr_v2,
    "D-FINE": _d_fine,
    "Deformable DETR": _deformable_detr,
    "Grounding DINO": _grounding_dino,
}


def small_detector(family: str, *, seed: int = 1, **options: Any) -> torch.nn.Module:
    """In eval mode, with weights and statistics under which signals neither fade nor grow."""
    model = MAKERS[family](**options).eval()
    generator = torch.Generator().manual_seed(seed)
    frozen = ("n_points_scale", "num_points_scale", "anchors", "valid_mask", "project", "reg_scale", "up", "lab.")
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not value.is_floating_point() or any(part in key for part in frozen):
                continue
            if "running_var" in key or ("norm" in key and key.endswith("weight")):
                value.uniform_(0.8, 1.2, generator=generator)
            elif value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return model


def inputs_of(family: str, *, batch: int = 2, size: tuple[int, int] = (64, 96)) -> dict[str, torch.Tensor]:
    """What a model of the family takes."""
    generator = torch.Generator().manual_seed(2)
    made = {"pixel_values": torch.rand(batch, 3, *size, generator=generator)}
    if family == "Grounding DINO":
        words = torch.randint(110, 190, (batch, 6), generator=generator)
        words[:, 0], words[:, 3], words[:, 5] = 101, 1012, 102
        made |= {"input_ids": words, "attention_mask": torch.ones_like(words)}
    return made
