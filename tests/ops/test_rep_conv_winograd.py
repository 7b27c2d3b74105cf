# SPDX-License-Identifier: Apache-2.0
"""rep_conv2d by Winograd's minimal filtering: what it computes, how exactly, where it is taken and where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from rep_conv_problems import Problem
from torch.nn import functional as F

from fastdet import _core, ops
from fastdet.ops import _torch_rep_conv

pytestmark = pytest.mark.skipif(
    bool(_core.rep_conv_winograd_missing()), reason="this processor or build has no winograd"
)

PROBLEMS = {
    "plain": Problem(batch=1, inputs=16, outputs=16, height=16, width=16),
    "tails": Problem(inputs=17, outputs=33, height=9, width=23, seed=1),
    "several-rows-of-tiles": Problem(batch=1, inputs=3, outputs=29, height=31, width=70, seed=2),
    "one-pixel": Problem(batch=3, inputs=5, outputs=2, height=1, width=1, seed=3),
    "one-column": Problem(inputs=2, outputs=15, height=40, width=1, seed=4),
    "no-padding": Problem(inputs=8, outputs=40, height=3, width=37, padding=(0, 0), seed=5),
    "wide-padding": Problem(inputs=4, outputs=7, height=6, width=5, padding=(2, 5), seed=6),
    "residual": Problem(inputs=9, outputs=14, height=13, width=10, residual=True, seed=7),
    "residual-first": Problem(inputs=9, outputs=14, height=13, width=11, residual=True, add_first=True, seed=8),
    "relu": Problem(inputs=20, outputs=3, activation="relu", residual=True, add_first=True, seed=9),
    "leaky": Problem(inputs=1, outputs=64, activation="leaky_relu", seed=10),
    "linear": Problem(inputs=64, outputs=1, activation="none", bias=False, seed=11),
}


def tensors(problem, last):
    layout = torch.channels_last if last else torch.contiguous_format
    return [
        torch.from_numpy(a).contiguous(memory_format=layout) if getattr(a, "ndim", 0) == 4
        else torch.from_numpy(a) if isinstance(a, np.ndarray) else a
        for a in problem.arguments("winograd")
    ]  # fmt: skip


def reference(arguments):
    given = [a.double().numpy() if torch.is_tensor(a) else a for a in arguments]
    return torch.from_numpy(np.asarray(ops.rep_conv2d_reference(*given)))


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_right_and_laid_out_as_promised(name, last):
    arguments = tensors(PROBLEMS[name], last)
    y = ops.REP_CONV2D(*arguments)
    torch.testing.assert_close(y.double(), reference(arguments), rtol=1e-5, atol=1e-5)
    told = _torch_rep_conv.fake(*arguments)
    assert [s for s, n in zip(y.stride(), y.shape) if n > 1] == [s for s, n in zip(told.stride(), told.shape) if n > 1]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_same_bits_for_every_number_of_threads_and_batch(last):
    arguments = tensors(replace(PROBLEMS["tails"], height=40, width=41), last)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            _core.set_num_threads(threads)
            results.append(ops.REP_CONV2D(*arguments))
        alone = ops.REP_CONV2D(arguments[0][1:].contiguous(memory_format=_torch_rep_conv.memory_format(arguments[0])),
                               *arguments[1:])  # fmt: skip
    finally:
        _core.set_num_threads(before)
    assert all(torch.equal(results[0], each) for each in results)
    assert torch.equal(results[0][1:], alone)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients(name, last):
    """SiLU is torch's where autograd follows."""
    arguments = tensors(PROBLEMS[name], last)
    given = [a.clone().requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    y, grad = ops.REP_CONV2D(*given), torch.randn(PROBLEMS[name].out_shape)
    unit = 1e-6 if PROBLEMS[name].activation == "silu" else 0
    torch.testing.assert_close(y.detach(), ops.REP_CONV2D(*arguments), rtol=unit, atol=unit)
    found = torch.autograd.grad(y, given[:2], grad, retain_graph=True)
    want = ops.rep_conv2d_backward_reference(
        *(a.double().numpy() if torch.is_tensor(a) else a for a in (grad, *arguments[:-1])), [True, True, False, False]
    )
    for a, b in zip(found, want):
        torch.testing.assert_close(a.double(), torch.from_numpy(b), rtol=1e-5, atol=1e-4)
    again = torch.autograd.grad(y, given[:2], grad)
    assert all(torch.equal(a, b) for a, b in zip(found, again))


def test_gradients_on_torchs_threads():
    """Where torch has several they compute, else the pool's: the same bits. (torch's SiLU has others.)"""
    before = torch.get_num_threads(), _core.num_threads()
    given = [a.requires_grad_() for a in tensors(replace(PROBLEMS["tails"], height=40, width=41), False)[:3]]
    grad, found = torch.randn(2, 33, 40, 41), []
    try:
        for ours in (1, 2, 4):
            for theirs in (1, 2, 3):
                _core.set_num_threads(ours)
                torch.set_num_threads(theirs)
                y = ops.rep_conv2d(*given, padding=1, activation="relu")
                found.append((y, *torch.autograd.grad(y, given[:1], grad)))
    finally:
        torch.set_num_threads(before[0])
        _core.set_num_threads(before[1])
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))


