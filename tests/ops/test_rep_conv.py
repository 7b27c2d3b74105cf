# SPDX-License-Identifier: Apache-2.0
"""rep_conv2d and bias_act: the case tables, every implementation, gradients, the choice, refusals."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from rep_conv_problems import PROBLEMS, SPECIAL, Problem, square

from fastdet import _core, ops
from fastdet.ops import _backend, _torch_rep_conv
from fastdet.testing.ops import ORDERS, VARIANTS, Case, check, check_gradients, check_torch, cuda_kind, set_thread_order

REP_CONV2D, BACKWARD, BIAS_ACT = ops.REP_CONV2D, ops.REP_CONV2D_BACKWARD, ops.BIAS_ACT
HOST = [v for v in VARIANTS if not v.startswith("cuda")]
CUDA = [v for v in VARIANTS if v.startswith("cuda")]


def positions(arguments):
    return tuple(i for i, a in enumerate(arguments) if isinstance(a, np.ndarray))


def forward(name, problem, method="auto"):
    arguments = problem.arguments(method)
    batch = tuple((i, 0) for i in positions(arguments) if i in (0, 7))
    make = lambda: problem.arguments(method)  # noqa: E731
    return Case(name, REP_CONV2D, make, floats=positions(arguments), rtol=1e-5, atol=1e-5, batch=batch)


def backward(name, problem, wanted=(True, True, True, True)):
    make = lambda: problem.backward_arguments(wanted)  # noqa: E731
    return Case(name, BACKWARD, make, floats=positions(make()), rtol=1e-4, atol=1e-4)


def epilogue(name, problem):
    make = problem.epilogue_arguments
    return Case(name, BIAS_ACT, make, floats=positions(make()), rtol=1e-6, atol=1e-7)


CASES = [forward(name, problem) for name, problem in {**PROBLEMS, **SPECIAL}.items()]
EPILOGUES = [
    epilogue(f"{name}-{size}", replace(problem, **sizes))
    for size, sizes in {
        "odd": {},
        "packs": {"outputs": 8, "height": 4, "width": 4},
        "one": {"outputs": 1, "height": 1, "width": 1},
        "none": {"batch": 0},
    }.items()
    for name, problem in SPECIAL.items()
]
BACKWARD_CASES = [
    backward("plain", PROBLEMS["plain"]),
    backward("linear", PROBLEMS["linear"]),
    backward("residual-first", PROBLEMS["residual-first"]),
    backward("leaky", PROBLEMS["residual-leaky"]),
    backward("depthwise", PROBLEMS["depthwise"]),
    backward("down-odd", PROBLEMS["down-odd"]),
    backward("unbiased", PROBLEMS["unbiased"]),
    backward("no-pictures", PROBLEMS["no-pictures"]),
    backward("no-inputs", PROBLEMS["no-inputs"]),
    backward("no-outputs", PROBLEMS["no-outputs"]),
    backward("weight-alone", PROBLEMS["groups"], (False, True, False, False)),
]


@pytest.mark.parametrize("variant", HOST)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", EPILOGUES, ids=str)
def test_epilogue(case, variant):
    """The same bits on CPU and CUDA."""
    check(case, variant)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", BACKWARD_CASES, ids=str)
def test_backward(case, variant):
    check(case, variant)


def tensors(problem, *, last=False, dtype=torch.float32):
    """Positional arguments with torch tensors."""
    layout = torch.channels_last if last else torch.contiguous_format

    def tensor(a):
        if not isinstance(a, np.ndarray):
            return a
        made = torch.from_numpy(a).to(dtype)
        return made.contiguous(memory_format=layout) if made.ndim == 4 else made

    return tuple(tensor(a) for a in problem.arguments())


def close(y, arguments):
    """Within the accuracy of the dtype of the reference on the same (rounded) values."""
    given = [a.double().numpy() if torch.is_tensor(a) else a for a in arguments]
    want = torch.from_numpy(np.asarray(ops.rep_conv2d_reference(*given)))
    unit = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2}[y.dtype]
    torch.testing.assert_close(y.double(), want, rtol=unit, atol=unit, equal_nan=True)


def run_by(method, arguments):
    return REP_CONV2D(*arguments[:-1], method)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("method", ["native", "onednn", "torch"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_implementation_in_both_layouts(name, method, last):
    """Right, laid out as promised, and the same bits each time."""
    problem = PROBLEMS[name]
    arguments = tensors(problem, last=last)
    if method == "onednn" and _torch_rep_conv.obstacle("onednn", *arguments[:2], 1, "auto"):
        pytest.skip("nothing to convolve")
    y = run_by(method, arguments)
    close(y, arguments)
    told = _torch_rep_conv.fake(*arguments)
    assert y.numel() == 0 or [s for s, n in zip(y.stride(), y.shape) if n > 1] == [
        s for s, n in zip(told.stride(), told.shape) if n > 1
    ]
    for _ in range(2):
        assert torch.equal(run_by(method, arguments), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", ["plain", "residual", "resnet", "resnext", "depthwise", "down", "point"])
def test_other_dtypes_as_chosen(name, last, dtype):
    arguments = tensors(PROBLEMS[name], last=last, dtype=dtype)
    y = REP_CONV2D(*arguments)
    assert y.dtype == dtype
    close(y, arguments)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_epilogue_kernel_behind_the_convolution(name, last, order):
    """What runs on CUDA where no library fuses: torch's convolution, then the kernel in place."""
    arguments = tensors(PROBLEMS[name], last=last)
    if cuda_kind() == "emulated":
        set_thread_order(order)
        try:
            with ops.backend("cuda"):
                close(REP_CONV2D(*arguments), arguments)
        finally:
            set_thread_order("forward")
    elif cuda_kind() == "device":
        moved = [a.cuda() if torch.is_tensor(a) else a for a in arguments]
        close(run_by("torch", moved).cpu(), arguments)
    else:
        pytest.skip(cuda_kind())


