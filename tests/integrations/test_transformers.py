# SPDX-License-Identifier: Apache-2.0
"""Accelerated detectors of Hugging Face transformers beside themselves: results, gradients, and the way back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fastdet

pytest.importorskip("transformers", reason="transformers is not installed")

from small_transformers import MAKERS, inputs_of, small_detector

from fastdet import ops
from fastdet.integrations.transformers import accelerate, accelerated, restore

VARIANTS = {
    **{family: (family, {}) for family in MAKERS},
    "RT-DETR bottleneck": ("RT-DETR", {"layer_type": "bottleneck"}),
    "RT-DETR unfrozen": ("RT-DETR", {"freeze_backbone_batch_norms": False}),
    "RT-DETR relu": ("RT-DETR", {"activation_function": "relu"}),
    "RT-DETR gelu": ("RT-DETR", {"activation_function": "gelu"}),
    "RT-DETRv2 bottleneck": ("RT-DETRv2", {"layer_type": "bottleneck", "decoder_n_points": 5}),
    "RT-DETRv2 discrete": ("RT-DETRv2", {"decoder_method": "discrete"}),
    "D-FINE discrete": ("D-FINE", {"decoder_method": "discrete"}),
    "D-FINE without affine": ("D-FINE", {"lab": False, "decoder_n_points": 3}),
    "Deformable DETR two stages": (
        "Deformable DETR",
        {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 20},
    ),
}


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative, of what is finite in both; the rest must be equal."""
    finite = torch.isfinite(want)
    assert torch.equal(got[~finite], want[~finite])
    return float((got - want)[finite].detach().norm() / want[finite].detach().norm().clamp_min(1e-12))


