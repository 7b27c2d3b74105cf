# SPDX-License-Identifier: Apache-2.0
"""The folded convolution with its epilogue fused: bias, activation, residual."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops import _backend
from fastdet.ops._attributes import whole
from fastdet.ops._backend import Op, kept_inputs

ACTIVATIONS = ("none", "relu", "silu", "leaky_relu")
CONVOLUTIONS = ("auto", "native", "winograd", "onednn", "torch", "cudnn", "cutlass")
WINOGRAD_CHANNELS, WINOGRAD_PIXELS = 16, 64  # fewer are not faster by it
_LEAKY_SLOPE = 0.1
_quick: Any = None  # see _torch_rep_conv.quick


def rep_conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    activation: str = "silu",
    residual: Any = None,
    add_first: bool = False,
    backend: str = "auto",
) -> Any:
    """Convolution, bias, activation and residual in as few passes over memory as the machine allows.

    y = act(conv(x, weight) + bias) + residual, as in the bottlenecks of the YOLO families, or with ``add_first``
    y = act(conv(x, weight) + bias + residual), as in ResNet and the backbones of DAMO-YOLO.

    Args:
        x: (B, I, H, W); float32, float16 or bfloat16 (torch also float64). A channels_last torch tensor is used as it
            is, and is the faster form.
        weight: (O, I / groups, kh, kw), dtype of ``x``; ``fold_conv_bn`` and ``fold_rep_conv`` make it.
        bias: (O,), dtype of ``x``, or None.
        stride, padding: one number or (vertical, horizontal); padding with zeros on both sides.
        groups: divides I and O; ``groups == I == O`` is depthwise.
        activation: ``"silu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.1, as in YOLOv7-tiny) or ``"none"``.
        residual: shape and dtype of the result, or None.
        add_first: add the residual before the activation.
        backend: which implementation runs; ``rep_conv2d_backend`` tells what ``"auto"`` means for given arrays.
            ``"native"``: fastdet's own, CPU, needs no torch. ``"winograd"``: the same with fewer products, float32 on
            CPUs with AVX-512, 3x3 kernels of stride 1 in one group. ``"onednn"``: torch's fused oneDNN operator, CPU.
            ``"torch"``: torch's convolution, then one pass for the rest, CPU and CUDA. ``"cudnn"``, ``"cutlass"``: one
            fused CUDA kernel.

    Returns:
        (B, O, P, Q), P = (H + 2 padding - kh) // stride + 1; kind, device and dtype of ``x``. Contiguous; channels_last
        where ``x`` is a channels_last torch tensor.

    Sums are float32 (float64 for float64) on every backend, in an order that differs between backends; each backend
    repeats its own bits. float16 and bfloat16 results are rounded once, by ``"torch"`` after the convolution too, by
    ``"onednn"`` before a residual too. ``"winograd"`` (minimal filtering F(2 x 2, 3 x 3), arXiv 1509.09308) rounds
    relative to the greatest of the 4 x 4 pixels that a sum is taken of; numbers that are not finite make ``"native"``
    compute the call, so that they reach the pixels whose windows hold them, and no others.

    Raises:
        ValueError: shapes do not agree or an attribute is out of range. TypeError: dtype not listed, or not that of x.
        RuntimeError: the backend asked for cannot run this; the message says why.

    Gradients: of x, weight, bias and residual. Eager autograd on the CPU, float32 and float64, keeps the activation's
    input where ``"torch"`` or ``"winograd"`` computes, and ``"auto"`` takes no other there; ``"winograd"`` computes the
    gradient of x too. Elsewhere the activation's input is computed again. The rest is torch's convolution_backward.
    """
    attributes = _attributes(stride, padding, groups, activation)
    if backend not in CONVOLUTIONS:
        raise ValueError(f"rep_conv2d: backend must be one of {', '.join(CONVOLUTIONS)}, got {backend!r}")
    _backend.attach_torch()
    if _quick is not None:
        y = _quick(x, weight, bias, *attributes, residual, bool(add_first), backend)
        if y is not None:
            return y
    return REP_CONV2D(x, weight, bias, *attributes, residual, bool(add_first), backend)


def rep_conv2d_backend(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    activation: str = "silu",
    residual: Any = None,
    add_first: bool = False,
    backend: str = "auto",
) -> str:
    """The implementation that ``rep_conv2d`` takes for this call: a name of its ``backend`` other than ``"auto"``.

    Args:
        x, weight, bias, stride, padding, groups, activation, residual, add_first, backend: as for ``rep_conv2d``. Only
            CUDA's fused implementations look at more than ``x`` and ``weight``: they plan for the very call. On the CPU
            it matters whether one of the tensors wants a gradient.

    Raises:
        RuntimeError: the backend asked for cannot run this; the message says why.
    """
    attributes = _attributes(stride, padding, groups, activation)
    if backend not in CONVOLUTIONS:
        raise ValueError(f"rep_conv2d: backend must be one of {', '.join(CONVOLUTIONS)}, got {backend!r}")
    half = _torch_half(x)
    forced = _backend.current_backend()
    if forced == "reference":
        return "reference"
    if half is None:
        return _choose_for_arrays(x, weight, attributes[0], groups, backend)
    conv = Convolution(weight, bias, *attributes, residual, bool(add_first))
    if forced == "auto":
        trained = half.chosen_for_gradients(x, conv, backend)
        if trained is not None:
            return trained
    return half.choose(x, conv, backend, forced)


def pack_rep_conv(
    weight: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    activation: str = "silu",
    add_first: bool = False,
    input_shape: Sequence[int] | None = None,
) -> Any:
    """``rep_conv2d`` with its weight converted once to what is computed with, for repeated use on the CPU.

    Args:
        weight, bias, stride, padding, groups, activation, add_first: as for ``rep_conv2d``; torch tensors. Later
            changes of ``weight`` are not seen.
        input_shape: (B, I, H, W) to expect, if known; others work too.

    Returns:
        A callable (x, residual=None) -> result, channels_last whatever ``x`` is, without gradients. Its ``backend``
        is ``"winograd"`` where that can run and there are 16 channels or more, else ``"onednn"``; where that cannot
        run it is ``"auto"``, ``why_not`` says why, and ``rep_conv2d`` is called.

    Raises:
        TypeError: weight is no torch tensor. ValueError: an attribute is out of range.
    """
    half = _torch_half(weight)
    if half is None:
        raise TypeError(f"pack_rep_conv: weight must be a torch tensor, got {type(weight).__name__}")
    return half.PackedRepConv(
        weight, bias, *_attributes(stride, padding, groups, activation), bool(add_first), input_shape
    )


def bias_act(
    x: Any, bias: Any = None, *, activation: str = "silu", residual: Any = None, add_first: bool = False
) -> Any:
    """What follows a convolution, in one pass: y = act(x + bias) + residual, or with ``add_first`` act(x + bias +
    residual). The arithmetic is float32, the same bits on CPU and CUDA.

    Args:
        x: (B, O, P, Q); float32, float16 or bfloat16; any strides.
        bias: (O,), dtype of ``x``, or None.
        activation, add_first: as for ``rep_conv2d``.
        residual: shape and dtype of ``x``, or None.

    Returns:
        (B, O, P, Q), kind, device and dtype of ``x``; contiguous, channels_last where ``x`` is such a torch tensor.

    Raises:
        ValueError: shapes do not agree. TypeError: dtype not listed, or not that of x. Gradients: none.
    """
    return BIAS_ACT(x, bias, _activation("bias_act", activation), residual, bool(add_first))


def rep_conv2d_backward(
    grad: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    activation: str = "silu",
    residual: Any = None,
    add_first: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """Gradients of ``rep_conv2d`` for x, weight, bias and what is added before the activation.

    Args:
        grad: (B, O, P, Q), the gradient of the result.
        x, weight, bias, stride, padding, groups, activation, residual, add_first: as for ``rep_conv2d``.

    Returns:
        (B, I, H, W), (O, I / groups, kh, kw), (O,) and (B, O, P, Q); the last is the residual's gradient with
        ``add_first``, otherwise that is ``grad`` itself. torch computes on the device; NumPy takes the reference.
    """
    attributes = _attributes(stride, padding, groups, activation)
    wanted = [True, True, True, True]
    return REP_CONV2D_BACKWARD(grad, x, weight, bias, *attributes, residual, bool(add_first), wanted)


def rep_conv2d_reference(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    activation: str,
    residual: np.ndarray | None,
    add_first: bool,
    backend: str = "auto",
) -> np.ndarray:
    """``rep_conv2d`` in NumPy, with float64 sums; float32 result (float64 for float64)."""
    check_shapes(x, weight, bias, stride, padding, groups, residual)
    total = _convolved(x, weight, bias, stride, padding, groups)
    return _finished(total, activation, residual, add_first).astype(_wide(x))


def bias_act_reference(
    x: np.ndarray, bias: np.ndarray | None, activation: str, residual: np.ndarray | None, add_first: bool
) -> np.ndarray:
    """``bias_act`` in NumPy, in float64; float32 result."""
    total = x.astype(np.float64) + (0 if bias is None else bias.astype(np.float64)[:, None, None])
    return _finished(total, activation, residual, add_first).astype(_wide(x))


def rep_conv2d_backward_reference(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    activation: str,
    residual: np.ndarray | None,
    add_first: bool,
    wanted: Sequence[bool],
) -> tuple[np.ndarray, ...]:
    """``rep_conv2d_backward`` in NumPy, in float64; what is not wanted is empty."""
    total = _convolved(x, weight, bias, stride, padding, groups)
    if residual is not None and add_first:
        total = total + residual
    g = grad.astype(np.float64) * _slope(total, activation)
    b, o, p, q = g.shape
    inputs, outputs = weight.shape[1], o // groups
    padded = _padded(x, padding)
    grad_x, grad_weight = np.zeros(padded.shape), np.zeros(weight.shape)
    by_group = g.reshape(b, groups, outputs, p * q)
    kernels = weight.astype(np.float64).reshape(groups, outputs, inputs, *weight.shape[2:])
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            at = (slice(None), slice(None), *_window((r, s), stride, (p, q)))
            seen = padded[at].reshape(b, groups, inputs, p * q)
            grad_weight[:, :, r, s] = (by_group @ seen.swapaxes(2, 3)).sum(0).reshape(o, inputs)
            grad_x[at] += (kernels[..., r, s].swapaxes(1, 2) @ by_group).reshape(b, x.shape[1], p, q)
    grad_x = grad_x[:, :, padding[0] : padding[0] + x.shape[2], padding[1] : padding[1] + x.shape[3]]
    grads = (grad_x, grad_weight, g.sum((0, 2, 3)), g)
    wide = _wide(x)
    return tuple(a.astype(wide) if want else np.zeros(0, wide) for a, want in zip(grads, wanted))


def check_shapes(
    x: Any, weight: Any, bias: Any, stride: Sequence[int], padding: Sequence[int], groups: int, residual: Any
) -> tuple[int, int]:
    """(P, Q) of ``rep_conv2d``'s result; ValueError where shapes do not agree."""
    for name, array in (("x", x), ("weight", weight)):
        if not hasattr(array, "shape"):
            raise TypeError(f"rep_conv2d: {name} must be an array or a tensor, got {type(array).__name__}")
        if len(array.shape) != 4:
            raise ValueError(f"rep_conv2d: {name} must have 4 dimensions, got {tuple(array.shape)}")
    for name, pair, least in (("stride", stride, 1), ("padding", padding, 0)):
        if min(pair) < least:
            raise ValueError(f"rep_conv2d: {name} must be at least {least}, got {tuple(pair)}")
    channels, filters = x.shape[1], weight.shape[0]
    if groups < 1 or channels % groups or filters % groups:
        raise ValueError(
            f"rep_conv2d: groups must divide the channels of x {tuple(x.shape)} and of weight {tuple(weight.shape)}, "
            f"got {groups}"
        )
    if weight.shape[1] != channels // groups:
        raise ValueError(
            f"rep_conv2d: weight must be (O, {channels // groups}, kh, kw) for x {tuple(x.shape)} and groups {groups}, "
            f"got {tuple(weight.shape)}"
        )
    if any(weight.shape[i] < 1 or x.shape[i] + 2 * padding[i - 2] < weight.shape[i] for i in (2, 3)):
        raise ValueError(
            f"rep_conv2d: the kernel must fit into the padded picture, got kernel {tuple(weight.shape[2:])}, "
            f"padding {tuple(padding)}, x {tuple(x.shape)}"
        )
    p, q = ((x.shape[i] + 2 * padding[i - 2] - weight.shape[i]) // stride[i - 2] + 1 for i in (2, 3))
    if bias is not None and (len(bias.shape) != 1 or bias.shape[0] != filters):
        raise ValueError(f"rep_conv2d: bias must be ({filters},), got {tuple(bias.shape)}")
    shape = (x.shape[0], filters, p, q)
    if residual is not None and (len(residual.shape) != 4 or any(a != b for a, b in zip(residual.shape, shape))):
        raise ValueError(f"rep_conv2d: residual must be {shape} like the result, got {tuple(residual.shape)}")
    return p, q


def _convolved(x, weight, bias, stride, padding, groups) -> np.ndarray:
    """conv(x, weight) + bias in float64: one product of matrices for each position of the kernel."""
    p, q = check_shapes(x, weight, bias, stride, padding, groups, None)
    padded = _padded(x, padding)
    b, inputs, outputs = x.shape[0], weight.shape[1], weight.shape[0] // groups
    kernels = weight.astype(np.float64).reshape(groups, outputs, inputs, *weight.shape[2:])
    total = np.zeros((b, groups, outputs, p * q))
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            seen = padded[(slice(None), slice(None), *_window((r, s), stride, (p, q)))]
            total += kernels[..., r, s] @ seen.reshape(b, groups, inputs, p * q)
    total = total.reshape(b, weight.shape[0], p, q)
    return total if bias is None else total + bias.astype(np.float64)[:, None, None]


def _padded(x: np.ndarray, padding: Sequence[int]) -> np.ndarray:
    return np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))


