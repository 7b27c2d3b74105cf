# SPDX-License-Identifier: Apache-2.0
"""Op harness: one case table per operator, every case on every implementation, in every kind and layout of array.

A test file is its ``CASES`` and three lines::

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_case(case, variant):
        check(case, variant)

CUDA variants run on a device where there is one, else through the emulated library that ``FASTDET_CUDA_LIB`` names.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Attributes:
        name: shown by pytest.
        op: the operator.
        make: returns its positional arguments, arrays as NumPy; the same ones every time.
        floats: positions of the arrays that may also be float16 or bfloat16.
        rtol, atol: how far floating point results may lie from the reference's. Integers are always equal, and CUDA
            equals the CPU bit for bit.
    """

    name: str
    op: Op
    make: Callable[[], tuple[Any, ...]]
    floats: tuple[int, ...] = ()
    rtol: float = 0.0
    atol: float = 0.0

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


def check(case: Case, variant: str) -> None:
    """Run ``case`` as ``variant`` says; raise AssertionError where it differs from the reference or writes inputs."""
    kind, _, how = variant.partition("-")
    args = case.make()
    if how in ("float16", "bfloat16"):
        args = tuple(_rounded(a, how) if i in case.floats else a for i, a in enumerate(args))
    before = [np.array(a, copy=True) for a in arrays_in(args)]
    expected = outputs(case.op.reference(*args))
    if kind == "cuda":
        with backend("cpu"):
            on_cpu = outputs(case.op.run(*_presented(case, args, "torch", how)))
        compare(on_cpu, outputs(_run_cuda(case, args, how)), case, exact=True)
        return
    with backend("cpu"):
        got = outputs(case.op.run(*_presented(case, args, kind, how)))
    compare(expected, got, case)
    for a, b in zip(arrays_in(args), before):
        np.testing.assert_array_equal(np.asarray(a), b, err_msg="an input was changed")


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


def outputs(result: Any) -> list[np.ndarray]:
    """Results of an operator as a list of NumPy arrays."""
    return [_host(r) for r in (result if isinstance(result, (tuple, list)) else (result,))]


def compare(expected: list[np.ndarray], got: list[np.ndarray], case: Case, *, exact: bool = False) -> None:
    """Equal shapes; integers equal; floats within the case's tolerance, or bit-equal (NaN equal to NaN)."""
    assert len(expected) == len(got), f"{case}: {len(got)} results, expected {len(expected)}"
    for i, (want, have) in enumerate(zip(expected, got)):
        where = f"{case}: result {i}"
        assert want.shape == have.shape, f"{where} has shape {have.shape}, expected {want.shape}"
        if exact or want.dtype.kind in "iub" or (case.rtol == 0 and case.atol == 0):
            np.testing.assert_array_equal(have, want, err_msg=where)
        else:
            np.testing.assert_allclose(have, want, rtol=case.rtol, atol=case.atol, err_msg=where)


def arrays_in(args: tuple[Any, ...]) -> list[Any]:
    """The arrays among positional arguments, lists opened."""
    found = []
    for a in args:
        found += [x for x in (a if isinstance(a, (list, tuple)) else (a,)) if hasattr(x, "shape")]
    return found


def _run_cuda(case: Case, args: tuple[Any, ...], how: str) -> Any:
    if cuda_kind() == "device":
        import torch

        presented = _presented(case, args, "torch", how)
        moved = [
            [x.cuda() for x in a] if isinstance(a, list) else a.cuda() if torch.is_tensor(a) else a for a in presented
        ]
        return case.op.run(*moved)
    set_thread_order(how if how in ("forward", "reverse", "shuffled") else "forward")
    try:
        with backend("cuda"):
            return case.op.run(*_presented(case, args, "torch", how))
    finally:
        set_thread_order("forward")


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
        a = np.ascontiguousarray(a.T).T
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
