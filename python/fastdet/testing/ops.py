# SPDX-License-Identifier: Apache-2.0
"""Op harness: one case table per operator, every case on every implementation, in every kind and layout of array.

A test file is its ``CASES`` and three lines::

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_case(case, variant):
        check(case, variant)

CUDA variants run on a device where there is one, else through the emulated library that ``FASTDET_CUDA_LIB`` names.
A differentiable operator adds ``check_gradients(case, differentiable)``, and ordinary cases of its backward operator.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._backend import Op, backend

LAYOUTS = ("plain", "strided", "transposed", "offset", "reversed", "readonly")
VARIANTS = (
    *(f"numpy-{layout}" for layout in LAYOUTS),
    "numpy-float16",
    "torch-plain",
    "torch-strided",
    "torch-float16",
    "torch-bfloat16",
    "cuda-forward",
    "cuda-reverse",
    "cuda-shuffled",
    "cuda-strided",
    "cuda-bfloat16",
)
"""How a case is presented: kind of array and layout or dtype; for CUDA the order in which emulated threads run."""
DOUBLE_VARIANTS = ("numpy-float64", "torch-float64", "cuda-float64")
"""The same in float64, for cases that say which arrays may be (``Case.doubles``)."""
ORDERS = ("forward", "reverse", "shuffled")


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Attributes:
        name: shown by pytest.
        op: the operator.
        make: returns its positional arguments, arrays as NumPy; the same ones every time.
        floats: positions of the arrays that may also be float16 or bfloat16.
        rtol, atol: how far floating point results may lie from the reference's. Integers are always equal, and CUDA
            equals the CPU bit for bit. Results that have the dtype of a float16 or bfloat16 argument (``Op.dtypes_of``)
            may lie one unit of that dtype farther away.
        doubles: positions of the arrays that together may be float64; ``rtol_double`` and ``atol_double`` then hold.
        batch: (position, dimension) of every array that has the batch size; ``check_torch`` exports it as dynamic and
            runs the program with twice the batch too.
    """

    name: str
    op: Op
    make: Callable[[], tuple[Any, ...]]
    floats: tuple[int, ...] = ()
    rtol: float = 0.0
    atol: float = 0.0
    doubles: tuple[int, ...] = ()
    rtol_double: float = 1e-12
    atol_double: float = 1e-12
    batch: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return self.name


def cuda_kind() -> str:
    """``"device"``, ``"emulated"`` or the reason why there is neither."""
    available, why = _core.cuda_available()
    if not available:
        return str(why)
    return "emulated" if _core.cuda_emulated() else "device"


def set_thread_order(order: str) -> None:
    """Order in which emulated CUDA threads and blocks run: ``forward``, ``reverse`` or ``shuffled``."""
    library = ctypes.CDLL(os.environ["FASTDET_CUDA_LIB"])
    if library.fastdet_emulator_set_order(order.encode()) != 0:
        raise ValueError(f"set_thread_order: unknown order {order!r}")


def zero_sizes(case_of: Callable[..., Case], sizes: Mapping[str, int]) -> list[Case]:
    """``case_of(name, **sizes)`` with each of the sizes in turn 0, and with all of them 0."""
    cases = [case_of(f"no-{name}", **{**sizes, name: 0}) for name in sizes]
    return [*cases, case_of("no-anything", **dict.fromkeys(sizes, 0))]


def check(case: Case, variant: str) -> None:
    """Run ``case`` as ``variant`` says; raise AssertionError where it differs from the reference or writes inputs."""
    kind, _, how = variant.partition("-")
    args = case.make()
    if how in ("float16", "bfloat16"):
        args = tuple(_rounded(a, how) if i in case.floats else a for i, a in enumerate(args))
    if how == "float64":
        args, case = _doubled(case, args), replace(case, rtol=case.rtol_double, atol=case.atol_double)
    before = [np.array(a, copy=True) for a in arrays_in(args)]
    if kind == "cuda":  # must equal the CPU's, which the other variants hold against the reference's
        with backend("cpu"):
            on_cpu = outputs(case.op.run(*_presented(case, args, "torch", how)))
        compare(on_cpu, outputs(_run_cuda(case, args, how)), case, exact=True)
        return
    expected = _expected(case, how, args)
    with backend("cpu"):
        got = outputs(case.op.run(*_presented(case, args, kind, how)))
    compare(expected, got, case, storage=how)
    for a, b in zip(arrays_in(args), before):
        np.testing.assert_array_equal(np.asarray(a), b, err_msg="an input was changed")


