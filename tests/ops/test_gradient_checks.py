# SPDX-License-Identifier: Apache-2.0
"""The harness's gradient checks, on an operator made for them: right gradients pass, wrong ones are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastdet.ops._backend import Op, kept_inputs
from fastdet.testing.ops import DOUBLE_VARIANTS, VARIANTS, Case, check, check_gradients, check_torch, zero_sizes


def scaled_product_reference(a, b, scale):
    """a b scale, in the dtype of ``a``, and the count of positive products."""
    wide = np.float64 if a.dtype == np.float64 else np.float32
    product = a.astype(wide) * b.astype(wide) * wide(scale)
    return product.astype(a.dtype), np.asarray((product > 0).sum(), np.int64)


def scaled_product_backward_reference(grad, a, b, scale):
    wide = np.float64 if a.dtype == np.float64 else np.float32
    by_scale = grad.astype(wide) * wide(scale)
    return (by_scale * b.astype(wide)).astype(a.dtype), (by_scale * a.astype(wide)).astype(b.dtype)


def native(reference):
    """An implementation for any array and backend, by way of the reference."""

    def run(*args):
        *arrays, _ = args
        like = arrays[0]
        if isinstance(like, np.ndarray):
            return reference(*arrays)
        import torch

        host = [x.detach().float().numpy() if getattr(x, "dtype", 0) == torch.bfloat16 else x for x in arrays]
        host = [x.detach().numpy() if torch.is_tensor(x) else x for x in host]
        results = [torch.from_numpy(np.array(r)) for r in reference(*host)]
        return tuple(r.to(like.dtype) if r.is_floating_point() else r for r in results)

    return run


def backward(ctx, grad, _):
    a, b, scale = kept_inputs(ctx)
    return (*BACKWARD(grad, a, b, scale), None)


def fake(a, b, scale):
    import torch

    return torch.empty_like(a, memory_format=torch.contiguous_format), a.new_empty((), dtype=torch.int64)


def fake_backward(grad, a, b, scale):
    return a.new_empty(a.shape), b.new_empty(b.shape)


BACKWARD = Op(
    name="test_scaled_product_backward",
    schema="(Tensor grad, Tensor a, Tensor b, float scale) -> (Tensor, Tensor)",
    native=native(scaled_product_backward_reference),
    reference=scaled_product_backward_reference,
    fake=fake_backward,
    dtypes_of=(1, 2),
)
FORWARD = Op(
    name="test_scaled_product",
    schema="(Tensor a, Tensor b, float scale) -> (Tensor, Tensor)",
    native=native(scaled_product_reference),
    reference=scaled_product_reference,
    fake=fake,
    backward=backward,
    dtypes_of=(0, None),
)


def case(name, op=FORWARD, **sizes):
    shape = tuple({"batch": 3, "rows": 5, **sizes}.values())

    def make():
        draw = np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)
        return (draw[0], draw[1], 0.75) if op is FORWARD else (*draw, 0.75)

    arrays = tuple(range(2 if op is FORWARD else 3))
    return Case(name, op, make, floats=arrays, doubles=arrays, batch=tuple((i, 0) for i in arrays))


CASES = [case("plain"), *zero_sizes(case, {"batch": 3, "rows": 5}), case("backward", BACKWARD)]


@pytest.fixture(autouse=True, scope="module")
def registered():
    from fastdet.ops import _torch

    for op in (BACKWARD, FORWARD):
        _torch.register(op)


@pytest.mark.parametrize("variant", (*VARIANTS, *DOUBLE_VARIANTS))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=str)
def test_torch_library(case):
    check_torch(case)


@pytest.mark.parametrize("at", [(0, 1), (0,), (1,)])
def test_gradients(at):
    check_gradients(CASES[0], at)


def planted(name, wrong):
    """The operator with ``wrong(grads, grad, b)`` instead of its gradients."""
    from fastdet.ops import _torch

    def broken(ctx, grad, _):
        a, b, scale = kept_inputs(ctx)
        return (*wrong(BACKWARD(grad, a, b, scale), grad, b), None)

    op = replace(FORWARD, name=f"test_scaled_product_{name}", backward=broken)
    _torch.register(op)
    return replace(CASES[0], op=op)


runs = []
WRONG = {
    "value": (lambda g, grad, b: (g[0] * 1.001, g[1]), "Jacobian"),
    "swapped": (lambda g, grad, b: (g[1], g[0]), "Jacobian"),
    "strides": (lambda g, grad, b: (g[0] * (1 if grad.is_contiguous() else 2), g[1]), "strided"),
    "unrepeatable": (lambda g, grad, b: (g[0] + 1e-7 * (runs.append(0) or len(runs)), g[1]), "not reentrant"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradients_are_found(name):
    wrong, message = WRONG[name]
    case = planted(name, wrong)
    with pytest.raises((AssertionError, RuntimeError), match=f"(?s){message}"):
        check_gradients(case, (0, 1), analytic=name != "strides")


def test_second_derivatives_are_refused():
    import torch

    a = torch.ones(3, requires_grad=True)
    product, _ = FORWARD(a, torch.ones(3), 2.0)
    with pytest.raises(ValueError, match="has no gradient"):
        torch.autograd.grad(product.sum(), a, create_graph=True)