ISAS = ("plain", "avx2", "avx512")


@pytest.fixture
def every_isa():
    yield ISAS
    _core.rep_conv_limit_isa("avx512")


@pytest.mark.parametrize("name", PROBLEMS)
def test_same_bits_on_every_instruction_set_layout_and_thread_count(name, every_isa):
    before = _core.num_threads()
    results = []
    try:
        for isa in every_isa:
            _core.rep_conv_limit_isa(isa)
            for threads in (1, 3):
                _core.set_num_threads(threads)
                results += [run_by("native", tensors(PROBLEMS[name], last=last)) for last in (False, True)]
    finally:
        _core.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results[1:])


@pytest.mark.parametrize("seed", range(40))
def test_random_shapes(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3, 4]))
    kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
    problem = Problem(
        batch=int(rng.integers(1, 4)),
        inputs=groups * int(rng.integers(1, 9)),
        outputs=groups * int(rng.integers(1, 20)),
        height=kernel[0] + int(rng.integers(0, 20)),
        width=kernel[1] + int(rng.integers(0, 40)),
        kernel=kernel,
        stride=tuple(int(s) for s in rng.integers(1, 4, 2)),
        padding=tuple(int(s) for s in rng.integers(0, 4, 2)),
        groups=groups,
        activation=("silu", "relu", "leaky_relu", "none")[seed % 4],
        residual=seed % 3 > 0,
        add_first=seed % 3 > 1,
        seed=seed,
    )
    arguments = tensors(problem, last=seed % 2 == 1)
    for method in ("native", "onednn", "torch"):
        close(run_by(method, arguments), arguments)


TORCH_CASES = ["plain", "residual", "resnet", "depthwise", "unbiased", "no-outputs", "no-inputs"]


@pytest.mark.parametrize("name", TORCH_CASES)
def test_torch_library(name):
    check_torch(forward(name, PROBLEMS[name]))


@pytest.mark.parametrize("case", [epilogue("epilogue", PROBLEMS["resnet"]), BACKWARD_CASES[2]], ids=str)
def test_torch_library_of_the_others(case):
    check_torch(case)


