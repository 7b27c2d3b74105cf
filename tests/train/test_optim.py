# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from fastdet import models
from fastdet.train.ema import Ema
from fastdet.train.optim import build_optimizer, learning_rate, split_parameters


@pytest.fixture(scope="module")
def nano():
    torch.manual_seed(0)
    return models.build("damo-yolo-ns", num_classes=2)


def test_no_decay_on_biases_and_norms(nano):
    decayed, plain = split_parameters(nano)
    assert {id(p) for p in decayed} | {id(p) for p in plain} == {id(p) for p in nano.parameters()}
    assert len(decayed) + len(plain) == len(list(nano.parameters()))
    names = {id(parameter): name for name, parameter in nano.named_parameters()}
    assert all(p.ndim == 4 or ".scales." in names[id(p)] for p in decayed)
    assert all(names[id(p)].endswith(".bias") or ".bn" in names[id(p)] for p in plain)


def test_shared_and_frozen_parameters_count_once():
    layer = nn.Linear(2, 2)
    both = nn.Sequential(layer, layer, nn.LayerNorm(2))
    both[2].bias.requires_grad_(False)
    decayed, plain = split_parameters(both)
    assert [p.shape for p in decayed] == [(2, 2)] and [p.shape for p in plain] == [(2,), (2,)]


@pytest.mark.parametrize("kind,factor", [("adamw", 0.95), ("sgd", 0.905)])  # Nesterov: 1 - 0.5 * 0.1 * 1.9
def test_decay_moves_weights_only(kind, factor):
    layer = nn.Linear(3, 3)
    optimizer = build_optimizer(layer, kind, lr=0.5, weight_decay=0.1)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.data, before["weight"] * factor)
    assert torch.equal(layer.bias.data, before["bias"])


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="kind must be one of"):
        build_optimizer(nn.Linear(1, 1), "lion", lr=1, weight_decay=0)


def test_schedule():
    rates = [learning_rate(s, peak=2.0, warmup=10, total=100, flat=20, floor=0.1) for s in range(100)]
    assert rates[0] == pytest.approx(0.02) and rates[9] == pytest.approx(2.0) and rates[10] == pytest.approx(2.0)
    assert rates[45] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half of the way down
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[80:] == pytest.approx([0.2] * 20)
    assert learning_rate(0, peak=1.0, warmup=0, total=1, flat=1, floor=0.05) <= 1.0


def test_ema_equals_slow_average():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    ema = Ema(module, decay=0.9, tau=4.0)
    slow = {name: value.double().clone() for name, value in module.state_dict().items()}
    for update in range(1, 8):
        module(torch.randn(2, 2, 4, 4))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(module)
        decay = 0.9 * (1 - math.exp(-update / 4.0))
        slow = {k: decay * slow[k] + (1 - decay) * v.double() for k, v in module.state_dict().items()}
    averaged = ema.module.state_dict()
    for name, value in averaged.items():
        if name.endswith("num_batches_tracked"):
            assert value == 7
        else:
            torch.testing.assert_close(value.double(), slow[name], rtol=1e-5, atol=1e-6)
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())


def test_ema_leaves_the_module_alone(nano):
    module = copy.deepcopy(nano)
    ema = Ema(module, 0.99, 10)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    ema.update(module)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with pytest.raises(ValueError, match="decay must be in"):
        Ema(module, 1.0, 10)
