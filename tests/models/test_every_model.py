# SPDX-License-Identifier: Apache-2.0
"""What every model of every family must do, generated from FAMILIES: build, run, fold, give gradients, save, load."""

from __future__ import annotations

import inspect

import pytest
import torch

from fastdet import models, ops
from fastdet.models import Targets
from fastdet.models.unfilled import unfilled

# What official files hold beside weights and fastdet computes: anchors of RT-DETR's fixed picture size.
CONSTANTS = {"rtdetrv2": {"decoder.anchors", "decoder.valid_mask"}}
NAMES = [name for family in models.FAMILIES.values() for name in family.SPECS]


def _smallest() -> list[str]:
    """The smallest model of each family and task; YOLOv5 has two heads for one of them."""
    found: dict = {}
    for family in models.FAMILIES.values():
        for spec in sorted(
            family.SPECS.values(), key=lambda spec: ("tiny" not in spec.name, getattr(spec, "width", 1))
        ):
            found.setdefault((spec.family, spec.task, spec.name[-1] == "u"), spec.name)
    return list(found.values())


SMALL = _smallest()


def tensors(raw):
    """All tensors in what a network returns, in order."""
    if isinstance(raw, torch.Tensor):
        return [raw]
    parts = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def second(raw):
    """Of what a network returns for two pictures, the part of the second."""
    if isinstance(raw, torch.Tensor):
        return raw[1:]
    if not isinstance(raw, tuple):
        return raw
    parts = [second(part) for part in raw]
    return type(raw)(*parts) if hasattr(raw, "_fields") else tuple(parts)


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def side(module):
    return 2 * module.spec.strides[-1]