def _window(at: tuple[int, int], stride: Sequence[int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Pixels of the padded picture that one position of the kernel meets."""
    rows, columns = (slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(at, stride, size))
    return rows, columns


def _finished(total: np.ndarray, activation: str, residual: np.ndarray | None, add_first: bool) -> np.ndarray:
    """The epilogue after the bias, in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        if residual is not None and add_first:
            total = total + residual
        if activation == "relu":
            total = np.where((total > 0) | np.isnan(total), total, 0.0)
        elif activation == "silu":
            total = total / (1.0 + np.exp(-total))
        elif activation == "leaky_relu":
            total = np.where(total > 0, total, total * _LEAKY_SLOPE)
        return total + residual if residual is not None and not add_first else total


def _slope(total: np.ndarray, activation: str) -> np.ndarray:
    """Derivative of the activation."""
    if activation == "relu":
        return (total > 0).astype(np.float64)
    if activation == "leaky_relu":
        return np.where(total > 0, 1.0, _LEAKY_SLOPE)
    if activation == "silu":
        with np.errstate(over="ignore"):
            sigmoid = 1.0 / (1.0 + np.exp(-total))
        return sigmoid * (1.0 + total * (1.0 - sigmoid))
    return np.ones_like(total)


def _wide(x: np.ndarray) -> type[np.floating[Any]]:
    return np.float64 if x.dtype == np.float64 else np.float32


def _attributes(
    stride: int | Sequence[int], padding: int | Sequence[int], groups: int, activation: str
) -> tuple[tuple[int, int], tuple[int, int], int, str]:
    count = whole("rep_conv2d", "groups", groups)
    return _pair("stride", stride), _pair("padding", padding), count, _activation("rep_conv2d", activation)


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value) if hasattr(value, "__iter__") else (value, value)
    if len(values) != 2:
        raise ValueError(f"rep_conv2d: {name} must be one number or two, got {values}")
    return whole("rep_conv2d", name, values[0]), whole("rep_conv2d", name, values[1])


def _activation(op: str, name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"{op}: activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return name


def _torch_half(x: Any) -> Any:
    """What to do with a torch tensor; None for another array."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return None
    from fastdet.ops import _torch_rep_conv

    return _torch_rep_conv


class Convolution(NamedTuple):
    """What ``rep_conv2d`` is told beside ``x``, in the order of its operator's arguments."""

    weight: Any
    bias: Any
    stride: Sequence[int]
    padding: Sequence[int]
    groups: int
    activation: str
    residual: Any
    add_first: bool

    def size(self, x: Any) -> tuple[int, int]:
        """(P, Q) of the result; ValueError where shapes do not agree."""
        return check_shapes(x, *self[:5], self.residual)


def winograd_obstacle(x: Any, weight: Any, stride: Sequence[int], groups: int) -> str:
    """Why ``"winograd"`` cannot run on these arrays, which lie on the CPU; empty if it can."""
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype != "float32":
        return f"it computes float32, not {dtype}"
    if tuple(weight.shape[2:]) != (3, 3) or tuple(stride) != (1, 1) or groups != 1:
        return "it computes 3x3 kernels of stride 1 in one group"
    if 0 in x.shape or 0 in weight.shape:
        return "there is nothing to convolve"
    return _winograd_missing()


def worth_winograd(x: Any, weight: Any) -> bool:
    """Whether products are most of the work, so that fewer of them are faster."""
    return min(weight.shape[:2]) >= WINOGRAD_CHANNELS and x.shape[0] * x.shape[2] * x.shape[3] >= WINOGRAD_PIXELS


@functools.cache
def _winograd_missing() -> str:
    return _core.rep_conv_winograd_missing()


def _choose_for_arrays(x: Any, weight: Any, stride: Sequence[int], groups: int, method: str) -> str:
    """The same choice for arrays that are not torch's: they bring no convolution along."""
    on_cuda, forced = hasattr(x, "__cuda_array_interface__"), _backend.current_backend()
    if on_cuda or forced == "cuda":
        raise RuntimeError(
            "rep_conv2d: convolutions on CUDA are torch's and need torch tensors, "
            f"got {type(x).__module__}.{type(x).__name__}; use torch.from_dlpack"
        )
    if method not in ("auto", "native", "winograd"):
        raise RuntimeError(f"rep_conv2d: backend {method!r} needs torch tensors, got {type(x).__name__}")
    why = winograd_obstacle(x, weight, stride, groups)
    if method == "winograd" and why:
        raise RuntimeError(f"rep_conv2d: backend 'winograd' was asked for, but {why}")
    if method == "auto":
        return "native" if why or forced == "cpu" or not worth_winograd(x, weight) else "winograd"
    return method


def _run_rep_conv2d(x: Any, *arguments: Any) -> Any:
    half = _torch_half(x)
    if half is not None:
        return half.run(x, *arguments)
    *described, method, _ = arguments
    conv = Convolution(*described)
    conv.size(x)
    name = _choose_for_arrays(x, conv.weight, conv.stride, conv.groups, method)
    log_choice(name)
    if name == "native":
        return _core.rep_conv2d(x, *conv, False)
    dense = [None if a is None else np.ascontiguousarray(a) for a in (x, conv.residual)]
    attributes = (conv.bias, conv.padding, conv.activation, dense[1], conv.add_first, *(False,) * 3)
    return _core.rep_conv2d_winograd(dense[0], conv.weight, None, *attributes)


def _run_bias_act(x: Any, *arguments: Any) -> Any:
    half = _torch_half(x)
    if half is not None:
        return half.run_bias_act(x, *arguments)
    *attributes, backend = arguments
    return _core.bias_act(x, *attributes, False, backend)


def _run_backward(grad: Any, *arguments: Any) -> Any:
    half = _torch_half(grad)
    *attributes, _ = arguments
    if half is not None:
        return half.run_backward(grad, *attributes)
    grads = rep_conv2d_backward_reference(grad, *attributes)
    return tuple(a.astype(grad.dtype) for a in grads)


def set_quick(function: Any) -> None:
    """Said by the torch half once torch is there."""
    global _quick
    _quick = function


def log_choice(name: str) -> None:
    """Tell on standard error which implementation runs, where FASTDET_LOG asks for it."""
    if _backend._log_calls:
        sys.stderr.write(f"fastdet rep_conv2d: by {name}\n")


def _fake(x: Any, *arguments: Any) -> Any:
    from fastdet.ops import _torch_rep_conv

    return _torch_rep_conv.fake(x, *arguments)


def _fake_bias_act(x: Any, *_: Any) -> Any:
    from fastdet.ops import _torch_rep_conv

    return _torch_rep_conv.empty(x, x.shape)


def _fake_backward(grad: Any, x: Any, weight: Any, bias: Any, *arguments: Any) -> tuple[Any, ...]:
    shapes = (x.shape, weight.shape, weight.shape[:1], grad.shape)
    return tuple(grad.new_empty(shape if want else (0,)) for shape, want in zip(shapes, arguments[-1]))


def _eager_function() -> Any:
    from fastdet.ops import _torch_rep_conv_train

    return _torch_rep_conv_train.Eager


def differentiate(ctx: Any, grad: Any) -> tuple[Any, ...]:
    """Gradients of the operator's arguments, from those that ``ctx`` has kept."""
    x, weight, bias, stride, padding, groups, activation, residual, add_first = kept_inputs(ctx)[:9]
    need = ctx.needs_input_grad
    wanted = [need[0], need[1], need[2], bool(need[7] and add_first)]
    grads: list[Any] = [None] * 4
    if any(wanted):
        attributes = (stride, padding, groups, activation, residual, add_first, wanted)
        found = REP_CONV2D_BACKWARD(grad, x, weight, bias, *attributes)
        grads = [a if want else None for a, want in zip(found, wanted)]
    if need[7] and not add_first:
        grads[3] = grad
    return (*grads[:3], None, None, None, None, grads[3], None, None)


_CONVOLUTION = "Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int groups, str activation"
REP_CONV2D_BACKWARD = Op(
    name="rep_conv2d_backward",
    schema=f"(Tensor grad, Tensor x, {_CONVOLUTION}, Tensor? residual, bool add_first, bool[4] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    native=_run_backward,
    reference=rep_conv2d_backward_reference,
    fake=_fake_backward,
    dtypes_of=(1, 2, 1, 0),
)
REP_CONV2D = Op(
    name="rep_conv2d",
    schema=f"(Tensor x, {_CONVOLUTION}, Tensor? residual, bool add_first, str method) -> Tensor",
    native=_run_rep_conv2d,
    reference=rep_conv2d_reference,
    fake=_fake,
    backward=differentiate,
    eager_function=_eager_function,
    dtypes_of=(0,),
)
BIAS_ACT = Op(
    name="bias_act",
    schema="(Tensor x, Tensor? bias, str activation, Tensor? residual, bool add_first) -> Tensor",
    native=_run_bias_act,
    reference=bias_act_reference,
    fake=_fake_bias_act,
    dtypes_of=(0,),
)
