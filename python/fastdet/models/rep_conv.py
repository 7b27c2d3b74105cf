# SPDX-License-Identifier: Apache-2.0
"""RepConv2d: a convolution that trains as parallel branches and runs as one, its epilogue fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdet import ops
from fastdet.models.blocks import ConvNormAct
from fastdet.models.fuse import fold_rep_conv

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "silu": F.silu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
}


class RepConv2d(nn.Module):
    """act(BN(k x k conv) + BN(smaller conv) + BN(x)), padded "same"; deployed: act(one k x k conv with bias).

    RepVGG (arXiv 2101.03697) with ``identity=True``; RepConv of YOLOv7, YOLOv9, DAMO-YOLO, RT-DETR without; the
    depthwise block of YOLOv10 with ``kernel=7, inner_kernel=3, groups=c_in``. A residual handed to ``forward`` is added
    behind the activation, with ``add_first`` before it.

    In training: ``dense.{conv,bn}``, ``inner.{conv,bn}`` and ``identity`` (a BatchNorm). After ``fuse()``: ``weight``
    and ``bias``, run by ``fastdet.ops.rep_conv2d``; on the CPU, where no gradient is asked for, with the weight packed
    for oneDNN on first use, and then results are channels_last. Exported and compiled graphs hold a plain convolution
    and its activation.

    Args:
        c_in, c_out: channels.
        kernel: k, odd. inner_kernel: side of the smaller kernel, odd, or None for no such branch.
        stride, groups: of all branches.
        identity: whether there is an identity branch; needs c_in == c_out and stride 1.
        act: ``"silu"``, ``"relu"``, ``"leaky_relu"`` or ``"none"``.
        add_first: where a residual goes.
        eps, momentum: of the BatchNorms.

    Raises:
        ValueError: an identity branch cannot be, a kernel is even, the inner one not smaller, ``act`` unknown.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 3,
        inner_kernel: int | None = 1,
        stride: int = 1,
        groups: int = 1,
        identity: bool = False,
        act: str = "silu",
        add_first: bool = False,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ):
        super().__init__()
        if identity and (c_in != c_out or stride != 1):
            raise ValueError(
                f"RepConv2d: identity needs c_in == c_out and stride 1, got {c_in}, {c_out} and stride {stride}"
            )
        if kernel % 2 == 0 or (inner_kernel is not None and (inner_kernel % 2 == 0 or inner_kernel >= kernel)):
            raise ValueError(f"RepConv2d: kernels must be odd, the inner one smaller, got {kernel} and {inner_kernel}")
        self._set((stride, stride), (kernel // 2, kernel // 2), groups, act, add_first, c_out)

        def branch(side: int) -> ConvNormAct:
            return ConvNormAct(
                c_in, c_out, kernel=side, stride=stride, groups=groups, act=None, eps=eps, momentum=momentum
            )

        self.dense: ConvNormAct | None = branch(kernel)
        self.inner: ConvNormAct | None = None if inner_kernel is None else branch(inner_kernel)
        self.identity: nn.BatchNorm2d | None = nn.BatchNorm2d(c_out, eps=eps, momentum=momentum) if identity else None

    def _set(
        self, stride: tuple[int, int], padding: tuple[int, int], groups: int, act: str, add_first: bool, c_out: int
    ) -> None:
        if act not in _ACTIVATIONS:
            raise ValueError(f"RepConv2d: act must be one of {', '.join(_ACTIVATIONS)}, got {act!r}")
        self.stride, self.padding, self.groups = stride, padding, groups
        self.act, self.add_first, self.c_out = act, add_first, c_out
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self._packed: Any = None
        self._packed_from: tuple[Any, ...] | None = None

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, act: str = "silu", add_first: bool = False) -> RepConv2d:
        """The deployed form of a convolution that has its bias already, such as ``fastdet.models.fuse`` leaves.

        Shares the parameters of ``conv``.

        Raises:
            ValueError: ``conv`` is dilated, or pads with something else than zeros.
        """
        if conv.dilation != (1, 1) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"RepConv2d: conv must have no dilation and pad with numbers of zeros, got {conv}")
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        stride, padding = (cast(tuple[int, int], tuple(pair)) for pair in (conv.stride, conv.padding))
        made._set(stride, padding, conv.groups, act, add_first, conv.out_channels)
        made.dense = made.inner = made.identity = None
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(conv.training)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]; ``residual`` has the result's shape."""
        if self.dense is not None:
            y = self.dense(x)
            y = y if self.inner is None else y + self.inner(x)
            y = y if self.identity is None else y + self.identity(x)
            return self._finish(y, residual)
        if self._plain(x, residual):
            y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
            return self._finish(y, residual)
        if x.device.type == "cpu" and ops.current_backend() == "auto":
            return self._pack(x)(x, residual)
        return ops.rep_conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            activation=self.act,
            residual=residual,
            add_first=self.add_first,
        )

    def fuse(self) -> RepConv2d:
        """Fold the branches into one convolution, in place; folding twice changes nothing. Returns self."""
        if self.dense is None:
            return self
        branches: list[tuple[nn.Conv2d | None, nn.Module | None]] = [(self.dense.conv, self.dense.bn)]
        if self.inner is not None:
            branches.append((self.inner.conv, self.inner.bn))
        if self.identity is not None:
            branches.append((None, self.identity))
        conv = fold_rep_conv(branches)
        self.weight, self.bias = conv.weight, conv.bias
        self.dense = self.inner = self.identity = None
        return self

    def fold_(self, *, batch_norm: bool = True) -> None:
        """``fuse``, as ``fastdet.models.fuse`` asks for it; branches are always folded with their BatchNorms."""
        self.fuse()

    def extra_repr(self) -> str:
        """What ``repr`` shows beside the branches."""
        size = "" if self.weight is None else f"{tuple(self.weight.shape)}, "
        return f"{size}stride={self.stride}, padding={self.padding}, groups={self.groups}, act={self.act}"

    def __getstate__(self) -> dict[str, Any]:
        # What is packed is made anew where it is needed: it cannot be copied, and a copy may lie elsewhere.
        return {**self.__dict__, "_packed": None, "_packed_from": None}

    def _finish(self, y: Tensor, residual: Tensor | None) -> Tensor:
        if residual is not None and self.add_first:
            y = y + residual
        y = _ACTIVATIONS[self.act](y)
        return y + residual if residual is not None and not self.add_first else y

    def _plain(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether torch's own operators should run: tracing, only shapes (meta), gradients wanted, or autocast."""
        if x.device.type == "meta" or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return True
        given = (x, self.weight, self.bias, residual)
        if torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in given):
            return True
        return type(x) is not Tensor or x.dtype != self.weight.dtype or torch.is_autocast_enabled(x.device.type)

    def _pack(self, x: Tensor) -> Any:
        """The convolution with its weight packed; packed anew when the parameters have changed."""
        now = tuple((a.data_ptr(), a.dtype, a.shape, _version(a)) for a in (self.weight, self.bias) if a is not None)
        if self._packed is None or self._packed_from != now:
            self._packed = ops.pack_rep_conv(
                self.weight,
                self.bias,
                stride=self.stride,
                padding=self.padding,
                groups=self.groups,
                activation=self.act,
                add_first=self.add_first,
                input_shape=x.shape,
            )
            self._packed_from = now
        return self._packed


def _version(a: Tensor) -> int:
    """Counts changes in place; inference tensors have no count and cannot be changed outside inference mode."""
    return 0 if a.is_inference() else a._version