@pytest.mark.skipif("libtsan" in os.environ.get("LD_PRELOAD", ""), reason="ThreadSanitizer ends forked children")
def test_a_forked_child_computes_too():
    """Where the parent's threads are lost, torch's among them."""
    code = """
import os, torch
from fastdet import _core, ops
torch.set_num_threads(2)
_core.set_num_threads(2)
x = torch.randn(1, 16, 40, 40, requires_grad=True)
weight = torch.randn(16, 16, 3, 3)
y = ops.rep_conv2d(x, weight, padding=1, activation="none", backend="winograd")
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ops.rep_conv2d(x, weight, padding=1, activation="none", backend="winograd"), y) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_gradients_that_are_not_finite_stay_where_they_belong(last):
    x, weight, bias = tensors(replace(PROBLEMS["tails"], height=40, width=41), last)[:3]
    grad = torch.randn(2, 33, 40, 41)
    grad[1, 4, 20, 20] = np.inf
    found = []
    for conv in (ops.rep_conv2d, F.conv2d):
        x = x.detach().requires_grad_()
        options = {"activation": "none"} if conv is ops.rep_conv2d else {}
        found += torch.autograd.grad(conv(x, weight, bias, padding=1, **options), x, grad)
    ours, theirs = found
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    torch.testing.assert_close(ours[theirs.isfinite()], theirs[theirs.isfinite()], rtol=1e-4, atol=1e-4)


def test_threads_that_transform_the_filters_for_themselves():
    """Filters of one call are not taken for those of another."""
    x, weight, *rest = tensors(replace(PROBLEMS["tails"], height=40, width=41), False)
    packed = ops.pack_rep_conv(weight * 2, rest[0], padding=1)
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 3):
            _core.set_num_threads(threads)
            for factor in (1, 2, 3):
                results.append(ops.REP_CONV2D(x, weight * factor, *rest))
            results.append(packed(x))
            wide = torch.cat([weight] * 3)[:64]
            results.append(ops.REP_CONV2D(x, wide, None, *rest[1:]))
    finally:
        _core.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(results[:5], results[5:], strict=True))
    torch.testing.assert_close(results[3], results[1], rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients():
    """By torch's convolutions."""
    x, weight = (a.requires_grad_() for a in tensors(PROBLEMS["plain"], False)[:2])
    penalties = []
    for y in (ops.rep_conv2d(x, weight, padding=1, backend="winograd"), F.silu(F.conv2d(x, weight, padding=1))):
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), (x, weight)))
    for ours, theirs in zip(*penalties, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed):
    rng = np.random.default_rng(seed)
    pick = lambda most: int(rng.integers(1, most))  # noqa: E731
    problem = Problem(
        batch=pick(4), inputs=pick(40), outputs=pick(70), height=2 + pick(30), width=2 + pick(90),
        padding=(pick(3), pick(3)), activation=("silu", "relu", "leaky_relu", "none")[seed % 4],
        residual=seed % 3 > 0, add_first=seed % 3 > 1, seed=seed,
    )  # fmt: skip
    arguments = tensors(problem, seed % 2 == 1)
    torch.testing.assert_close(ops.REP_CONV2D(*arguments).double(), reference(arguments), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_stays_where_it_belongs(value, last):
    """Outputs whose windows do not hold the value are those without it."""
    arguments = tensors(PROBLEMS["plain"], last)
    x = arguments[0].clone(memory_format=torch.preserve_format)
    x[0, 3, 6, 7] = value
    y, clean = ops.REP_CONV2D(x, *arguments[1:]), ops.REP_CONV2D(*arguments)
    far = torch.ones(16, 16, dtype=torch.bool)
    far[5:8, 6:9] = False
    torch.testing.assert_close(y[..., far], clean[..., far], rtol=1e-5, atol=1e-5)
    want = F.silu(F.conv2d(x, *arguments[1:3], padding=1))
    assert torch.equal(y.isfinite(), want.isfinite())


def test_weights_that_are_not_finite():
    arguments = tensors(PROBLEMS["plain"], False)
    arguments[1][5, 2, 0, 0] = np.inf
    y, want = ops.REP_CONV2D(*arguments), F.silu(F.conv2d(*arguments[:3], padding=1))
    assert torch.equal(y.isfinite(), want.isfinite())


def test_error_is_that_of_a_sum_of_products():
    """Against float64, at the size of a layer: not worse than twice what torch's convolution does."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 128, 24, 24, generator=generator), torch.randn(32, 128, 3, 3, generator=generator)
    want = F.conv2d(x.double(), weight.double(), padding=1)
    ours = ops.rep_conv2d(x, weight, padding=1, activation="none", backend="winograd")
    theirs = F.conv2d(x, weight, padding=1)
    assert (ours - want).square().mean() < 4 * (theirs - want).square().mean()


def test_any_strides():
    arguments = tensors(PROBLEMS["residual"], False)
    want = ops.REP_CONV2D(*arguments)
    x, weight, residual = arguments[0], arguments[1], arguments[7]
    wider = torch.zeros(*x.shape[:3], 2 * x.shape[3])[..., ::2].copy_(x)
    turned = weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    given = [wider, turned, *arguments[2:7], residual.transpose(2, 3).contiguous().transpose(2, 3), *arguments[8:]]
    assert torch.equal(ops.REP_CONV2D(*given), want)
    part = torch.cat([x, x], 1)[:, : x.shape[1]]
    assert torch.equal(ops.REP_CONV2D(part, *arguments[1:]), want)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_packed(last):
    x, weight, bias, *_ = tensors(PROBLEMS["tails"], last)
    packed = ops.pack_rep_conv(weight, bias, padding=1)
    assert packed.backend == "winograd" and packed.why_not == ""
    residual = torch.randn(2, 33, 9, 23)
    y = packed(x, residual)
    assert y.is_contiguous(memory_format=torch.channels_last)
    moved = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, ops.rep_conv2d(moved, weight, bias, padding=1, residual=residual, backend="winograd"))
    with pytest.raises(ValueError, match=r"rep_conv2d: packed must be \(\d+,\), got \(7,\)"):
        _core.rep_conv2d_winograd(x, weight, torch.zeros(7), bias, [1, 1], "silu", None, False, last, False, False)


def test_gradients_follow():
    leaves = [a.requires_grad_() for a in tensors(PROBLEMS["plain"], False)[:3]]
    ours = torch.autograd.grad(ops.rep_conv2d(*leaves, padding=1, backend="winograd").square().sum(), leaves)
    theirs = torch.autograd.grad(F.silu(F.conv2d(*leaves, padding=1)).square().sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_where_it_is_taken():
    x, weight = torch.zeros(1, 16, 16, 16), torch.zeros(16, 16, 3, 3)
    assert ops.rep_conv2d_backend(x, weight, padding=1) == "winograd"
    assert ops.rep_conv2d_backend(x, weight, padding=1, stride=2) == "torch"
    assert ops.rep_conv2d_backend(x.bfloat16(), weight.bfloat16(), padding=1) != "winograd"
    assert ops.rep_conv2d_backend(x, weight[:8], padding=1) == "torch"
    assert ops.rep_conv2d_backend(x[..., :2, :2], weight, padding=1) == "torch"
    with ops.backend("cpu"):
        assert ops.rep_conv2d_backend(x, weight, padding=1) == "native"


REFUSED = [
    ({"x": torch.zeros(1, 4, 5, 5, dtype=torch.float64)}, "it computes float32, not float64"),
    ({"stride": 2}, "it computes 3x3 kernels of stride 1 in one group"),
    ({"weight": torch.zeros(4, 4, 1, 1)}, "it computes 3x3 kernels of stride 1 in one group"),
    ({"weight": torch.zeros(4, 2, 3, 3), "groups": 2}, "it computes 3x3 kernels of stride 1 in one group"),
    ({"x": torch.zeros(0, 4, 5, 5)}, "there is nothing to convolve"),
]


@pytest.mark.parametrize(("change", "why"), REFUSED)
def test_refusals(change, why):
    given = {"x": torch.zeros(1, 4, 5, 5), "weight": torch.zeros(4, 4, 3, 3), **change}
    given["weight"] = given["weight"].to(given["x"].dtype)
    with pytest.raises(RuntimeError, match=f"rep_conv2d: backend 'winograd' was asked for, but {why}"):
        ops.rep_conv2d(**given, backend="winograd")


def test_numpy_arrays():
    problem = PROBLEMS["tails"]
    x, weight, bias, _ = problem.arrays()
    want = ops.rep_conv2d(*map(torch.from_numpy, (x, weight, bias)), padding=1, backend="winograd")
    assert np.array_equal(ops.rep_conv2d(x, weight, bias, padding=1, backend="winograd"), want.numpy())
    assert ops.rep_conv2d_backend(x, weight, padding=1) == "winograd"
    assert ops.rep_conv2d_backend(x, weight, stride=2) == "native"
    with pytest.raises(RuntimeError, match="backend 'winograd' was asked for, but it computes 3x3 kernels of stride 1"):
        ops.rep_conv2d(x, weight, stride=2, backend="winograd")
