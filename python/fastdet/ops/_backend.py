# SPDX-License-Identifier: Apache-2.0
"""Op: what stands between a public function and its implementations (NumPy reference, CPU, CUDA, torch.library)."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastdet import _core

BACKENDS = ("auto", "reference", "cpu", "cuda")

_core.set_library_folder(str(Path(_core.__file__).parent / "lib"))


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin}: must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


_default = _checked(os.environ.get("FASTDET_BACKEND") or "auto", "FASTDET_BACKEND")
_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("fastdet_backend", default=None)
_log_calls = "ops" in os.environ.get("FASTDET_LOG", "").split(",")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one implementation of every operator inside the ``with`` block, in this thread or task.

    Args:
        name: ``"auto"`` (by the device of the arrays), ``"reference"`` (NumPy, slow, obvious), ``"cpu"``, ``"cuda"``.
            ``"reference"`` and ``"cpu"`` take arrays of any device and return results there. ``FASTDET_BACKEND`` sets
            the default of a process.

    Raises:
        ValueError: unknown name.
    """
    token = _forced.set(_checked(name, "backend: name"))
    try:
        yield
    finally:
        _forced.reset(token)


def current_backend() -> str:
    """The backend in force here: that of the innermost ``backend`` block, else of ``FASTDET_BACKEND``."""
    return _forced.get() or _default


def cuda_available() -> tuple[bool, str]:
    """Whether operators can run on CUDA, and if not, why. Opens the CUDA library on the first call."""
    available, why = _core.cuda_available()
    return bool(available), str(why)


def keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """The usual ``setup_context``: all inputs, for ``kept_inputs`` in ``backward``."""
    is_array = [hasattr(a, "shape") for a in inputs]
    ctx.save_for_backward(*(a for a, array in zip(inputs, is_array) if array))
    ctx.kept = [None if array else a for a, array in zip(inputs, is_array)]
    ctx.kept_arrays = is_array


def kept_inputs(ctx: Any) -> list[Any]:
    """The inputs of the forward operator, as ``keep_inputs`` has kept them."""
    saved = iter(ctx.saved_tensors)
    return [next(saved) if array else a for a, array in zip(ctx.kept, ctx.kept_arrays)]


@dataclass(frozen=True)
class Op:
    """One operator. Positional arguments only, in the order of ``schema``; results as the native function returns them.

    A differentiable operator has its gradient in an ``Op`` of its own, ``<name>_backward``, so that it is compiled,
    traced and tested like any other; ``backward`` only calls that one. It gets a gradient for every result (zeros where
    none came, any strides), and ``ctx.needs_input_grad``.

    Attributes:
        name: its name everywhere.
        schema: arguments and results in torch.library's language, without the name.
        native: the function of the extension; takes the backend as an additional last argument.
        reference: the same on NumPy arrays, in NumPy.
        fake: shapes only, for torch: takes the arguments, returns empty tensors.
        backward: ``(ctx, *grads) -> grads``, one per argument, None for what has none.
        setup_context: what ``backward`` finds in ``ctx``; the default keeps the inputs for ``kept_inputs``.
        eager_function: ``() ->`` what has the ``apply`` of a torch.autograd.Function, in place of ``backward`` where
            torch's autograd is all that watches: there it may keep what a compiled operator has to compute again.
        drop_grad: results carry no gradient by their nature (indices, assignments): inputs that require one are taken.
        dtypes_of: for each result the position of the argument whose dtype it has, None where it has its own; empty if
            all have. A list of arrays, as argument or result, has one dtype.
    """

    name: str
    schema: str
    native: Callable[..., Any]
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    setup_context: Callable[..., Any] = keep_inputs
    eager_function: Callable[[], Any] | None = None
    drop_grad: bool = False
    dtypes_of: tuple[int | None, ...] = ()
    keeps: tuple[Any, ...] = field(default=(), repr=False)

    def __call__(self, *args: Any) -> Any:
        attach_torch()
        if _bridge.torch is not None and _bridge.torch.concerns(args):
            return _bridge.torch.call(self, args)
        return self.run(*args)

    def run(self, *args: Any) -> Any:
        """Compute now, on real arrays, by the backend in force."""
        name = current_backend()
        if _log_calls:
            _log(self.name, name, args)
        if name == "reference":
            return _on_host(self.reference, args, self.dtypes_of)
        if name == "cpu" and any(_on_cuda(a) for a in _flat(args)):
            return _on_host(lambda *host: self.native(*host, "cpu"), args, self.dtypes_of)
        return self.native(*args, name)


