# SPDX-License-Identifier: Apache-2.0
"""The torch half of ``rep_conv2d``: which convolution runs, its epilogue, its gradient, weights packed in advance."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdet import _core
from fastdet.ops import _backend, rep_conv
from fastdet.ops._backend import current_backend
from fastdet.ops._torch import PLAIN, being_watched
from fastdet.ops.rep_conv import Convolution

_ONEDNN_NAMES = {"none": "none", "relu": "relu", "silu": "swish", "leaky_relu": "leaky_relu"}
_ONEDNN_SCALARS: dict[str, list[float]] = {"leaky_relu": [0.1]}
FUSED = ("cudnn", "cutlass")  # libraries that fuse everything into one CUDA kernel
onednn_switch = torch._C._get_mkldnn_enabled  # torch.backends.mkldnn.enabled, found sooner
_trained: Any = None  # see _attach_trained
_NATIVE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Kind = tuple[tuple[int, ...], torch.dtype]  # what plain tensors on the CPU are told apart by


def channels_last(x: Tensor) -> bool:
    """Whether results for ``x`` are channels_last; not where its strides allow both readings."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """Layout of the results for ``x``."""
    return torch.channels_last if channels_last(x) else torch.contiguous_format


def empty(x: Tensor, shape: Sequence[Any]) -> Tensor:
    """An unfilled result for ``x``."""
    return torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def fake(x: Tensor, *arguments: Any) -> Tensor:
    """The shape of ``rep_conv2d``'s result, from the arguments of its operator."""
    conv = Convolution(*arguments[:-1])
    return empty(x, (x.shape[0], conv.weight.shape[0], *conv.size(x)))


def onednn_obstacle(dtype: torch.dtype) -> str:
    """Why torch's fused oneDNN convolution cannot run with ``dtype`` on this machine; empty if it can."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:  # type: ignore[attr-defined]
        return "this torch has no oneDNN, or it is switched off (torch.backends.mkldnn)"
    return _onednn_lacks(dtype)


@functools.cache
def _onednn_lacks(dtype: torch.dtype) -> str:
    """The part of ``onednn_obstacle`` that no switch changes."""
    operators = torch.ops.mkldnn
    if not (hasattr(operators, "_convolution_pointwise") and hasattr(operators, "_reorder_convolution_weight")):
        return f"torch {torch.__version__} does not offer oneDNN's fused convolution"
    if dtype == torch.float32:
        return ""
    probe = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    if probe is None or not hasattr(operators, probe) or not getattr(operators, probe)():
        return f"oneDNN does not compute {_name(dtype)} on this processor"
    return ""


@functools.cache
def library_missing(name: str) -> str:
    """Why this installation cannot use a library of ``FUSED``; empty if it can. Looked up once."""
    return _core.rep_conv_fused_missing(name)


class Described(NamedTuple):
    """What the choice looks at in a tensor. ``last``: whether it is channels_last."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    last: bool

    @classmethod
    def of(cls, a: Tensor) -> Described:
        return cls(a.shape, a.dtype, a.device, channels_last(a))


def obstacle(
    name: str, x: Described, weight: Described, groups: int, forced: str, stride: Sequence[int] = (1, 1)
) -> str:
    """Why the implementation ``name`` cannot run; empty if it can."""
    on_cpu = x.device.type == "cpu"
    if name in ("native", "winograd", "onednn") and (not on_cpu or forced == "cuda"):
        return "it runs on the CPU only"
    if name == "native":
        return "" if x.dtype in _NATIVE_DTYPES else f"it does not compute {_name(x.dtype)}"
    if name == "winograd":
        return rep_conv.winograd_obstacle(x, weight, stride, groups)
    if name == "onednn":
        if 0 in x.shape or 0 in weight.shape:
            return "there is nothing to convolve"
        return onednn_obstacle(x.dtype)
    if name in FUSED:
        if x.device.type != "cuda":
            return "it runs on CUDA only"
        if not x.last:
            return "x must be channels_last"
        return library_missing(name)
    return ""


