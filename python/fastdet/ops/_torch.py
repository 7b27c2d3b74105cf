# SPDX-License-Identifier: Apache-2.0
"""The torch half of the operators: schemas, fake kernels, gradients in torch.library, and the short way around it."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastdet import _core

if TYPE_CHECKING:
    from fastdet.ops._backend import Op

_library = torch.library.Library("fastdet", "FRAGMENT")
PLAIN = (torch.Tensor, torch.nn.Parameter)
# Asked in every call: where they lie takes longer to find than to ask.
_modes, _transformation = torch._C._len_torch_dispatch_stack, torch._C._functorch.peek_interpreter_stack
_trace = torch._C._get_tracing_state


def register(op: Op) -> None:
    """Define ``torch.ops.fastdet.<name>``. Once per process and operator."""
    if hasattr(torch.ops.fastdet, op.name):
        return
    _library.define(f"{op.name}{op.schema}", tags=(torch.Tag.flexible_layout,))
    for key in ("CPU", "CUDA"):
        _library.impl(op.name, op.run, key)
    torch.library.register_fake(f"fastdet::{op.name}", op.fake, lib=_library)
    if op.backward is not None:
        torch.library.register_autograd(
            f"fastdet::{op.name}", op.backward, setup_context=op.setup_context, lib=_library
        )


def openmp() -> tuple[int, int, int]:
    """Where the OpenMP runtime that torch computes by has GOMP_parallel, omp_get_max_threads and omp_in_parallel; zeros
    for a torch that is built in another way."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        found = [getattr(library, name) for name in ("GOMP_parallel", "omp_get_max_threads", "omp_in_parallel")]
    except (OSError, AttributeError):
        return 0, 0, 0
    run, most, inside = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in found)
    return run, most, inside


class Bridge:
    """What ``Op`` asks of torch."""

    def __init__(self) -> None:
        from fastdet.ops import OPS, _torch_rep_conv, rep_conv

        rep_conv.set_quick(_torch_rep_conv.quick)
        _core.set_openmp(*openmp())
        for op in OPS:
            register(op)

    @staticmethod
    def is_tensor(a: Any) -> bool:
        return isinstance(a, torch.Tensor)

    @staticmethod
    def concerns(args: tuple[Any, ...]) -> bool:
        """Whether a call has to go through the dispatcher: something is watching (compile, export, modes, gradients, a
        subclass, the meta device), or a view's memory holds the numbers negated (``z.conj().imag``). A call on plain
        tensors does not, and saves some microseconds."""
        if torch.compiler.is_compiling():
            return _any_tensor(args)
        watched, grad = being_watched(), torch.is_grad_enabled()
        for a in args:
            if isinstance(a, torch.Tensor):
                if watched or type(a) not in PLAIN or (grad and a.requires_grad) or a.is_meta or a.is_neg():
                    return True
            elif isinstance(a, (list, tuple)):
                for x in a:
                    if isinstance(x, torch.Tensor) and (
                        watched or type(x) not in PLAIN or (grad and x.requires_grad) or x.is_meta or x.is_neg()
                    ):
                        return True
        return False

    @staticmethod
    def call(op: Op, args: tuple[Any, ...]) -> Any:
        if op.backward is None:
            args = tuple(_without_grad(op, a) for a in args)
        elif _plain_gradients(args):
            function = function_of(op) if op.eager_function is None else op.eager_function()
            return function.apply(*args)
        return getattr(torch.ops.fastdet, op.name).default(*args)

    @staticmethod
    def to_numpy(a: torch.Tensor) -> np.ndarray:
        host = a.detach().cpu()
        return host.float().numpy() if host.dtype == torch.bfloat16 else host.numpy()

    @staticmethod
    def from_numpy(a: np.ndarray, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(device)


def being_watched() -> bool:
    """Whether something wants to see every operator that is called: a mode, a transformation, a trace."""
    return _modes() > 0 or _transformation() is not None or _trace() is not None


def _plain_gradients(args: tuple[Any, ...]) -> bool:
    """Whether a call needs autograd and nothing else of torch: plain tensors, nobody watching."""
    if torch.compiler.is_compiling() or being_watched():
        return False
    lists = any(isinstance(a, (list, tuple)) and _any_tensor((a,)) for a in args)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    return not lists and all(type(a) in PLAIN and not a.is_meta and not a.is_neg() for a in tensors)


@functools.cache
def function_of(op: Op) -> type[torch.autograd.Function]:
    """``op`` for autograd alone. torch.library's own way there costs tens of microseconds for each call, more with
    every argument, because it reads the schema anew."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = op.run(*args)
        op.setup_context(ctx, args, output)
        return output

    def backward(ctx: Any, *grads: Any) -> Any:
        return op.backward(ctx, *grads)  # type: ignore[misc]

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(op.name, (torch.autograd.Function,), methods)


def _any_tensor(args: tuple[Any, ...]) -> bool:
    for a in args:
        if isinstance(a, torch.Tensor):
            return True
        if isinstance(a, (list, tuple)) and len(a) > 0 and isinstance(a[0], torch.Tensor):
            return True
    return False


def _without_grad(op: Op, a: Any) -> Any:
    if isinstance(a, (list, tuple)):
        return [_without_grad(op, x) for x in a] if _any_tensor((a,)) else a
    if not isinstance(a, torch.Tensor) or not a.requires_grad or not torch.is_grad_enabled():
        return a
    if not op.drop_grad:
        raise ValueError(
            f"{op.name}: has no gradient, got a tensor that requires grad; pass .detach() or use torch.no_grad()"
        )
    return a.detach()