def test_channels_last_is_traced_as_it_is():
    """Fake results have the strides of real ones, so compiled code may rely on them."""
    arguments = tensors(PROBLEMS["plain"], last=True)
    torch.library.opcheck(torch.ops.fastdet.rep_conv2d.default, arguments)
    twice = lambda x, w, b: ops.rep_conv2d(x, w, b, padding=1) * 2  # noqa: E731
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    y = compiled(*arguments[:3])
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, 2 * ops.rep_conv2d(*arguments[:3], padding=1))


SMOOTH = {
    "silu": square(3, batch=2, inputs=2, outputs=3, height=4, width=5),
    "silu-residual": Problem(batch=1, inputs=2, outputs=2, height=4, width=3, residual=True),
    "silu-residual-first": Problem(batch=1, inputs=2, outputs=2, height=4, width=3, residual=True, add_first=True),
    "linear-groups": Problem(batch=1, inputs=4, outputs=4, height=4, groups=2, stride=(2, 3), activation="none"),
    "depthwise": Problem(batch=1, inputs=3, outputs=3, height=5, width=4, groups=3, stride=(2, 2)),
    "unbiased": Problem(batch=2, inputs=2, outputs=2, height=3, width=3, bias=False),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients(name):
    case = forward(name, SMOOTH[name])
    check_gradients(case, [i for i in positions(case.make()) if i != 7 or SMOOTH[name].residual])


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_gradients_where_there_is_a_kink(activation):
    problem = Problem(batch=1, inputs=2, outputs=3, height=4, width=4, activation=activation, residual=True)
    check_gradients(forward(activation, problem), (0, 1, 2, 7), analytic=False)


KEPT = [
    "plain",
    "relu",
    "leaky",
    "linear",
    "unbiased",
    "residual",
    "residual-first",
    "residual-leaky",
    "residual-linear",
]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", [*KEPT, "resnet", "depthwise", "groups", "down-odd", "no-pictures", "no-outputs"])
def test_eager_autograd_is_the_operator(name, last):
    """The bits of the implementation that runs then, the gradients of the backward operator."""
    problem = PROBLEMS[name]
    arguments = tensors(problem, last=last)
    given = [a.clone().requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    y, grad = REP_CONV2D(*given), torch.randn(problem.out_shape)
    keywords = dict(zip(("stride", "padding", "groups", "activation", "residual", "add_first"), given[3:-1]))
    assert torch.equal(y.detach(), REP_CONV2D(*arguments[:-1], ops.rep_conv2d_backend(*given[:3], **keywords)))
    assert torch.equal(y, ops.rep_conv2d(*given[:3], **keywords))
    leaves = [a for a in given if torch.is_tensor(a)]
    want = list(BACKWARD(grad, *arguments[:-1], [True, True, bool(problem.bias), problem.add_first]))
    if not problem.add_first:
        want[3] = grad
    want = [w for w, present in zip(want, (True, True, problem.bias, problem.residual), strict=True) if present]
    for found, expected in zip(torch.autograd.grad(y, leaves, grad), want, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_runs_where_gradients_are_wanted():
    """torch's convolution in the place of oneDNN's fused one, which does not give the activation's input away."""
    x, weight, bias = tensors(PROBLEMS["point"], last=True)[:3]
    assert ops.rep_conv2d_backend(x, weight) == "onednn"
    weight.requires_grad_()
    assert ops.rep_conv2d_backend(x, weight) == "torch"
    assert ops.rep_conv2d_backend(x, weight, backend="onednn") == "onednn"
    with torch.no_grad():
        assert ops.rep_conv2d_backend(x, weight) == "onednn"
    with ops.backend("cpu"):
        assert ops.rep_conv2d_backend(x, weight) == "native"
    y = ops.rep_conv2d(x, weight, bias, backend="onednn")
    torch.testing.assert_close(y, ops.rep_conv2d(x, weight, bias))
    for a, b in zip(*(torch.autograd.grad(z.sum(), weight) for z in (y, ops.rep_conv2d(x, weight, bias)))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_frozen_weight_gets_no_gradient():
    x, weight, bias = tensors(PROBLEMS["plain"])[:3]
    ops.rep_conv2d(x.requires_grad_(), weight, bias.requires_grad_(), padding=1).sum().backward()
    assert x.grad is not None and bias.grad is not None and weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_short_way_is_the_operator(name, last, dtype):
    """The public function skips what the operator looks at anew in each call."""
    *given, residual, add_first, _ = tensors(PROBLEMS[name], last=last, dtype=dtype)
    names = ("stride", "padding", "groups", "activation")
    options = {**dict(zip(names, given[3:])), "residual": residual, "add_first": add_first}
    want = REP_CONV2D(*given, residual, add_first, "auto")
    for _ in range(2):
        y = ops.rep_conv2d(*given[:3], **options)
        assert torch.equal(y, want) and y.stride() == want.stride()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.rep_conv2d(*given[:3], **options), want)


def test_the_short_way_looks_at_what_may_change():
    x, weight, bias = tensors(PROBLEMS["plain"], last=True)[:3]
    want = ops.rep_conv2d(x, weight, bias, padding=1)
    weight += 1
    assert not torch.equal(ops.rep_conv2d(x, weight, bias, padding=1), want)
    with torch.backends.mkldnn.flags(enabled=False):
        assert ops.rep_conv2d_backend(x, weight) == "torch"
        assert torch.equal(
            ops.rep_conv2d(x, weight, bias, padding=1), ops.rep_conv2d(x, weight, bias, padding=1, backend="torch")
        )
    with pytest.raises(TypeError, match="rep_conv2d: weight must be float32 like x, got float64"):
        ops.rep_conv2d(x, weight.double(), bias, padding=1)
    with torch.device("meta"):
        assert ops.rep_conv2d(torch.empty_like(x, device="meta"), weight.to("meta"), padding=1).is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_short_floats(dtype):
    arguments = tensors(replace(PROBLEMS["residual"], activation="silu"), dtype=dtype)
    leaves = [a.clone().requires_grad_() for a in arguments if torch.is_tensor(a)]
    y = ops.rep_conv2d(*leaves[:3], padding=1, residual=leaves[3])
    y.backward(torch.ones_like(y))
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ops.rep_conv2d(*wide[:3], padding=1, residual=wide[3]).sum().backward()
    for leaf, want in zip(leaves, wide, strict=True):
        assert leaf.grad.dtype == dtype
        scale = float(want.grad.abs().max())
        torch.testing.assert_close(leaf.grad.double(), want.grad, rtol=2e-2, atol=1e-2 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_packed(name, last, dtype):
    """The packed form computes what the plain one does; its results are channels_last where the weight is packed."""
    x, weight, bias, *attributes, residual, add_first, _ = tensors(PROBLEMS[name], last=last, dtype=dtype)
    stride, padding, groups, activation = attributes
    for input_shape in (None, x.shape):
        packed = ops.pack_rep_conv(
            weight, bias, stride=stride, padding=padding, groups=groups, activation=activation, add_first=add_first,
            input_shape=input_shape,
        )  # fmt: skip
        y = packed(x, residual)
        close(y, (x, weight, bias, *attributes, residual, add_first, "auto"))
        assert torch.equal(packed(x, residual), y)
        assert packed.backend in (("auto",) if packed.why_not else ("winograd", "onednn"))
        if packed.backend != "auto" and x.numel() > 0:
            assert y.is_contiguous(memory_format=torch.channels_last)


def test_packed_meets_other_sizes_than_expected():
    x, weight, bias = tensors(square(3, batch=1, inputs=16, outputs=16, height=20, width=20))[:3]
    packed = ops.pack_rep_conv(weight, bias, padding=1, input_shape=x.shape)
    for shape in ((1, 16, 20, 20), (3, 16, 7, 41), (1, 16, 1, 1)):
        x = torch.randn(shape)
        torch.testing.assert_close(packed(x), ops.rep_conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="pack_rep_conv: weight must be a torch tensor, got ndarray"):
        ops.pack_rep_conv(W, B)


def test_packed_without_onednn(monkeypatch):
    monkeypatch.setattr(_torch_rep_conv, "onednn_obstacle", lambda dtype: "it is not there")
    x, weight, bias = tensors(PROBLEMS["plain"])[:3]
    packed = ops.pack_rep_conv(weight, bias, padding=1)
    assert (packed.backend, packed.why_not) == ("auto", "it is not there")
    assert torch.equal(packed(x), ops.rep_conv2d(x, weight, bias, padding=1))


def test_autocast_does_not_change_the_dtype():
    x, weight, bias = tensors(PROBLEMS["plain"])[:3]
    want = ops.rep_conv2d(x, weight, bias, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.rep_conv2d(x, weight, bias, padding=1), want)


def test_the_choice_is_visible():
    first, last = tensors(PROBLEMS["plain"]), tensors(PROBLEMS["plain"], last=True)
    assert ops.rep_conv2d_backend(*first[:2]) == "torch"
    want = "torch" if _torch_rep_conv.onednn_obstacle(torch.float32) else "onednn"
    assert ops.rep_conv2d_backend(*last[:2]) == want
    assert ops.rep_conv2d_backend(*(a.double() for a in last[:2])) == "torch"
    assert ops.rep_conv2d_backend(*(a.numpy() for a in first[:2])) == "native"
    with ops.backend("cpu"):
        assert ops.rep_conv2d_backend(*last[:2]) == "native"
    with ops.backend("reference"):
        assert ops.rep_conv2d_backend(*last[:2]) == "reference"
    if cuda_kind() == "emulated":
        with ops.backend("cuda"):
            assert ops.rep_conv2d_backend(*last[:2]) == "torch"


def test_without_onednn(monkeypatch):
    """Where torch does not offer the fused operator, the choice falls on what is left, and forcing it says why."""
    monkeypatch.setattr(_torch_rep_conv, "onednn_obstacle", lambda dtype: "it is not there")
    arguments = tensors(PROBLEMS["residual"], last=True)
    assert ops.rep_conv2d_backend(*arguments[:2]) == "torch"
    assert ops.rep_conv2d_backend(*(a.bfloat16() for a in arguments[:2])) == "native"
    close(REP_CONV2D(*arguments), arguments)
    with pytest.raises(RuntimeError, match="rep_conv2d: backend 'onednn' was asked for, but it is not there"):
        run_by("onednn", arguments)


SCRIPT = """
import numpy as np
from fastdet import ops
import sys
x, w = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 1, 1), np.float32)
y = ops.rep_conv2d(x, w, activation="none")
print(y.shape, float(y.max()), "torch" in sys.modules)
"""


def test_the_log_tells_of_calls_on_tensors(monkeypatch, capfd):
    monkeypatch.setattr(_backend, "_log_calls", True)
    ops.rep_conv2d(torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3))
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("fastdet rep_conv2d [auto] torch.float32(1, 2, 5, 5) [1, 1]") for line in lines)
    assert "fastdet rep_conv2d: by torch" in lines


def test_what_is_no_array_is_said():
    with pytest.raises(TypeError, match="rep_conv2d: x must be an array or a tensor, got int"):
        ops.rep_conv2d(5, np.ones((3, 2, 3, 3), np.float32))


def test_numpy_needs_no_torch_and_the_log_names_the_choice():
    from os import environ

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**environ, "FASTDET_LOG": "ops", "FASTDET_BACKEND": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[0] == "(1, 3, 4, 4) 2.0 False"
    assert "fastdet rep_conv2d: by native" in done.stderr


X, W, B = np.ones((2, 4, 5, 5), np.float32), np.ones((6, 4, 3, 3), np.float32), np.ones(6, np.float32)
WRONG = [
    ({"x": X[0]}, ValueError, "x must have 4 dimensions, got"),
    ({"weight": W[0]}, ValueError, "weight must have 4 dimensions, got"),
    (
        {"weight": W[:, :3]},
        ValueError,
        r"weight must be \(O, 4, kh, kw\) for x \(2, 4, 5, 5\) and groups 1, got",
    ),
    ({"bias": B[:5]}, ValueError, r"bias must be \(6,\), got \(5,\)"),
    ({"groups": 3}, ValueError, r"groups must divide the channels of x .*, got 3"),
    ({"groups": 0}, ValueError, "groups must divide .*, got 0"),
    ({"stride": 0}, ValueError, "stride must be at least 1"),
    ({"padding": -1}, ValueError, "padding .*at least 0"),
    ({"stride": (1, 2, 3)}, ValueError, "stride must be one number or two"),
    ({"x": X[:, :, :2]}, ValueError, r"the kernel must fit into the padded picture, got kernel \(3, 3\)"),
    ({"residual": X}, ValueError, r"residual must be \(2, 6, 3, 3\) like the result, got \(2, 4, 5, 5\)"),
    ({"residual": X[:0]}, ValueError, r"residual must be \(2, 6, 3, 3\) like the result, got \(0, 4, 5, 5\)"),
    ({"weight": W.astype(np.float16)}, TypeError, "weight must be float32 like x, got float16"),
    ({"bias": B.astype(np.float16)}, TypeError, "bias must be float32 like x, got float16"),
    ({"x": X.astype(np.int32)}, TypeError, "x must be float32, float16"),
    ({"activation": "gelu"}, ValueError, "activation must be one of none, relu, silu, leaky_relu, got 'gelu'"),
    ({"backend": "fastest"}, ValueError, "backend must be one of auto, .*, got 'fastest'"),
]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_arguments(change, error, message, kind):
    given = {"x": X, "weight": W, "bias": B, **change}
    if kind == "torch":
        given = {k: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for k, a in given.items()}
    with pytest.raises(error, match=f"rep_conv2d: {message}"):
        ops.rep_conv2d(**given)


def test_wrong_kinds_of_array():
    with pytest.raises(TypeError, match="rep_conv2d: weight must be a torch tensor like x, got ndarray"):
        ops.rep_conv2d(torch.from_numpy(X), W)


def test_numbers_of_numpy_as_attributes():
    want = ops.rep_conv2d(X, W, B, stride=2, padding=1)
    np.testing.assert_array_equal(ops.rep_conv2d(X, W, B, stride=np.int64(2), padding=np.int32(1)), want)


def test_wrong_arguments_of_bias_act():
    with pytest.raises(ValueError, match=r"bias_act: bias must be \(4,\), got \(6,\)"):
        ops.bias_act(X, B)
    with pytest.raises(ValueError, match=r"bias_act: residual must be \(2, 4, 5, 5\) like the result"):
        ops.bias_act(X, residual=X[:, :, :, :1])
    with pytest.raises(TypeError, match="bias_act: x must be float32, float16 or bfloat16, got float64"):
        ops.bias_act(X.astype(np.float64))
    with pytest.raises(ValueError, match="bias_act: has no gradient"):
        ops.bias_act(torch.ones(1, 1, 1, 1, requires_grad=True))


IMPOSSIBLE = [
    (X, W, "onednn", "backend 'onednn' needs torch tensors, got ndarray"),
    (
        torch.ones(1, 1, 2, 2),
        torch.ones(1, 1, 1, 1),
        "cudnn",
        "'cudnn' was asked for, but it runs on CUDA only",
    ),
    (torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1), "cutlass", "'cutlass' .* it runs on CUDA only"),
    (torch.ones(1, 1, 2, 2).double(), torch.ones(1, 1, 1, 1).double(), "native", "it does not compute float64"),
    (torch.ones(1, 0, 2, 2), torch.ones(1, 0, 1, 1), "onednn", "there is nothing to convolve"),
]


@pytest.mark.parametrize(("x", "weight", "method", "message"), IMPOSSIBLE)
def test_what_cannot_run_says_why(x, weight, method, message):
    for call in (ops.rep_conv2d, ops.rep_conv2d_backend):
        with pytest.raises(RuntimeError, match=f"rep_conv2d: .*{message}"):
            call(x, weight, backend=method)