def candidates(
    x: Described, weight: Described, stride: Sequence[int], groups: int, method: str, forced: str
) -> list[str]:
    """The implementations for these tensors, best first; ``forced`` is what ``fastdet.ops.backend`` says.

    Those of ``FUSED`` may still refuse a shape when they plan for it.
    """
    if method != "auto":
        why = obstacle(method, x, weight, groups, forced, stride)
        if why:
            raise RuntimeError(f"rep_conv2d: backend {method!r} was asked for, but {why}")
        return [method]
    if forced == "cpu":
        preferred: tuple[str, ...] = ("native", "torch")
    elif x.device.type == "cpu":
        # On contiguous float32 oneDNN converts to channels_last and back, which costs what the fusion saves.
        # 16-bit formats that the processor lacks are slow in torch and lose precision there.
        whole = x.dtype in (torch.float32, torch.float64) or not onednn_obstacle(x.dtype)
        preferred = ("onednn", "torch") if x.last or x.dtype != torch.float32 else ("torch",)
        preferred = preferred if whole else ("native", "torch")
        preferred = ("winograd", *preferred) if rep_conv.worth_winograd(x, weight) else preferred
    else:
        preferred = (*FUSED, "torch")
    return [name for name in preferred if not obstacle(name, x, weight, groups, forced, stride)]


def choose(x: Tensor, conv: Convolution, method: str, forced: str) -> str:
    """The implementation that runs: the first candidate, of ``FUSED`` the first that has a plan for this call."""
    weight = Described.of(conv.weight)
    for name in candidates(Described.of(x), weight, conv.stride, conv.groups, method, forced):
        if name not in FUSED:
            return name
        why = _core.rep_conv2d_fused(name, x, *_last(conv), True)
        if not why:
            return name
        if method != "auto":
            raise RuntimeError(f"rep_conv2d: backend {name!r} was asked for, but {why}")
    return "torch"


@functools.lru_cache(maxsize=1024)
def _plan_on_cpu(
    x: Described,
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    residual: tuple[int, ...] | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    groups: int,
    method: str,
    forced: str,
    onednn: str,
) -> tuple[str, tuple[int, int]]:
    """What runs and the size of its result. Remembered: to check and to choose costs as much as a small convolution.
    ``onednn``, what ``onednn_obstacle`` says now, may change between calls."""
    a, w, b, r = (None if s is None else SimpleNamespace(shape=s) for s in (x.shape, weight, bias, residual))
    size = rep_conv.check_shapes(a, w, b, stride, padding, groups, r)
    return candidates(x, x._replace(shape=weight), stride, groups, method, forced)[0], size


def _last(conv: Convolution) -> Convolution:
    weight = conv.weight.contiguous(memory_format=torch.channels_last)
    residual = conv.residual
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    return conv._replace(weight=weight, residual=residual)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    activation: str,
    residual: Tensor | None,
    add_first: bool,
    method: str,
    forced: str,
) -> Tensor:
    """``rep_conv2d`` now, on real tensors: the arguments of its operator and what forces a backend."""
    conv = Convolution(weight, bias, stride, padding, groups, activation, residual, add_first)
    dtype, device = x.dtype, x.device
    if device.type != "cpu":
        size = conv.size(x)
        _check_kinds("rep_conv2d", x, weight=weight, bias=bias, residual=residual)
        return _run_by(choose(x, conv, method, forced), x, conv, size, channels_last(x), forced)
    seen = Described(x.shape, dtype, device, channels_last(x))
    name, size = _plan_on_cpu(
        seen,
        weight.shape,
        None if bias is None else bias.shape,
        None if residual is None else residual.shape,
        tuple(stride),
        tuple(padding),
        groups,
        method,
        forced,
        onednn_obstacle(dtype),
    )
    for a in (weight, bias, residual):
        if a is not None and (a.dtype != dtype or a.device != device):
            _check_kinds("rep_conv2d", x, weight=weight, bias=bias, residual=residual)
    return _run_by(name, x, conv, size, seen.last, forced)


