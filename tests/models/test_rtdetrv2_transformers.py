# SPDX-License-Identifier: Apache-2.0
"""RT-DETRv2 beside Hugging Face transformers' model of the same configuration and weights; nothing is downloaded."""

from __future__ import annotations

import pytest
import torch

from fastdet import models
from fastdet.models import rtdetrv2

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# What differs from the small network of ``_theirs``: backbone, configuration.
CONFIGURATIONS = {
    "basic": ({}, {}),
    "bottleneck": (
        {"layer_type": "bottleneck", "hidden_sizes": [64, 128, 192, 256]},
        {"encoder_in_channels": [128, 192, 256], "hidden_expansion": 1.0, "encoder_hidden_dim": 64},
    ),
    "discrete": ({}, {"decoder_method": "discrete", "freeze_backbone_batch_norms": False}),
    "five points": ({}, {"decoder_n_points": 5, "decoder_layers": 3}),
    "r18vd": (
        {"depths": [2, 2, 2, 2], "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512]},
        {
            "encoder_in_channels": [128, 256, 512],
            "encoder_hidden_dim": 256,
            "encoder_ffn_dim": 1024,
            "d_model": 256,
            "decoder_ffn_dim": 1024,
            "decoder_layers": 3,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "num_queries": 300,
            "num_labels": 80,
        },
    ),
}


def _theirs(backbone, options):
    """A network of theirs with random weights and statistics."""
    small = {
        "depths": [1, 1, 2, 1],
        "hidden_sizes": [16, 32, 48, 64],
        "layer_type": "basic",
        "embedding_size": 16,
        "out_features": ["stage2", "stage3", "stage4"],
    }
    config = {
        "encoder_in_channels": [32, 48, 64],
        "hidden_expansion": 0.5,
        "decoder_layers": 2,
        "num_labels": 7,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 64,
        "d_model": 64,
        "decoder_ffn_dim": 72,
        "num_queries": 30,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    } | options
    config["decoder_in_channels"] = [config["encoder_hidden_dim"]] * 3
    settings = transformers.RTDetrV2Config(
        backbone_config=transformers.RTDetrResNetConfig(**(small | backbone)), **config
    )
    model = transformers.RTDetrV2ForObjectDetection(settings).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not value.is_floating_point() or "n_points_scale" in key:
                continue
            if "running_var" in key or ("norm" in key and key.endswith("weight")):
                value.uniform_(0.8, 1.2, generator=generator)
            elif value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return model


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.detach() - want.detach()).norm() / want.detach().norm())


def _errors(got, want) -> tuple[float, float]:
    """Errors of logits and boxes. Which of two nearly equal tokens becomes the earlier query is rounding: queries of a
    picture are paired by what they say."""
    both = [torch.cat((logits, 10 * boxes), -1) for logits, boxes in ((got.logits, got.boxes_norm), want)]
    order = torch.cdist(*both).argmin(2)
    assert all(len(set(row.tolist())) == len(row) for row in order)
    pairs = [t.gather(1, order[..., None].expand(-1, -1, t.shape[-1])) for t in want]
    return _error(got.logits, pairs[0]), _error(got.boxes_norm, pairs[1])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_same_weights_same_predictions(name):
    theirs = _theirs(*CONFIGURATIONS[name])
    spec = rtdetrv2.huggingface_spec(theirs.config.to_dict())
    ours = models.build(spec, theirs.config.num_labels)
    state = theirs.state_dict()
    assert models.load_official(ours, state) is ours
    assert ours.spec == spec  # the file and the configuration say the same

    back = rtdetrv2.to_huggingface(ours, frozen_backbone=theirs.config.freeze_backbone_batch_norms)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    theirs.load_state_dict(back)

    shape = (160, 192) if spec.queries > 100 else (96, 128)
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = theirs(images)
        want = found.logits, found.pred_boxes
        assert max(_errors(ours.eval()(images), want)) < 1e-4
        assert max(_errors(ours.fuse()(images), want)) < 2e-4


def test_training_outputs_agree():
    theirs = _theirs({}, {"num_denoising": 0, "dropout": 0.0}).train()
    ours = models.build(rtdetrv2.huggingface_spec(theirs.config.to_dict()), 7).train()
    models.load_official(ours, theirs.state_dict() | _embedding(ours))
    for module in (theirs, ours):
        for block in module.modules():
            if isinstance(block, torch.nn.BatchNorm2d):
                block.eval()
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    want, got = theirs(images), ours(images)
    assert _error(got.logits, want.logits) < 1e-4 and _error(got.boxes_norm, want.pred_boxes) < 1e-4
    assert len(got.auxiliary) == 1
    assert _error(got.auxiliary[0].logits, want.intermediate_logits[:, 0]) < 1e-4
    assert _error(got.selected.logits, want.enc_topk_logits) < 1e-4
    assert _error(got.selected.boxes_norm, want.enc_topk_bboxes) < 1e-4


def _embedding(ours):
    """The denoising embedding, which a model of theirs without denoising lacks."""
    embedding = ours.decoder.denoising_embed.weight
    return {"model.denoising_class_embed.weight": embedding}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_layers": 2}, "encoder_layers must be 1, got 2"),
        ({"decoder_attention_heads": 8}, "the same number of heads"),
        ({"decoder_activation_function": "gelu"}, "decoder_activation_function must be 'relu', got 'gelu'"),
    ],
)
def test_configurations_that_are_not_this_network_are_refused(change, message):
    config = _theirs({}, {}).config.to_dict() | change
    with pytest.raises(ValueError, match=message):
        rtdetrv2.huggingface_spec(config)