_last: tuple[Any, list[np.ndarray]] | None = None


def _expected(case: Case, how: str, args: tuple[Any, ...]) -> list[np.ndarray]:
    """The reference's results. Layouts of one case follow one another and share them: they hold the same numbers."""
    global _last
    key = (case.op, case.name, case.make, how if how in ("float16", "bfloat16", "float64") else "")
    if _last is None or _last[0] != key:
        _last = key, [np.array(each) for each in outputs(case.op.reference(*args))]
    return _last[1]


def check_torch(case: Case) -> None:
    """All four of ``torch.library.opcheck``, ``torch.compile(fullgraph=True)`` and ``torch.export`` on one case."""
    import torch

    args = _presented(case, case.make(), "torch", "plain")
    expected = outputs(case.op.run(*args))
    case.op(*args)  # registers the operators, if nothing has
    torch.library.opcheck(getattr(torch.ops.fastdet, case.op.name).default, args)
    torch.compiler.reset()  # every case compiles the same lambda anew, which torch allows only so often
    compiled = torch.compile(lambda *a: case.op(*a), fullgraph=True, backend="aot_eager")
    compare(expected, outputs(compiled(*args)), case, exact=True)

    class Module(torch.nn.Module):
        def forward(self, *inner: Any) -> Any:
            return case.op(*inner)

    program = torch.export.export(Module(), args)
    compare(expected, outputs(program.module()(*args)), case, exact=True)
    if case.batch:
        sized = dict(case.batch)
        batch = torch.export.Dim("batch", max=1 << 20)
        none = functools.partial(torch.utils._pytree.tree_map, lambda _: None)  # as deep as the argument
        shapes = tuple({sized[i]: batch} if i in sized else none(a) for i, a in enumerate(args))
        program = torch.export.export(Module(), args, dynamic_shapes=(shapes,))
        twice = tuple(torch.cat([a, a], sized[i]) if i in sized else a for i, a in enumerate(args))
        for given in (args, twice):
            compare(outputs(case.op.run(*given)), outputs(program.module()(*given)), case, exact=True)


def check_gradients(
    case: Case, differentiable: Iterable[int], *, rtol: float = 1e-4, atol: float = 1e-5, analytic: bool = True
) -> None:
    """Gradients of one differentiable case, for the arguments at the positions ``differentiable``.

    Against finite differences (``torch.autograd.gradcheck``) in float64, if ``analytic``: leave that out where a result
    has a kink at the case's inputs. In float32: within ``rtol`` and ``atol`` of the reference's and of float64's; the
    same bits from repeated runs, from strided and expanded gradients of results, when only one argument requires a
    gradient, under ``torch.compile(fullgraph=True)``, and on CUDA in three orders of threads.
    """
    import torch

    at = tuple(differentiable)
    doubles = replace(case, doubles=case.doubles or at)
    wide = _presented(case, _doubled(doubles, case.make()), "torch", "plain")
    if analytic:
        leaves = [wide[i].clone().requires_grad_() for i in at]

        def function(*given: Any) -> Any:
            return case.op(*_with(wide, at, given))

        torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-6, rtol=1e-6)
    args = _presented(case, case.make(), "torch", "plain")
    expected = _gradients(case.op, args, at)

    def same(got: list[np.ndarray], what: str) -> None:
        compare(expected, got, replace(case, name=f"{case}: gradients, {what}"), exact=True)

    def close(got: list[np.ndarray], what: str) -> None:
        for i, (want, have) in enumerate(zip(got, expected)):
            np.testing.assert_allclose(have, want, rtol=rtol, atol=atol, err_msg=f"{case}: gradient {i}, {what}")

    close(_gradients(case.op, wide, at), "in float64")
    with backend("reference"):
        close(_gradients(case.op, args, at), "of the reference")
    for _ in range(2):
        same(_gradients(case.op, args, at), "repeated")
    same(_gradients(case.op, args, at, layout="strided"), "of a strided gradient")
    expanded = _gradients(case.op, args, at, layout="expanded")
    compare(_gradients(case.op, args, at, layout="ones"), expanded, case, exact=True)
    for i, one in enumerate(at):
        compare(expected[i : i + 1], _gradients(case.op, args, (one,)), case, exact=True)
    torch.compiler.reset()
    compiled = torch.compile(lambda *a: case.op(*a), fullgraph=True, backend="aot_eager")
    same(_gradients(compiled, args, at), "compiled")
    _check_cuda_gradients(case, args, at, same)