def predictions(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = model(**inputs)
    return found.logits, found.pred_boxes


def agree(model: nn.Module, inputs: dict[str, torch.Tensor], want: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return max(error(*pair) for pair in zip(predictions(model, inputs), want)) < 1e-5


def layout(model: nn.Module) -> list[tuple[str, type, list[str]]]:
    return [(name, type(module), sorted(module.__dict__)) for name, module in model.named_modules()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_predictions_and_back(variant):
    family, options = VARIANTS[variant]
    model, inputs = small_detector(family, **options), inputs_of(family)
    before, state = layout(model), copy.deepcopy(model.state_dict())
    want = predictions(model, inputs)

    assert accelerate(model, fold=False) is model
    assert set(accelerated(model)) == {"deformable attention"}
    assert agree(model, inputs, want)
    attention = accelerated(model)["deformable attention"]
    assert accelerate(model) is model and accelerated(model)["deformable attention"] == attention
    assert accelerated(model).get("folded block", 0) > 20 or family == "Grounding DINO"  # its backbone is a Swin
    assert agree(model, inputs, want)

    now = model.state_dict()
    assert list(now) == list(state) and all(torch.equal(now[key], state[key]) for key in state)
    assert restore(model) is model and accelerated(model) == {}
    assert layout(model) == before
    assert all(map(torch.equal, predictions(model, inputs), want))


def test_what_is_folded():
    """Every convolution with a BatchNorm behind it, and every residual sum."""
    model = accelerate(small_detector("RT-DETRv2", layer_type="bottleneck"))
    counted = {"batch_norm": 0, "relu_": 0}

    def count(name):
        return lambda *_: counted.__setitem__(name, counted[name] + 1)

    norms = [m for m in model.modules() if "BatchNorm" in type(m).__name__]
    assert len(norms) > 50
    for norm in norms:
        norm.forward = count("batch_norm")  # type: ignore[method-assign]
    blocks = [m for m in model.modules() if type(m).__name__ == "RTDetrResNetBottleNeckLayer"]
    for block in blocks:
        block.activation.forward = count("relu_")  # type: ignore[method-assign]
    predictions(model, inputs_of("RT-DETRv2"))
    assert counted == {"batch_norm": 0, "relu_": 0} and len(blocks) == 5


def gradients(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(5)  # dropout
    found = model(**inputs)
    logits = found.logits[torch.isfinite(found.logits)]
    (logits.square().mean() + (found.pred_boxes - 0.3).square().sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", [*MAKERS, "RT-DETRv2 discrete", "Deformable DETR two stages"])
def test_gradients_agree_in_training(variant):
    family, options = VARIANTS[variant]
    model, inputs = small_detector(family, **options), inputs_of(family)
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)) or "Drop" in type(module).__name__:
            module.eval()
    want = gradients(model, inputs)
    got = gradients(accelerate(model), inputs)
    assert set(got) == set(want) and len(got) > 50
    scale = max(float(g.norm()) for g in want.values())
    worst = {name: float((got[name] - want[name]).norm()) / scale for name in want}
    assert max(worst.values()) < 1e-5, max(worst, key=worst.get)
    touched = [name for name, g in want.items() if "sampling_offsets" in name and g.abs().max() > 0]
    assert touched or "discrete" in variant


def test_a_step_of_training_is_seen_by_the_folded_model():
    """Train, evaluate, train on, evaluate: as the model does without us."""
    theirs = small_detector("RT-DETRv2", freeze_backbone_batch_norms=False)
    ours = accelerate(copy.deepcopy(theirs))
    inputs = inputs_of("RT-DETRv2")
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3) for model in (theirs, ours)]
    for _ in range(2):
        for model, optimizer in zip((theirs, ours), optimizers):
            model.train()
            gradients(model, inputs)
            optimizer.step()
            model.eval()
        pairs = zip(predictions(ours, inputs), predictions(theirs, inputs))
        assert max(error(*pair) for pair in pairs) < 1e-4  # two float32 trainings drift apart


CHANGES = {
    "in place": lambda model, conv: conv.weight.mul_(1.5),
    "statistics": lambda model, conv: model.model.backbone.model.embedder.embedder[0].normalization.bias.add_(0.3),
    "load_state_dict": lambda model, conv: model.load_state_dict(
        {key: value * 1.1 for key, value in model.state_dict().items()}
    ),
    "assign": lambda model, conv: model.load_state_dict(
        {key: value * 1.1 for key, value in model.state_dict().items()}, assign=True
    ),
    "data, then eval()": lambda model, conv: (conv.weight.data.mul_(1.5), model.eval()),
    "double": lambda model, conv: model.double(),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_weights_are_seen(change):
    model, inputs = small_detector("RT-DETR"), inputs_of("RT-DETR")
    embedder = model.model.backbone.model.embedder.embedder
    reference = copy.deepcopy(embedder)
    x = inputs["pixel_values"]
    accelerate(model)
    assert error(embedder(x), reference(x)) < 1e-5
    CHANGES[change](model, embedder[0].convolution)
    restored = restore(copy.deepcopy(embedder))
    x = x.to(embedder[0].convolution.weight.dtype)
    assert error(embedder(x), restored(x)) < 1e-5
    assert error(restored(x).float(), reference(x.float())) > 1e-3 or change == "double"


def test_hooks_see_what_they_saw():
    model, inputs = accelerate(small_detector("RT-DETR")), inputs_of("RT-DETR")
    seen = []
    block = model.model.encoder.fpn_blocks[0].bottlenecks[0]
    handles = [
        block.conv2.norm.register_forward_hook(lambda *_: seen.append("norm")),
        block.register_forward_hook(lambda *_: seen.append("block")),
    ]
    predictions(model, inputs)
    assert seen == ["norm", "block"]
    for handle in handles:
        handle.remove()
    predictions(model, inputs)
    assert seen == ["norm", "block"]


class Adapter(nn.Module):
    """What adapters for fine-tuning put in a convolution's place."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 1.5 * self.inner(x)


@torch.no_grad()
def test_parts_put_in_the_place_of_others_run():
    model, x = accelerate(small_detector("RT-DETR", layer_type="bottleneck")), torch.rand(1, 16, 12, 10)
    block = model.model.backbone.model.encoder.stages[0].layers[0]
    bottleneck = model.model.encoder.fpn_blocks[0].bottlenecks[0]
    y = torch.rand(1, bottleneck.conv1.conv.in_channels, 6, 7)

    def seen():
        for part, of in ((block, x), (bottleneck, y)):
            assert error(part(of), restore(copy.deepcopy(part))(of)) < 1e-5

    seen()
    for part in (block, bottleneck):
        part.activation = nn.SiLU() if isinstance(part.activation, nn.ReLU) else nn.ReLU()
    seen()
    block.layer[-1].normalization.eps = 0.5
    bottleneck.conv2.norm.eps = 0.5
    seen()
    restore(block.layer)
    restore(bottleneck.conv1)
    seen()
    accelerate(model)
    block.layer[-1].convolution = Adapter(block.layer[-1].convolution)
    bottleneck.conv2.conv = Adapter(bottleneck.conv2.conv)
    seen()


def test_gradients_of_a_model_in_eval_mode_and_autocast_run_their_code():
    model, inputs = small_detector("RT-DETR"), inputs_of("RT-DETR")
    want = gradients(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = predictions(model, inputs)
    accelerate(model)
    predictions(model, inputs)  # folds
    got = gradients(model, inputs)
    scale = max(float(g.norm()) for g in want.values())
    assert set(got) == set(want) and all(float((got[n] - want[n]).norm()) < 1e-5 * scale for n in want)
    with torch.autocast("cpu", torch.bfloat16):
        found = predictions(model, inputs)
    assert found[0].dtype == half[0].dtype and error(found[0].float(), half[0].float()) < 0.1


def test_copies_and_pickles():
    model, inputs = accelerate(small_detector("D-FINE")), inputs_of("D-FINE")
    want = predictions(model, inputs)
    copied = copy.deepcopy(model)
    assert accelerated(copied) == accelerated(model)
    with torch.no_grad():
        model.get_parameter("model.encoder_input_proj.0.0.weight").mul_(2.0)
    assert all(map(torch.equal, predictions(copied, inputs), want))
    plain = pickle.loads(pickle.dumps(copied))
    assert accelerated(plain) == {} and agree(plain, inputs, want)
    assert layout(plain) == layout(restore(copied))


def test_inference_mode_first():
    """What is folded inside inference_mode serves outside it."""
    model, inputs = accelerate(small_detector("RT-DETR")), inputs_of("RT-DETR")
    with torch.inference_mode():
        want = model(**inputs).logits.clone()
    assert torch.equal(predictions(model, inputs)[0], want)


def test_the_operator_runs(monkeypatch):
    """Attention of every family goes through ``ms_deform_attn``, D-FINE's with its points of each level."""
    calls = []
    original = ops.ms_deform_attn

    def spy(*args, **options):
        calls.append(options.get("num_points"))
        return original(*args, **options)

    monkeypatch.setattr(ops, "ms_deform_attn", spy)
    for family in MAKERS:
        model = accelerate(small_detector(family))
        calls.clear()
        predictions(model, inputs_of(family, batch=1))
        assert len(calls) == accelerated(model)["deformable attention"], family
        if family == "D-FINE":
            assert list(calls[0]) == [3, 6, 2]


@pytest.mark.parametrize("family", ["RT-DETRv2", "D-FINE", "Deformable DETR"])
def test_attention_compiles(family):
    model = accelerate(small_detector(family))
    layer = next(m for m in model.modules() if "MultiscaleDeformableAttention" in type(m).__name__)
    dim, shapes = layer.d_model, [(4, 6), (2, 3), (1, 2), (1, 1)][: layer.n_levels]
    tokens = sum(h * w for h, w in shapes)
    sizes = torch.tensor(shapes)
    options = {
        "encoder_hidden_states": torch.randn(1, tokens, dim),
        "reference_points": torch.rand(1, 5, 1, 4).expand(1, 5, layer.n_levels if family[0:3] == "Def" else 1, 4),
        "spatial_shapes": sizes,
        "spatial_shapes_list": shapes,
        "level_start_index": sizes.prod(1).cumsum(0) - sizes.prod(1),
    }
    query = torch.randn(1, 5, dim)
    want = restore(copy.deepcopy(layer))(query, **options)[0]
    compiled = torch.compile(layer, backend="aot_eager")
    assert error(compiled(query, **options)[0], want) < 1e-5


def test_top_level():
    model = small_detector("RT-DETR")
    assert fastdet.accelerate(model, fold=False) is model and accelerated(model)
    assert fastdet.restore(model) is model and not accelerated(model)


def test_refusals():
    with pytest.raises(TypeError, match=r"accelerate: model must be a torch.nn.Module, got str"):
        accelerate("model")
    with pytest.raises(ValueError, match="Sequential has none"):
        accelerate(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
