# SPDX-License-Identifier: Apache-2.0
"""RT-DETRv2 against Hugging Face transformers' model of the same configuration and weights, on the CPU."""

from __future__ import annotations

import pytest
import torch

from fastdet import models
from harness import compare

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def huggingface_model(name: str, seed: int = 2) -> torch.nn.Module:
    """Their network of our model ``name``, with random weights, in eval mode.

    ``seed``: one with which the selected tokens are spread over the picture, as those of a trained network are.
    """
    spec = models.spec(name)
    channels = [width * (4 if spec.bottleneck else 1) for width in spec.widths]
    backbone = transformers.RTDetrResNetConfig(
        depths=list(spec.depths),
        hidden_sizes=channels,
        layer_type="bottleneck" if spec.bottleneck else "basic",
        embedding_size=spec.stem[-1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=channels[1:],
        encoder_hidden_dim=spec.encoder_dim,
        encoder_ffn_dim=spec.encoder_ffn,
        hidden_expansion=spec.expansion,
        decoder_in_channels=[spec.encoder_dim] * 3,
        decoder_layers=spec.eval_layer + 1,
        num_labels=80,
    )
    model = transformers.RTDetrV2ForObjectDetection(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # as they start signals fade and all scores are equal: what is selected would be rounding
        for key, value in model.state_dict().items():
            if not value.is_floating_point() or "n_points_scale" in key:
                continue
            if "running_var" in key or ("norm" in key and key.endswith("weight")):
                value.uniform_(0.8, 1.2, generator=generator)
            elif value.ndim > 1:
                gain = 0.1 if "bbox" in key and "layers.2" in key else 1.0  # large steps of boxes amplify rounding
                value.normal_(0, gain * value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return model


def same(ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Logits and boxes agree; which of two nearly equal tokens becomes the earlier query is rounding."""
    ours, theirs = (torch.cat(each, -1) for each in (ours, theirs))
    nearest = torch.cdist(ours.double(), theirs.double()).amin(2) / theirs.double().norm(dim=-1).mean()
    return float((nearest < 1e-3).float().mean()) > 0.98


@pytest.mark.parametrize("name", ["rtdetrv2-s", "rtdetrv2-l"])
def bench_rtdetrv2(benchmark, name):
    theirs = huggingface_model(name)
    ours = models.build(name)
    models.load_official(ours, theirs.state_dict())
    ours.eval().fuse()
    images = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def run_ours():
        raw = ours(images)
        return raw.logits, raw.boxes_norm

    @torch.inference_mode()
    def run_theirs():
        found = theirs(images)
        return found.logits, found.pred_boxes

    setting = f"{name}, 640 x 640, batch 1, float32, {torch.get_num_threads()} threads"
    compare(benchmark, "rtdetrv2", setting, {"fastdet": run_ours, "transformers": run_theirs}, same=same, rounds=10)
