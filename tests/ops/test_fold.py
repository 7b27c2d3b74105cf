# SPDX-License-Identifier: Apache-2.0
"""Folding: one convolution computes what convolution + BatchNorm, or a sum of branches, computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fastdet import ops
from fastdet.models import fuse
from fastdet.ops import BatchNorm, RepBranch

EPS = (1e-3, 1e-5)


def statistics(rng, channels, eps, *, affine=True, smallest=-12):
    """Random BatchNorm whose variances reach from 10^smallest to 10^3."""
    return BatchNorm(
        rng.normal(1, 0.5, channels) if affine else None,
        rng.normal(0, 1, channels) if affine else None,
        rng.normal(0, 2, channels),
        10.0 ** rng.uniform(smallest, 3, channels),
        eps,
    )


def applied(bn, y):
    """A BatchNorm in eval mode, float64 torch."""
    if bn is None:
        return y
    given = [None if a is None else torch.as_tensor(a, dtype=torch.float64) for a in bn[:4]]
    return F.batch_norm(y, given[2], given[3], given[0], given[1], False, 0.0, bn.eps)


def summed(branches, x, *, stride=1, groups=1, bn_after=None):
    """The branches as they stand, in float64."""
    total = 0.0
    for branch in branches:
        y = x
        if branch.weight is not None:
            weight = torch.as_tensor(branch.weight, dtype=torch.float64)
            bias = None if branch.bias is None else torch.as_tensor(branch.bias, dtype=torch.float64)
            y = F.conv2d(x, weight, bias, stride, [(k - 1) // 2 for k in weight.shape[2:]], 1, groups)
        total = total + applied(branch.bn, y)
    return applied(bn_after, total)


def agree(y, want, tolerance):
    error = float((y - want).abs().max()) / max(float(want.abs().max()), 1e-30)
    assert error < tolerance, error


# name -> (kernels of the branches, 0 for the identity), groups as a function of channels
FORMS = {
    "repvgg": ((3, 1, 0), lambda c: 1),
    "repvgg-groups": ((3, 1, 0), lambda c: 4),
    "repconv": ((3, 1), lambda c: 1),
    "repvggdw": ((7, 3), lambda c: c),
    "large-kernel": ((13, 5, 3, 1, 0), lambda c: c),
    "mobileone": ((3, 3, 3, 1, 0), lambda c: c),
    "point-identity": ((1, 0), lambda c: 2),
}


def random_branches(rng, form, channels, eps, dtype=np.float32, *, biased=False, bare=()):
    kernels, groups_of = FORMS[form]
    groups = groups_of(channels)
    branches = []
    for i, k in enumerate(kernels):
        bn = None if i in bare else statistics(rng, channels, eps)
        if k == 0:
            branches.append(RepBranch(bn=bn))
            continue
        weight = rng.normal(0, 1 / k, (channels, channels // groups, k, k)).astype(dtype)
        bias = rng.normal(0, 1, channels).astype(dtype) if biased else None
        branches.append(RepBranch(weight, bias, bn))
    return branches, groups


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("channels", [4, 8, 12, 16, 20])
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_folded_equals_branches(form, stride, eps, channels, biased, kind):
    """float32 result: within 1e-5 of the branches in float64, relative to the largest output."""
    rng = np.random.default_rng(len(form) + stride + 31 * channels)
    branches, groups = random_branches(rng, form, channels, eps, biased=biased)
    if stride == 2:
        branches = [b for b in branches if b.weight is not None]
    x = torch.from_numpy(rng.normal(0, 1, (2, channels, 14, 15)))
    given = [tensors_of(b) for b in branches] if kind == "torch" else branches
    weight, bias = ops.fold_rep_conv(given, groups=groups)
    if kind == "numpy":
        assert isinstance(weight, np.ndarray)
        weight, bias = torch.from_numpy(weight), torch.from_numpy(bias)
    assert weight.dtype == bias.dtype == torch.float32
    padding = [(k - 1) // 2 for k in weight.shape[2:]]
    y = F.conv2d(x, weight.double(), bias.double(), stride, padding, 1, groups)
    agree(y, summed(branches, x, stride=stride, groups=groups), 1e-5)


def tensors_of(branch):
    """The branch in torch tensors."""
    tensor = lambda a: torch.from_numpy(a) if isinstance(a, np.ndarray) else a  # noqa: E731
    bn = None if branch.bn is None else BatchNorm(*map(tensor, branch.bn))
    return RepBranch(tensor(branch.weight), tensor(branch.bias), bn)


@pytest.mark.parametrize("form", FORMS)
def test_float64_keeps_what_it_has(form):
    rng = np.random.default_rng(3)
    branches, groups = random_branches(rng, form, 8, 1e-3, np.float64)
    x = torch.from_numpy(rng.normal(0, 1, (1, 8, 9, 9)))
    weight, bias = map(torch.from_numpy, ops.fold_rep_conv(branches, groups=groups))
    y = F.conv2d(x, weight, bias, 1, [(k - 1) // 2 for k in weight.shape[2:]], 1, groups)
    agree(y, summed(branches, x, groups=groups), 1e-12)


def test_qarep_batch_norm_after_the_sum():
    """QARepVGG: BatchNorm behind the 3x3, none behind the 1x1 (with bias) and the identity, one behind the sum."""
    rng = np.random.default_rng(5)
    branches, _ = random_branches(rng, "repvgg", 6, 1e-5, biased=True, bare=(1, 2))
    after = statistics(rng, 6, 1e-5)
    x = torch.from_numpy(rng.normal(0, 1, (2, 6, 11, 7)))
    weight, bias = map(torch.from_numpy, ops.fold_rep_conv(branches, bn_after=after))
    agree(F.conv2d(x, weight.double(), bias.double(), padding=1), summed(branches, x, bn_after=after), 1e-5)


@given(
    channels=st.integers(1, 9),
    inputs=st.integers(1, 5),
    kernel=st.sampled_from([1, 3, 5, 7]),
    seed=st.integers(0, 2**31),
    eps=st.sampled_from(EPS),
    affine=st.booleans(),
    biased=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_fold_conv_bn_on_random_statistics(channels, inputs, kernel, seed, eps, affine, biased):
    """Also where variances lie far below eps or are 0."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (channels, inputs, kernel, kernel)).astype(np.float32)
    bias = rng.normal(0, 1, channels).astype(np.float32) if biased else None
    bn = statistics(rng, channels, eps, affine=affine, smallest=-30)
    bn.var[rng.random(channels) < 0.2] = 0.0
    folded, shift = ops.fold_conv_bn(weight, bias, *bn)
    x = torch.from_numpy(rng.normal(0, 1, (1, inputs, 8, 8)))
    y = F.conv2d(x, torch.from_numpy(folded).double(), torch.from_numpy(shift).double(), padding=kernel // 2)
    agree(y, summed([RepBranch(weight, bias, bn)], x), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_and_numpy_fold_alike(dtype):
    rng = np.random.default_rng(7)
    branches, groups = random_branches(rng, "repvgg-groups", 8, 1e-3)
    rounded = [b._replace(weight=None if b.weight is None else torch.from_numpy(b.weight).to(dtype)) for b in branches]
    tensors = [
        b._replace(bn=BatchNorm(*[torch.from_numpy(a).requires_grad_() for a in b.bn[:4]], b.bn.eps)) for b in rounded
    ]
    arrays = [b._replace(weight=None if b.weight is None else b.weight.double().numpy()) for b in rounded]
    weight, bias = ops.fold_rep_conv(tensors, groups=groups)
    want_weight, want_bias = ops.fold_rep_conv(arrays, groups=groups)
    assert weight.dtype == bias.dtype == dtype and not weight.requires_grad
    assert torch.equal(weight, torch.from_numpy(want_weight).to(dtype))
    assert torch.equal(bias, torch.from_numpy(want_bias).to(dtype))


def test_a_linear_layer_folds_too():
    rng = np.random.default_rng(8)
    bn = statistics(rng, 5, 1e-5)
    weight = rng.normal(0, 1, (5, 3))
    x = torch.from_numpy(rng.normal(0, 1, (10, 3)))
    folded, shift = map(torch.from_numpy, ops.fold_conv_bn(weight, None, *bn))
    agree(F.linear(x, folded, shift), applied(bn, F.linear(x, torch.from_numpy(weight))), 1e-12)


def test_inputs_stay_as_they_were():
    rng = np.random.default_rng(9)
    branches, _ = random_branches(rng, "repvgg", 4, 1e-3)
    before = [np.array(a) for b in branches for a in (b.weight, *b.bn[:4]) if a is not None]
    ops.fold_rep_conv(branches)
    after = [a for b in branches for a in (b.weight, *b.bn[:4]) if a is not None]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def layer(kernel, channels=6, seed=0, **options):
    torch.manual_seed(seed)
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False, **options)
    bn = nn.BatchNorm2d(channels).eval()
    nn.init.normal_(bn.running_mean)
    nn.init.uniform_(bn.running_var, 1e-6, 2)
    nn.init.normal_(bn.weight)
    return conv, bn


def test_layers_fold_through_the_same_arithmetic():
    """models.fuse is these functions on nn.Module; an identity branch has no convolution."""
    dense, point, alone = layer(3), layer(1, seed=1), layer(1, seed=2)[1]
    x = torch.randn(1, 6, 9, 9)
    folded = fuse.fold_rep_conv([dense, point, (None, alone)])
    want = dense[1](dense[0](x)) + point[1](point[0](x)) + alone(x)
    torch.testing.assert_close(folded(x), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fuse.fold_conv_bn(*dense)(x), dense[1](dense[0](x)), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="BatchNorm2d, got GroupNorm"):
        fuse.fold_conv_bn(dense[0], nn.GroupNorm(1, 6))


W, V = np.ones((4, 2, 3, 3), np.float32), np.ones(4, np.float32)
WRONG = [
    (lambda: ops.fold_conv_bn(W, None, V, V, V, -V, 1e-3), ValueError, r"running_var \+ eps must be positive, got -0"),
    (lambda: ops.fold_conv_bn(W, None, V, V, V, V * np.nan, 1e-3), ValueError, "must be positive, got nan"),
    (lambda: ops.fold_conv_bn(W, None, V, V, V[:3], V, 1e-3), ValueError, r"running_mean must be \(4,\)"),
    (lambda: ops.fold_conv_bn(W, V[:1], V, V, V, V, 1e-3), ValueError, r"bias must be \(4,\) .* got float32 \(1,\)"),
    (lambda: ops.fold_conv_bn(V, None, V, V, V, V, 1e-3), ValueError, r"weight must be \(O, I, ...\), got \(4,\)"),
    (lambda: ops.fold_conv_bn([1.0], None, V, V, V, V, 1e-3), TypeError, "floating point array .* got list"),
    (lambda: ops.fold_conv_bn(W.astype(int), None, V, V, V, V, 1e-3), TypeError, "weight must be .* got int64"),
    (lambda: ops.fold_conv_bn(torch.ones(4, 2, dtype=torch.int8), None, V, V, V, V, 1e-3), TypeError, "got torch.int8"),
    (lambda: ops.fold_rep_conv([]), ValueError, "at least one convolution, got 0 branches"),
    (lambda: ops.fold_rep_conv([(W, None)]), TypeError, r"branches\[0\] must be a RepBranch, got tuple"),
    (lambda: ops.fold_rep_conv([RepBranch()]), ValueError, "at least one convolution, got 1 branches"),
    (lambda: ops.fold_rep_conv([RepBranch(W), RepBranch(W[:2])]), ValueError, r"\(4, 2, kh, kw\) like the first"),
    (lambda: ops.fold_rep_conv([RepBranch(W), RepBranch(W[..., :2])]), ValueError, "common centre"),
    (lambda: ops.fold_rep_conv([RepBranch(W), RepBranch()]), ValueError, "got 2 and 4"),
    (lambda: ops.fold_rep_conv([RepBranch(W), RepBranch()], groups=0), ValueError, "groups 0"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