def _check_cuda_gradients(
    case: Case, args: tuple[Any, ...], at: tuple[int, ...], same: Callable[[list[np.ndarray], str], None]
) -> None:
    kind = cuda_kind()
    if kind == "device":
        same(_gradients(case.op, _on_device(args), at), "on the device")
    elif kind == "emulated":
        for order in ORDERS:
            set_thread_order(order)
            try:
                with backend("cuda"):
                    same(_gradients(case.op, args, at), f"emulated, {order}")
            finally:
                set_thread_order("forward")


def _gradients(
    function: Callable[..., Any], args: tuple[Any, ...], at: tuple[int, ...], layout: str = "plain"
) -> list[np.ndarray]:
    """Gradients for the arguments ``at`` of a weighted sum of the results; ``layout`` is that of the weights."""
    import torch

    leaves = [args[i].detach().clone().requires_grad_() for i in at]
    results = function(*_with(args, at, leaves))
    results = [r for r in (results if isinstance(results, (tuple, list)) else (results,)) if r.requires_grad]
    generator = torch.Generator().manual_seed(len(results))
    weights = []
    for r in results:
        if layout == "expanded":
            weights.append(torch.ones((), dtype=r.dtype, device=r.device).expand(r.shape))
        elif layout == "ones":
            weights.append(torch.ones_like(r))
        else:
            drawn = torch.randn(r.shape, dtype=torch.float32, generator=generator).to(r)
            weights.append(_torch_layout(drawn, layout))
    grads = torch.autograd.grad(results, leaves, weights, allow_unused=True)
    return [_host(torch.zeros_like(leaf) if g is None else g) for leaf, g in zip(leaves, grads)]


def _with(args: tuple[Any, ...], at: tuple[int, ...], given: Iterable[Any]) -> list[Any]:
    changed = list(args)
    for i, a in zip(at, given):
        changed[i] = a
    return changed


def outputs(result: Any) -> list[np.ndarray]:
    """Results of an operator as a list of NumPy arrays."""
    return [_host(r) for r in (result if isinstance(result, (tuple, list)) else (result,))]


# Distance of neighbouring numbers of a storage dtype: relative, and absolute near zero.
_UNITS = {"float16": (2.0**-10, 2.0**-24), "bfloat16": (2.0**-7, 0.0)}


def compare(
    expected: list[np.ndarray], got: list[np.ndarray], case: Case, *, exact: bool = False, storage: str = ""
) -> None:
    """Equal shapes; integers equal; floats within the case's tolerance, or bit-equal (NaN equal to NaN).

    ``storage`` is the dtype of ``case.floats``, and so of the results that ``Op.dtypes_of`` derives from those.
    """
    assert len(expected) == len(got), f"{case}: {len(got)} results, expected {len(expected)}"
    for i, (want, have) in enumerate(zip(expected, got)):
        where = f"{case}: result {i}"
        assert want.shape == have.shape, f"{where} has shape {have.shape}, expected {want.shape}"
        dtypes_of = case.op.dtypes_of
        # A result that is a list has one entry for all of its arrays.
        stored = dtypes_of[min(i, len(dtypes_of) - 1)] in case.floats if dtypes_of else False
        relative, absolute = _UNITS.get(storage, (0.0, 0.0)) if stored else (0.0, 0.0)
        rtol, atol = case.rtol + relative, case.atol + absolute
        if exact or want.dtype.kind in "iub" or (rtol == 0 and atol == 0):
            np.testing.assert_array_equal(have, want, err_msg=where)
        else:
            if stored and storage == "float16":  # where float32 leaves its range, so does the stored result
                with np.errstate(over="ignore"):
                    want = want.astype(np.float16)
            np.testing.assert_allclose(have.astype(want.dtype), want, rtol=rtol, atol=atol, err_msg=where)


