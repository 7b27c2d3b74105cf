# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastdet import models
from fastdet.train.depthwise import DepthwiseConv2d, use_fast_depthwise


@pytest.mark.parametrize("kernel,stride", [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_gradients_equal_torch_up_to_bfloat16(kernel, stride):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16, bias=False)
    fast = nn.Sequential(copy.deepcopy(plain))
    assert use_fast_depthwise(fast) == 1 and isinstance(fast[0], DepthwiseConv2d)
    x = torch.randn(2, 16, 13, 18).bfloat16().float()
    results = []
    for module, enabled in ((plain, False), (fast, True)):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = module(given)
        grad = torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16()
        out.backward(grad.to(out.dtype))
        weight = module.weight if enabled is False else module[0].weight
        results.append((out.float(), given.grad, weight.grad))
    assert results[1][2].dtype == torch.float32
    for expected, got in zip(*results):
        # 8 bits of mantissa in weights and outputs
        assert (got - expected).abs().max() <= 0.012 * expected.abs().max()


def test_without_autocast_nothing_changes():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    fast = copy.deepcopy(plain)
    use_fast_depthwise(fast)
    x = torch.randn(1, 8, 9, 9)
    for module in (plain, fast):
        module(x).square().sum().backward()
    assert torch.equal(plain(x), fast(x)) and torch.equal(plain.weight.grad, fast.weight.grad)


def test_other_convolutions_stay():
    others = nn.ModuleList(
        [
            nn.Conv2d(8, 8, 3, groups=8),  # has a bias
            nn.Conv2d(8, 16, 3, groups=8, bias=False),
            nn.Conv2d(8, 8, 3, groups=4, bias=False),
            nn.Conv2d(8, 8, 3, groups=8, bias=False, dilation=2),
            nn.Conv2d(8, 8, 3, groups=8, bias=False, padding="same"),
            nn.Conv2d(8, 8, (3, 5), groups=8, bias=False, padding=(1, 2)),
            nn.Conv2d(8, 8, 3, bias=False),
        ]
    )
    assert use_fast_depthwise(others) == 0


def test_a_copy_uses_its_own_weights():
    module = models.build("damo-yolo-ns", num_classes=2)
    assert use_fast_depthwise(module) == 24
    other = copy.deepcopy(module)
    keys = list(module.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert keys == list(other.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert all(not level.any() for level in other.eval()(torch.ones(1, 3, 64, 64)).reg_logits)