def quick(
    x: Any,
    weight: Any,
    bias: Any,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    activation: str,
    residual: Any,
    add_first: bool,
    method: str,
) -> Tensor | None:
    """``run`` where nobody watches plain tensors on the CPU, by as little Python as can be: it costs as much as a small
    convolution. None where more has to be looked at, for example to say what is wrong."""
    if torch.compiler.is_compiling() or being_watched() or current_backend() != "auto" or _backend._log_calls:
        return None
    differentiable = False
    kinds: list[Any] = []
    for a in (x, weight, bias, residual):
        if a is None:
            kinds.append(None)
        elif type(a) not in PLAIN or not a.is_cpu or a.is_neg():
            return None
        else:
            kinds.append((a.shape, a.dtype))
            differentiable = differentiable or a.requires_grad
    if kinds[0] is None or kinds[1] is None:
        return None
    last = channels_last(x)
    find = _trained if differentiable and torch.is_grad_enabled() else _bound
    if find is None:
        find = _attach_trained()
    bound = find(*kinds, last, stride, padding, groups, activation, add_first, method, onednn_switch())
    return None if bound is None else bound(x, weight, bias, residual)


def plan_of(
    x: Kind,
    weight: Kind,
    bias: Kind | None,
    residual: Kind | None,
    last: bool,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    method: str,
    onednn: bool,
) -> tuple[str, tuple[int, int]] | None:
    """What runs without gradients, and the size of its result; None where something is wrong with the tensors."""
    if any(a is not None and a[1] != x[1] for a in (weight, bias, residual)) or not x[1].is_floating_point:
        return None
    seen = Described(x[0], x[1], torch.device("cpu"), last)
    shapes = [None if a is None else a[0] for a in (weight, bias, residual)]
    try:
        why_not = onednn_obstacle(x[1])  # what ``onednn``, its switch, changes
        return _plan_on_cpu(seen, *shapes, stride, padding, groups, method, "auto", why_not)
    except (ValueError, RuntimeError):
        return None