def arrays_in(args: tuple[Any, ...]) -> list[Any]:
    """The arrays among positional arguments, lists opened."""
    found = []
    for a in args:
        found += [x for x in (a if isinstance(a, (list, tuple)) else (a,)) if hasattr(x, "shape")]
    return found


def _run_cuda(case: Case, args: tuple[Any, ...], how: str) -> Any:
    if cuda_kind() == "device":
        return case.op.run(*_on_device(_presented(case, args, "torch", how)))
    set_thread_order(how if how in ORDERS else "forward")
    try:
        with backend("cuda"):
            return case.op.run(*_presented(case, args, "torch", how))
    finally:
        set_thread_order("forward")


def _on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    def move(a: Any) -> Any:
        return [move(x) for x in a] if isinstance(a, list) else a.cuda() if hasattr(a, "cuda") else a

    return tuple(move(a) for a in args)


def _doubled(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if not case.doubles:
        raise ValueError(f"check: {case} names no arrays that may be float64 (Case.doubles)")
    return tuple(_as_double(a) if i in case.doubles else a for i, a in enumerate(args))


def _as_double(a: Any) -> Any:
    return [_as_double(x) for x in a] if isinstance(a, list) else a.astype(np.float64)


def _presented(case: Case, args: tuple[Any, ...], kind: str, how: str) -> tuple[Any, ...]:
    return tuple(_present(a, kind, how, i in case.floats) for i, a in enumerate(args))


def _present(a: Any, kind: str, how: str, floating: bool) -> Any:
    if isinstance(a, list):
        return [_present(x, kind, how, floating) for x in a]
    if not isinstance(a, np.ndarray):
        return a
    if how == "float16" and floating:
        a = a.astype(np.float16)
    if kind == "numpy":
        return _numpy_layout(a, how)
    import torch

    tensor = torch.from_numpy(np.array(a, order="C"))
    if how == "bfloat16" and floating:
        return tensor.bfloat16()
    return _torch_layout(tensor, how)


def _torch_layout(tensor: Any, how: str) -> Any:
    if how != "strided" or tensor.ndim == 0:
        return tensor
    wide = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1))
    view = wide[..., 1::2]
    view.copy_(tensor)
    return view


def _numpy_layout(a: np.ndarray, how: str) -> np.ndarray:
    if how == "readonly":
        a = a.copy()
        a.flags.writeable = False
    elif how == "strided":
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1] + 1) if a.ndim else (), a.dtype)
        if a.ndim:
            wide[..., 1::2] = a
            a = wide[..., 1::2]
    elif how == "transposed":
        a = np.ascontiguousarray(a.T).T if a.ndim else a
    elif how == "offset":
        buffer = np.zeros(a.size + 1, a.dtype)
        buffer[1:] = a.ravel()
        a = buffer[1:].reshape(a.shape)
    elif how == "reversed":
        a = np.ascontiguousarray(a[::-1])[::-1] if a.ndim else a
    return a


def _rounded(a: Any, dtype: str) -> Any:
    """``a`` with the precision of ``dtype``, still float32."""
    if isinstance(a, list):
        return [_rounded(x, dtype) for x in a]
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return a.astype(np.float16).astype(np.float32)
    import torch

    return torch.from_numpy(np.array(a)).bfloat16().float().numpy()


def _host(r: Any) -> np.ndarray:
    if isinstance(r, (np.ndarray, np.generic)):
        return np.asarray(r)
    import torch

    r = r.detach().cpu()
    return r.float().numpy() if r.dtype == torch.bfloat16 else r.numpy()
