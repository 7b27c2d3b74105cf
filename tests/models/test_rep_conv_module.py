# SPDX-License-Identifier: Apache-2.0
"""RepConv2d: branches and their folded form compute the same; folding, packing, copying, exporting."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastdet import models, ops
from fastdet.models import RepConv2d
from fastdet.models.fuse import fuse

FORMS = {
    "repvgg": {"identity": True},
    "repconv": {},
    "repconv-down": {"stride": 2},
    "wider": {"c_out": 16, "act": "relu"},
    "grouped": {"identity": True, "groups": 4},
    "depthwise-large": {"kernel": 7, "inner_kernel": 3, "groups": 8},
    "plain-point": {"kernel": 1, "inner_kernel": None, "act": "leaky_relu"},
    "linear-five": {"kernel": 5, "inner_kernel": None, "act": "none"},
    "residual-first": {"add_first": True, "act": "relu"},
}


def trained(form, *, seed=0):
    """The block with BatchNorm statistics and parameters as training leaves them, in eval mode."""
    torch.manual_seed(seed)
    block = RepConv2d(8, **{"c_out": 8, **FORMS[form]})
    for bn in block.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.normal_(bn.weight, 1, 0.3)
            nn.init.normal_(bn.bias)
            nn.init.normal_(bn.running_mean)
            nn.init.uniform_(bn.running_var, 0.1, 2)
    return block.eval()


def given(form, block, dtype=torch.float32):
    x = torch.randn(2, 8, 10, 11, dtype=dtype)
    with torch.no_grad():
        residual = torch.randn_like(block(x)) if form.startswith("residual") else None
    return x, residual


@pytest.mark.parametrize("form", FORMS)
def test_folded_equals_branches(form):
    block = trained(form)
    x, residual = given(form, block)
    with torch.no_grad():
        want = block(x, residual)
        assert block.fuse() is block and block.fuse() is block
        got = block(x, residual)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert sorted(block.state_dict()) == ["bias", "weight"]
    # The same with gradients asked for: then torch's own operators run.
    torch.testing.assert_close(block(x, residual), got, rtol=1e-4, atol=1e-5)
    for backend in ("cpu", "reference"):
        with torch.no_grad(), ops.backend(backend):
            torch.testing.assert_close(block(x, residual), got, rtol=1e-4, atol=1e-5)


def test_names_of_the_branches():
    names = set(trained("repvgg").state_dict())
    convolutions = {f"{branch}.conv.weight" for branch in ("dense", "inner")}
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = {f"{norm}.{key}" for norm in ("dense.bn", "inner.bn", "identity") for key in statistics}
    assert names == convolutions | norms


def test_trains_as_branches_and_as_one():
    """Gradients reach every parameter in either form, and a step of the folded form is seen by the packed one."""
    block = trained("repvgg").train()
    x = torch.randn(2, 8, 6, 6)
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    block.eval().fuse()
    with torch.no_grad():
        before = block(x)
    block(x).square().sum().backward()
    torch.optim.SGD(block.parameters(), 0.01).step()
    with torch.no_grad():
        after = block(x)
        want = F.silu(F.conv2d(x, block.weight, block.bias, padding=1))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-5)


def test_packed_weight_follows_its_parameters():
    block, other = trained("repconv").fuse(), trained("repconv", seed=1).fuse()
    x = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        block(x)
        block.load_state_dict(other.state_dict())
        torch.testing.assert_close(block(x), other(x))
        want = block(x)
        assert block.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
        torch.testing.assert_close(block.double()(x.double()).float(), want, rtol=2e-2, atol=2e-2)
    with torch.inference_mode():
        made = trained("repconv").fuse()
        torch.testing.assert_close(made(x), made(x))


@pytest.mark.parametrize("after_use", [False, True])
def test_copies_and_files(after_use):
    block = trained("repconv").fuse()
    x = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        want = block(x) if after_use else None
        twin = copy.deepcopy(block)
        torch.testing.assert_close(twin(x), block(x) if want is None else want)
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    assert file.tell() > 0


def test_fuse_of_a_network_reaches_it():
    net = nn.Sequential(trained("repvgg"), trained("repconv-down")).eval()
    x = torch.randn(1, 8, 9, 9)
    with torch.no_grad():
        want = net(x)
        torch.testing.assert_close(fuse(net)(x), want, rtol=1e-4, atol=1e-5)
    assert all(block.dense is None and block.inner is None and block.identity is None for block in net)


def test_from_conv():
    conv = nn.Conv2d(8, 6, (3, 1), (2, 1), (1, 0), groups=2)
    block = RepConv2d.from_conv(conv, act="relu").eval()
    assert block.weight is conv.weight and block.c_out == 6
    x = torch.randn(1, 8, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(block(x), F.relu(conv(x)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no dilation"):
        RepConv2d.from_conv(nn.Conv2d(8, 8, 3, dilation=2))
    with pytest.raises(ValueError, match="no dilation and pad with numbers of zeros"):
        RepConv2d.from_conv(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"))


@pytest.mark.parametrize("folded", [False, True])
def test_export_and_compile_hold_plain_operators(folded):
    block = trained("repvgg")
    block = block.fuse() if folded else block
    x = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        want = block(x)
        program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
        wide = torch.cat([x, x, x])
        torch.testing.assert_close(program.module()(wide), block(wide), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), want)
        torch.testing.assert_close(torch.jit.trace(block, x)(x), want)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in called and not any("fastdet" in name or "mkldnn" in name for name in called)


def test_under_autocast_it_is_torch():
    block = trained("repconv").fuse()
    x = torch.randn(1, 8, 5, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x).dtype == torch.bfloat16


WRONG = [
    ({"identity": True, "stride": 2}, "identity needs c_in == c_out and stride 1, got 8, 8 and stride 2"),
    ({"kernel": 4}, "kernels must be odd, the inner one smaller, got 4 and 1"),
    ({"kernel": 3, "inner_kernel": 3}, "the inner one smaller, got 3 and 3"),
    ({"act": "gelu"}, "act must be one of none, relu, silu, leaky_relu, got 'gelu'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=f"RepConv2d: .*{message}"):
        models.RepConv2d(8, 8, **options)