class _Bridge:
    """Holds the torch half once the user has imported torch; fastdet never imports it by itself."""

    torch: Any = None


_bridge = _Bridge()


def attach_torch() -> None:
    """Take the torch half along from the first call on after which torch is there."""
    if _bridge.torch is None and sys.modules.get("torch") is not None:
        from fastdet.ops import _torch

        _bridge.torch = _torch.Bridge()


# Run while torch.compile traces, neither this nor what it asks may become part of the graph: a first call that is
# compiled would guard on the state that it changes. (torch._dynamo.assume_constant_result sets the same mark, but would
# have to be imported.)
attach_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _flat(args: tuple[Any, ...]) -> Iterator[Any]:
    for a in args:
        if isinstance(a, (list, tuple)):
            yield from a
        else:
            yield a


def _on_cuda(a: Any) -> bool:
    return bool(getattr(a, "is_cuda", False)) or hasattr(a, "__cuda_array_interface__")


def _to_numpy(a: Any) -> Any:
    if _bridge.torch is not None and _bridge.torch.is_tensor(a):
        return _bridge.torch.to_numpy(a)
    if hasattr(a, "__cuda_array_interface__") and hasattr(a, "get"):
        return a.get()  # CuPy
    if isinstance(a, (list, tuple)):
        return [_to_numpy(x) for x in a]
    if hasattr(a, "__dlpack__") and not isinstance(a, (np.ndarray, np.generic)):
        return np.from_dlpack(a)
    return a


def _on_host(function: Callable[..., Any], args: tuple[Any, ...], dtypes_of: tuple[int | None, ...]) -> Any:
    """``function`` on NumPy copies of the arrays, its results in the kind and on the device of the first array."""
    result = function(*(_to_numpy(a) for a in args))
    like = next((a for a in _flat(args) if hasattr(a, "__dlpack__") or hasattr(a, "__cuda_array_interface__")), None)
    single = not isinstance(result, tuple)
    given = (result,) if single else result
    sources = [None if i is None else args[i] for i in dtypes_of] or [None] * len(given)
    results = tuple(_like(like, r, source) for r, source in zip(given, sources))
    return results[0] if single else results


def _like(like: Any, result: Any, source: Any = None) -> Any:
    if isinstance(source, (list, tuple)):
        source = source[0]
    if isinstance(result, list):
        return [_like(like, r, source) for r in result]
    if _bridge.torch is not None and _bridge.torch.is_tensor(like):
        converted = _bridge.torch.from_numpy(result, like.device)
        return converted if source is None else converted.to(source.dtype)
    if source is not None:
        result = result.astype(source.dtype, copy=False)
    if type(like).__module__.partition(".")[0] == "cupy":
        return sys.modules["cupy"].asarray(result)
    return result


def _log(op: str, name: str, args: tuple[Any, ...]) -> None:
    parts = []
    for a in args:
        if hasattr(a, "shape"):
            host = np.asarray(_to_numpy(a), dtype=np.float64)
            span = f" [{host.min():.6g}, {host.max():.6g}]" if host.size else ""
            parts.append(f"{getattr(a, 'dtype', '')}{tuple(a.shape)}{span}")
        else:
            parts.append(f"{len(a)} arrays" if isinstance(a, (list, tuple)) else repr(a))
    sys.stderr.write(f"fastdet {op} [{name}] {', '.join(parts)}\n")