def levelled(name, num_classes=5):
    """A model whose every parameter and statistic differs from its initial value, with signals of size 1 throughout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = models.build(name, num_classes)
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(layer.weight, 0.8, 1.2)
                torch.nn.init.normal_(layer.bias, 0, 0.1)
                layer.momentum = None
        with torch.no_grad():
            for parameter in module.parameters():
                if not parameter.any():  # RT-DETR's last box layers begin with zeros and let no gradient through
                    torch.nn.init.normal_(parameter, 0, 0.01)
            module.train()(torch.rand(2, 3, side(module), side(module)))
    return module


@pytest.fixture(scope="module", params=SMALL)
def model(request):
    return levelled(request.param)


def relative(got, want):
    return float((got - want).double().norm() / want.double().norm().clamp(min=1e-12))


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in state.items())


def fresh_copy(module):
    """The same weights in a newly built module, by way of the official keys."""
    with unfilled():
        other = models.build(module.spec, module.num_classes)
    return models.load_official(other, models.to_official(module))


@pytest.mark.parametrize("name", NAMES)
def test_official_keys_go_out_and_come_back_and_tell_the_model(name):
    with unfilled():
        module = models.build(name, 7)
    keys = models.FAMILIES[module.spec.family].key_map(module.spec)
    for ours in module.state_dict():
        assert keys.to_ours(keys.to_official(ours)) == ours
    official = models.to_official(module)
    weights = {keys.to_official(ours) for ours in module.state_dict()}
    assert set(official) - weights == CONSTANTS.get(module.spec.family, set()) and weights <= set(official)
    found, num_classes = models.recognise(official)
    assert found.family == module.spec.family and num_classes == 7
    if found.name != name:  # then both have the very same layout
        with unfilled():
            other = models.to_official(models.build(found, 7))
        assert [(key, value.shape) for key, value in other.items()] == [(k, v.shape) for k, v in official.items()]


def test_folded_equals_trained(model):
    module = fresh_copy(model).eval()
    batch = images(1, 3, side(module), 2 * side(module))
    with torch.no_grad():
        want = tensors(module(batch))
        module.fuse()
        got = tensors(module(batch))
    assert len(got) <= len(want) and not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())
    pairs = [(a, b) for a in got for b in want if a.shape == b.shape]
    assert all(min(relative(a, b) for b in want if a.shape == b.shape) < 1e-4 for a in got) and pairs


@pytest.mark.parametrize("shape", [(1, 1), (2, 1)], ids=["square", "tall"])
def test_gradients_reach_every_parameter(model, shape):
    module = fresh_copy(model).train()
    batch = images(2, 3, shape[0] * side(module), shape[1] * side(module))
    given = {}
    if "targets" in inspect.signature(module.forward).parameters:  # denoising queries are made of them
        boxes = torch.tensor([[3.0, 4.0, 40.0, 50.0], [10.0, 10.0, 30.0, 60.0]])
        given["targets"] = Targets([boxes, boxes], [torch.tensor([0, 3]), torch.tensor([1, 2])])
    outputs = [output for output in tensors(module(batch, **given)) if output.requires_grad]
    sum((output.float() * images(*output.shape)).sum() for output in outputs).backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_decoded_boxes(model):
    module = model.eval()
    raw_batch = images(2, 3, side(module), 2 * side(module))
    with torch.no_grad():
        raw = module(raw_batch)
        if module.spec.task in ("obb", "classify"):
            with pytest.raises(NotImplementedError, match="decode: "):
                module.decode(raw)
            return
        boxes, scores = module.decode(raw)
        alone = module(raw_batch[1:])
        one_of_two = module.decode(second(raw))
    assert boxes.shape[:2] == scores.shape[:2] and boxes.shape[-1] == 4 and scores.shape[-1] == 5
    assert boxes.dtype == scores.dtype == torch.float32
    assert (scores >= 0).all() and (scores <= 1).all()
    # YOLO26 regresses distances that may be negative; everybody else's sizes cannot be.
    assert module.spec.family == "yolo26" or (boxes[..., 2:] >= boxes[..., :2]).all()
    assert max(map(relative, tensors(alone), tensors(second(raw)))) < 5e-5
    assert relative(one_of_two[0][0], boxes[1]) < 1e-6 and relative(one_of_two[1][0], scores[1]) < 1e-6


def test_the_operator_decodes_as_the_head(model):
    module = model.eval()
    if module.spec.task in ("obb", "classify"):
        return
    with torch.no_grad():
        raw = module(images(2, 3, side(module), 2 * side(module)))
        maps = module.head_maps(raw)
        if maps is not None:
            for got, want in zip(ops.decode_boxes(*maps), module.decode(raw), strict=True):
                assert got.shape == want.shape and relative(got, want) < 1e-5


def test_saved_and_read_back(model, tmp_path):
    module = fresh_copy(model).eval()
    path = models.save_fastdet(tmp_path / "a.safetensors", module, dtype="float32")
    back = models.load_file(path)
    assert back.spec == module.spec and back.num_classes == 5
    assert same(module.state_dict(), back.state_dict())
    assert models.save_fastdet(tmp_path / "b.safetensors", back, dtype="float32").read_bytes() == path.read_bytes()
    other = models.load(path, num_classes=2)
    body = [{k: v for k, v in m.state_dict().items() if not k.startswith(m.head_prefix)} for m in (module, other)]
    assert other.num_classes == 2 and body[0] and same(*body)
    module.fuse()
    folded = models.load_file(models.save_fastdet(tmp_path / "a.safetensors", module, dtype="float32")).eval()
    batch = images(1, 3, side(module), side(module))
    with torch.no_grad():
        for a, b in zip(tensors(module(batch)), tensors(folded(batch)), strict=True):
            assert torch.equal(a, b)


def test_channels_last_changes_nothing(model):
    module = fresh_copy(model).eval().fuse()
    batch = images(1, 3, side(module), 2 * side(module))
    with torch.no_grad():
        want = tensors(module(batch))
        module.to(memory_format=torch.channels_last)
        got = tensors(module(batch.contiguous(memory_format=torch.channels_last)))
    assert max(map(relative, got, want)) < 1e-4
