# SPDX-License-Identifier: Apache-2.0
"""``rep_conv2d`` for eager autograd on the CPU, in steps that torch's own autograd joins: it frees each map as soon as
its gradient is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastdet.ops import _backend, rep_conv
from fastdet.ops._torch import function_of
from fastdet.ops._torch_rep_conv import Convolution, Kind, channels_last, onednn_switch, plan_of, run_winograd

# Fewer leave several threads too little to do by winograd: their direct sums are as fast. By whether channels are last.
TRAINED_PIXELS = {False: 1024, True: 256}
_DTYPES = (torch.float32, torch.float64)  # others are computed in float32 again, see run_backward
_Trained = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], "Tensor | None"]


class Winograd(torch.autograd.Function):
    """conv(x, weight) + bias of a 3x3 kernel by fewer products. So is the gradient of ``x``: it is the convolution of
    the result's gradient with the filters turned by half a circle. Those of weight and bias are torch's."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], last: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.last = padding, last
        return run_winograd(x, _linear(weight, bias, padding), None, last, between=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted, padding = list(ctx.needs_input_grad[:3]), ctx.padding
        grad_x = None
        # torch's where the gradient is to be differentiated in turn, or the border is wider than a turned filter needs.
        if wanted[0] and not torch.is_grad_enabled() and max(padding) <= 2:
            around = _linear(weight, None, (2 - padding[0], 2 - padding[1]))
            grad_x = run_winograd(grad, around, None, ctx.last, turned=True, between=True)
            wanted[0] = False
        if not any(wanted):
            return grad_x, None, None, None, None
        found = torch.ops.aten.convolution_backward(
            grad, x, weight, [weight.shape[0]], [1, 1], list(padding), [1, 1], False, [0, 0], 1, wanted
        )
        return grad_x if found[0] is None else found[0], found[1], found[2], None, None


def _linear(weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Convolution:
    return Convolution(weight, bias, (1, 1), padding, 1, "none", None, False)


@functools.lru_cache(maxsize=1024)
def trained(
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
) -> _Trained | None:
    """All that is decided for such tensors, as one function of them, which autograd can differentiate. None where they
    are to go through the operator: its gradient computes the activation's input again, and errors are told there."""
    name = implementation(x, weight, bias, residual, last, stride, padding, groups, method, onednn)
    if name is None:
        return None
    layout = torch.channels_last if last else torch.contiguous_format
    activate = _ACTIVATIONS[activation]
    # relu's gradient needs its result; that of Winograd may be a view, which autograd lets nobody change.
    may_change = activation in ("silu", "leaky_relu") or (activation == "none" and name == "torch")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor | None:
        if torch.is_autocast_enabled("cpu"):
            return None
        if name == "winograd":
            y: Tensor = Winograd.apply(x, weight, bias, padding, last)
        else:
            y = torch.conv2d(x, weight, bias, stride, padding, 1, groups).contiguous(memory_format=layout)
        if residual is not None and add_first:
            y = y + residual if name == "winograd" else y.add_(residual)
        y = activate(y)
        if residual is None or add_first:
            return y
        return y.add_(residual) if may_change else y + residual

    return run


def implementation(
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
) -> str | None:
    """``"torch"`` or ``"winograd"``, None where neither is taken for tensors whose gradients are wanted. ``"onednn"``
    does not give the activation's input away: it is not taken by itself, nor ``"winograd"`` for few pixels."""
    plan = plan_of(x, weight, bias, residual, last, stride, padding, groups, method, onednn)
    name = None if plan is None else plan[0]
    few = name == "winograd" and x[0][0] * x[0][2] * x[0][3] < TRAINED_PIXELS[last]
    if method == "auto" and (name == "onednn" or few):
        name = "torch"
    empty = 0 in x[0] or 0 in weight[0]
    return name if name in ("torch", "winograd") and x[1] in _DTYPES and not empty else None


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu,
    "silu": torch._C._nn.silu,  # what torch.nn.functional.silu calls
    "leaky_relu": lambda y: torch.nn.functional.leaky_relu(y, 0.1),
}


class Eager:
    """Stands where an autograd function would, for calls of the operator itself."""

    @staticmethod
    def apply(*args: Any) -> Tensor:
        """``args``: those of the operator, plain tensors."""
        x, *described, method = args
        conv = Convolution(*described)
        key = key_of(x, conv, method)
        function = None if key is None else trained(*key)
        y = None if function is None else function(x, conv.weight, conv.bias, conv.residual)
        if y is None:
            return function_of(rep_conv.REP_CONV2D).apply(*args)
        if _backend._log_calls:  # then nothing comes here by the short way
            _backend._log("rep_conv2d", "auto", args)
            rep_conv.log_choice(chosen(x, conv, method) or "")
        return y


def key_of(x: Tensor, conv: Convolution, method: str) -> tuple[Any, ...] | None:
    """What ``trained`` asks about such a call; None where it has no answer."""
    tensors = (x, conv.weight, conv.bias, conv.residual)
    if _backend.current_backend() != "auto" or any(a is not None and a.device.type != "cpu" for a in tensors):
        return None
    kinds = [None if a is None else (a.shape, a.dtype) for a in tensors]
    attributes = (tuple(conv.stride), tuple(conv.padding), conv.groups, conv.activation, conv.add_first)
    return (*kinds, channels_last(x), *attributes, method, onednn_switch())


def chosen(x: Tensor, conv: Convolution, method: str) -> str | None:
    """``"torch"`` or ``"winograd"`` where a call runs in these steps."""
    tensors = [a for a in (x, conv.weight, conv.bias, conv.residual) if a is not None]
    key = key_of(x, conv, method)
    if key is None or not torch.is_grad_enabled() or not any(a.requires_grad for a in tensors):
        return None
    a, w, b, r, last, stride, padding, groups, _, _, _, onednn = key
    return implementation(a, w, b, r, last, stride, padding, groups, method, onednn)