@functools.lru_cache(maxsize=1024)
def _bound(
    x: Kind,
    weight: Kind,
    bias: Kind | None,
    residual: Kind | None,
    last: bool,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    activation: str,
    add_first: bool,
    method: str,
    onednn: bool,
) -> Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor] | None:
    """All that is decided for such tensors, as one function of them; None where something is wrong with them."""
    plan = plan_of(x, weight, bias, residual, last, stride, padding, groups, method, onednn)
    if plan is None:
        return None
    name, size = plan
    layout = torch.channels_last if last else torch.contiguous_format
    empty_call = 0 in x[0] or 0 in weight[0]

    def general(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        conv = Convolution(weight, bias, stride, padding, groups, activation, residual, add_first)
        return _run_by(name, x, conv, size, last, "auto")

    def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            return general(x, weight, bias, residual)
        rep_conv.log_choice(name)
        y = torch.conv2d(x, weight, bias, stride, padding, 1, groups).contiguous(memory_format=layout)
        return _activate_(y, activation)

    unary, scalars = _ONEDNN_NAMES[activation], _ONEDNN_SCALARS.get(activation, [])

    def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        rep_conv.log_choice(name)
        y = _pointwise("default")(x, weight, bias, padding, stride, (1, 1), groups, unary, scalars, "")
        return y.contiguous(memory_format=layout)

    alone = residual is None and not empty_call
    return {"torch": by_torch, "onednn": by_onednn}.get(name, general) if alone else general


def _attach_trained() -> Any:
    """``_bound`` where gradients are wanted."""
    global _trained
    from fastdet.ops import _torch_rep_conv_train

    _trained = _torch_rep_conv_train.trained
    return _trained


def chosen_for_gradients(x: Tensor, conv: Convolution, method: str) -> str | None:
    """The implementation for tensors whose gradients are wanted; None where that is the usual one."""
    from fastdet.ops import _torch_rep_conv_train

    return _torch_rep_conv_train.chosen(x, conv, method)


def _run_by(name: str, x: Tensor, conv: Convolution, size: Sequence[int], last: bool, forced: str) -> Tensor:
    """``conv`` by the implementation ``name``; ``last``: whether the result is to be channels_last."""
    rep_conv.log_choice(name)
    if name in FUSED:
        return _core.rep_conv2d_fused(name, x, *_last(conv), False).permute(0, 3, 1, 2)
    if name == "native":
        y = _core.rep_conv2d(x, *conv, last)
        return y.permute(0, 3, 1, 2) if last else y
    if name == "winograd":
        return run_winograd(x, conv, None, last)
    layout = torch.channels_last if last else torch.contiguous_format
    if name == "onednn":
        return fused_onednn(x, conv).contiguous(memory_format=layout)
    kernel = (x.device.type == "cuda" or forced == "cuda") and x.dtype in _NATIVE_DTYPES
    y = _convolved(x, conv._replace(bias=None) if kernel else conv, size).contiguous(memory_format=layout)
    if kernel:
        _core.bias_act_in_place(y, conv.bias, conv.activation, conv.residual, conv.add_first, forced)
        return y
    return _finish_(y, conv)


def run_winograd(
    x: Tensor, conv: Convolution, packed: Tensor | None, last: bool, *, turned: bool = False, between: bool = False
) -> Tensor:
    """The convolution by fewer products, channels_last where ``last``; ``packed``: the weight transformed for that.
    ``turned``: with (I, O) in the place of (O, I) and the filters by half a circle. ``between``: calls of torch come
    before and after, whose threads are to do it."""

    def dense(a: Tensor | None) -> Tensor | None:
        if a is None or (not last and a.stride(3) == 1):
            return a
        return a.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    attributes = (conv.bias, conv.padding, conv.activation, dense(conv.residual), conv.add_first, last, turned, between)
    y: Tensor = _core.rep_conv2d_winograd(dense(x), conv.weight, packed, *attributes)
    return y.permute(0, 3, 1, 2) if last else y


def fused_onednn(x: Tensor, conv: Convolution) -> Tensor:
    """oneDNN's convolution with what it can take along; its weight plain or packed; the result is channels_last."""
    _, bias, stride, padding, groups, activation, residual, add_first = conv
    layout = (bias, padding, stride, (1, 1), groups)
    before = residual is not None and (add_first or activation == "none")
    # Groups, and contiguous tensors with a plain weight, reach an operator of torch's that lacks the 16-bit dtypes.
    whole = x.dtype == torch.float32 or (groups == 1 and (conv.weight.is_mkldnn or channels_last(x)))
    if before and whole and activation in ("none", "relu"):
        unary = "relu" if activation == "relu" else None
        return _pointwise("binary")(x, residual, conv.weight, *layout, "add", 1.0, unary, [], "")
    name = "none" if before else _ONEDNN_NAMES[activation]
    y = _pointwise("default")(x, conv.weight, *layout, name, _ONEDNN_SCALARS.get(name, []), "")
    if residual is not None:
        y = y.add_(residual)
    return _activate_(y, activation) if before else y


@functools.cache
def _pointwise(overload: str) -> Any:
    return getattr(torch.ops.mkldnn._convolution_pointwise, overload)


def _convolved(x: Tensor, conv: Convolution, size: Sequence[int]) -> Tensor:
    """torch's convolution in the dtype of ``x``, whatever autocast says."""
    weight, bias, stride, padding, groups = conv[:5]
    if x.numel() == 0 or weight.numel() == 0:
        y = empty(x, (x.shape[0], weight.shape[0], *size)).zero_()
        return y if bias is None else y.add_(bias.view(-1, 1, 1))
    if not torch.is_autocast_enabled(x.device.type):
        return torch.conv2d(x, weight, bias, stride, padding, 1, groups)
    with _without_autocast(x):
        return torch.conv2d(x, weight, bias, stride, padding, 1, groups)


def _without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def _finish_(y: Tensor, conv: Convolution) -> Tensor:
    """Activation and residual in place."""
    activation, residual, add_first = conv[5:]
    if residual is not None and add_first:
        y = y.add_(residual)
    y = _activate_(y, activation)
    return y.add_(residual) if residual is not None and not add_first else y


def _activate_(y: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.relu_(y)
    if activation == "silu":
        return torch.nn.functional.silu(y, inplace=True)
    return torch.nn.functional.leaky_relu_(y, 0.1) if activation == "leaky_relu" else y


def _activate(x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.relu(x)
    if activation == "silu":
        return torch.nn.functional.silu(x)
    return torch.nn.functional.leaky_relu(x, 0.1)


def run_bias_act(
    x: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None, add_first: bool, forced: str
) -> Tensor:
    """``bias_act`` now, on real tensors."""
    last = x.ndim == 4 and channels_last(x)
    y = _core.bias_act(x, bias, activation, residual, add_first, last, forced)
    return y.permute(0, 3, 1, 2) if last else y


def run_backward(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """``rep_conv2d_backward`` now, on real tensors: the activation's input again, its slope, convolution_backward."""
    *described, wanted = arguments
    conv = Convolution(*described)
    size, dtype = conv.size(x), x.dtype
    if x.device.type == "cpu" and dtype in (torch.float16, torch.bfloat16):  # torch lacks some of these on the CPU
        grad, x = grad.float(), x.float()
        conv = Convolution._make(a.float() if isinstance(a, Tensor) else a for a in conv)
    weight, _, stride, padding, groups, activation, residual, add_first = conv
    g = grad.contiguous(memory_format=memory_format(x))
    if activation != "none":
        pre = _convolved(x, conv, size)
        g = _through_activation(g, pre.add_(residual) if residual is not None and add_first else pre, activation)
    if x.numel() == 0 or weight.numel() == 0 or g.numel() == 0:
        grads: Sequence[Tensor | None] = (torch.zeros_like(x), torch.zeros_like(weight), g.sum((0, 2, 3)))
    else:
        with _without_autocast(x):
            grads = torch.ops.aten.convolution_backward(
                g, x, weight, [weight.shape[0]], list(stride), list(padding), [1, 1], False, [0, 0], groups,
                list(wanted[:3]),
            )  # fmt: skip
    # Results of an operator may not share memory with its arguments, nor with each other.
    last = g.clone() if wanted[3] and g.data_ptr() == grad.data_ptr() else g
    found = zip((*grads, last), wanted)
    return tuple(
        a.to(dtype).contiguous() if want and a is not None else grad.new_empty(0, dtype=dtype) for a, want in found
    )


def _through_activation(grad: Tensor, pre: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, pre, 0)
    if activation == "silu":
        return torch.ops.aten.silu_backward(grad, pre)
    return torch.ops.aten.leaky_relu_backward(grad, pre, 0.1, False)


def _check_kinds(op: str, x: Tensor, **others: Tensor | None) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{op}: x must be float32, float16, bfloat16 or float64, got {_name(x.dtype)}")
    for name, a in others.items():
        if a is not None and not isinstance(a, Tensor):
            raise TypeError(f"{op}: {name} must be a torch tensor like x, got {type(a).__name__}")
        if a is not None and a.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {_name(x.dtype)} like x, got {_name(a.dtype)}")
        if a is not None and a.device != x.device:
            raise ValueError(f"{op}: {name} must lie on {x.device} like x, got {a.device}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class PackedRepConv:
    """A convolution of ``rep_conv2d`` whose weight is kept in the form that is computed with.

    Called with ``x`` (B, I, H, W) and, if there is one, the residual. Results are channels_last, whatever ``x`` is, so
    that a chain of these converts the first input only. It computes what ``rep_conv2d`` does with this ``backend`` and
    has no gradient. Where neither can run, ``backend`` says so and ``rep_conv2d`` is called with the plain weight.

    Attributes:
        backend: ``"winograd"``, ``"onednn"`` or ``"auto"``.
        why_not: why oneDNN, where it was wanted, cannot run; empty where the weight is packed.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        groups: int,
        activation: str,
        add_first: bool,
        input_shape: Sequence[int] | None,
    ):
        self._conv = Convolution(
            weight.detach(), None if bias is None else bias.detach(), list(stride), list(padding), groups, activation,
            None, add_first,
        )  # fmt: skip
        self._packed = self._conv.weight
        self.why_not = ""
        wide = min(weight.shape[:2]) >= rep_conv.WINOGRAD_CHANNELS and weight.device.type == "cpu"
        if wide and not rep_conv.winograd_obstacle(weight, weight, stride, groups):
            self.backend = "winograd"
            self._packed = _core.rep_conv2d_winograd_pack(self._packed, True)
            return
        self.why_not = "it runs on the CPU only" if weight.device.type != "cpu" else onednn_obstacle(weight.dtype)
        if not self.why_not and weight.numel() == 0:
            self.why_not = "there is nothing to convolve"
        self.backend = "auto" if self.why_not else "onednn"
        if not self.why_not:
            given = None if input_shape is None else list(input_shape)
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self._packed, list(padding), list(stride), [1, 1], groups, given
            )

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        conv = self._conv._replace(residual=residual)
        if self.why_not or x.numel() == 0:
            return rep_conv.REP_CONV2D(x, *conv, "auto")
        if self.backend == "winograd":
            return run_winograd(x, conv, self._packed, True)
        return fused_onednn(x, conv._replace(weight=self._packed))
