# SPDX-License-Identifier: Apache-2.0
"""Convolution, BatchNorm and activation of other people's blocks run as one convolution, their weights left alone.

What is folded is kept beside the weights and made anew when they change; it serves inference only. A block in training
mode, with gradients, under autocast, compiled, traced, or with a hook on one of its parts runs as its author wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastdet import ops
from fastdet.integrations.in_place import Changed
from fastdet.models.rep_conv import RepConv2d
from fastdet.ops import BatchNorm, RepBranch

Pair = tuple[nn.Conv2d, nn.Module]

_ACTIVATIONS = {"Identity": "none", "ReLU": "relu", "SiLU": "silu", "SiLUActivation": "silu"}
_FROZEN = "FrozenBatchNorm2d"
_FROZEN_EPS = 1e-5  # written into forward() of every such class


class Folded(Changed):
    """A block whose forward is ``_fastdet_run`` where no one looks into it, and its own otherwise."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """As the block's."""
        if not args and not options and _may_fold(cast(nn.Module, self), self._fastdet_watched(), x):
            return self._fastdet_run(x)
        return super().forward(x, *args, **options)  # type: ignore[misc]

    def train(self, mode: bool = True) -> Any:
        """As the block's; what is folded is made anew at the next call."""
        self.__dict__.pop("_fastdet_conv", None)
        return super().train(mode)  # type: ignore[misc]

    def _fastdet_watched(self) -> Sequence[nn.Module]:
        """Parts that are not called any more."""
        raise NotImplementedError

    def _fastdet_run(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _fastdet_folded(self, pairs: Sequence[Pair], activation: str, *, add_first: bool = False) -> RepConv2d:
        now = tuple(_state(pairs))
        kept = self.__dict__.get("_fastdet_conv")
        if kept is None or not _same(kept[0], now):
            conv = _fold(pairs, activation, add_first)
            self.__dict__["_fastdet_conv"] = kept = now, conv  # not a submodule: it has no place in their state dict
        return cast(RepConv2d, kept[1])


class FoldedConvNorm(Folded):
    """Convolution, BatchNorm, activation, and in HGNetV2 what they call ``lab``."""

    def _fastdet_parts(self) -> tuple[nn.Conv2d, nn.Module, nn.Module | None, nn.Module | None]:
        parts = cast(nn.Module, self)._modules
        conv = parts.get("conv", parts.get("convolution"))
        norm = parts.get("norm", parts.get("normalization"))
        return cast(nn.Conv2d, conv), cast(nn.Module, norm), parts.get("activation"), parts.get("lab")

    def _fastdet_watched(self) -> Sequence[nn.Module]:
        conv, norm, activation, _ = self._fastdet_parts()
        return (conv, norm) if activation is None else (conv, norm, activation)

    def _fastdet_run(self, x: Tensor) -> Tensor:
        conv, norm, activation, after = self._fastdet_parts()
        fused = "none" if activation is None else _fused_name(activation)
        y = self._fastdet_folded([(conv, norm)], fused or "none")(x)
        if fused is None:
            y = cast(nn.Module, activation)(y)
        return y if after is None else after(y)

    def _fastdet_add(self, x: Tensor, residual: Tensor, activation: str) -> Tensor:
        """act(this(x) + residual) of a block without an activation of its own."""
        conv, norm, *_ = self._fastdet_parts()
        return self._fastdet_folded([(conv, norm)], activation, add_first=True)(x, residual)


class FoldedSequence(Folded):
    """``nn.Sequential`` of a convolution and a BatchNorm."""

    def _fastdet_watched(self) -> Sequence[nn.Module]:
        return tuple(cast(nn.Sequential, self))

    def _fastdet_run(self, x: Tensor) -> Tensor:
        conv, norm = cast(nn.Sequential, self)
        return self._fastdet_folded([(cast(nn.Conv2d, conv), norm)], "none")(x)


class FoldedRepVgg(Folded):
    """RepVGG: act(norm(3x3 conv) + norm(1x1 conv)) as one 3x3 convolution."""

    def _fastdet_watched(self) -> Sequence[nn.Module]:
        block = cast(Any, self)
        branches = (block.conv1, block.conv2)
        return (*branches, block.activation, *(part for branch in branches for part in branch.children()))

    def _fastdet_run(self, x: Tensor) -> Tensor:
        block = cast(Any, self)
        fused = _fused_name(block.activation)
        pairs = [(branch.conv, branch.norm) for branch in (block.conv1, block.conv2)]
        y = self._fastdet_folded(pairs, fused or "none")(x)
        return y if fused is not None else block.activation(y)


class FoldedResidual(Folded):
    """ResNet's block: the last convolution adds the shortcut and applies the activation."""

    def _fastdet_watched(self) -> Sequence[nn.Module]:
        block = cast(Any, self)
        last = block.layer[-1]
        return (block.layer, last, block.activation, *last.children())

    def _fastdet_run(self, x: Tensor) -> Tensor:
        block = cast(Any, self)
        y = x
        for layer in block.layer[:-1]:
            y = layer(y)
        return block.layer[-1]._fastdet_add(y, block.shortcut(x), cast(str, _fused_name(block.activation)))


# ---- which module is what ------------------------------------------------------------------------------------------


def folded_form(module: nn.Module) -> type[Folded] | None:
    """How ``module`` of transformers can be folded, its parts being folded already; None if it cannot."""
    name, parts = type(module).__name__, module._modules
    if type(module) is nn.Sequential:
        return FoldedSequence if len(module) == 2 and _foldable(*module) else None
    if not type(module).__module__.startswith("transformers.models."):
        return None
    if name.endswith(("ConvNormLayer", "ConvLayer", "ShortCut")):
        known = {"conv", "norm", "convolution", "normalization", "activation", "lab"}
        conv, norm = parts.get("conv", parts.get("convolution")), parts.get("norm", parts.get("normalization"))
        return FoldedConvNorm if set(parts) <= known and _foldable(conv, norm) else None
    if name.endswith("RepVggBlock") and set(parts) == {"conv1", "conv2", "activation"}:
        branches = [cast(Any, parts[each]) for each in ("conv1", "conv2")]
        plain = all(isinstance(b, FoldedConvNorm) and type(b._fastdet_parts()[2]) is nn.Identity for b in branches)
        return FoldedRepVgg if plain and {b.conv.kernel_size for b in branches} == {(3, 3), (1, 1)} else None
    if name.endswith(("BasicLayer", "BottleNeckLayer")) and set(parts) == {"shortcut", "layer", "activation"}:
        last = cast(Any, parts["layer"])[-1]
        plain = isinstance(last, FoldedConvNorm) and type(last._fastdet_parts()[2]) is nn.Identity
        return FoldedResidual if plain and _fused_name(parts["activation"]) else None
    return None


def _foldable(conv: Any, norm: Any) -> bool:
    if type(conv) is not nn.Conv2d or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return False
    if isinstance(conv.padding, str):
        return False
    return _is_frozen(norm) or (type(norm) is nn.BatchNorm2d and norm.running_mean is not None)


def _is_frozen(norm: Any) -> bool:
    of_theirs = type(norm).__module__.startswith("transformers.models.")
    return isinstance(norm, nn.Module) and of_theirs and type(norm).__name__.endswith(_FROZEN)


def _fused_name(activation: nn.Module | None) -> str | None:
    """What ``rep_conv2d`` calls ``activation``; None for one that it does not know."""
    kind = type(activation)
    return _ACTIVATIONS.get(kind.__name__) if kind.__module__.startswith(("torch.nn.", "transformers.")) else None


def _may_fold(block: nn.Module, parts: Iterable[nn.Module], x: Tensor) -> bool:
    if block.training or type(x) is not Tensor or x.device.type not in ("cpu", "cuda"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled(x.device.type):
        return False
    grad = torch.is_grad_enabled()
    if grad and x.requires_grad:
        return False
    for part in parts:
        if part._forward_hooks or part._forward_pre_hooks or part.training:
            return False
        if grad and any(parameter.requires_grad for parameter in part.parameters(recurse=False)):
            return False
        if isinstance(part, nn.Conv2d) and part.weight.dtype != x.dtype:
            return False
    return True


# ---- folding -------------------------------------------------------------------------------------------------------


def _statistics(norm: nn.Module) -> BatchNorm:
    each = cast(Any, norm)
    eps = each.eps if isinstance(norm, nn.BatchNorm2d) else _FROZEN_EPS
    return BatchNorm(each.weight, each.bias, each.running_mean, each.running_var, eps)


def _fold(pairs: Sequence[Pair], activation: str, add_first: bool) -> RepConv2d:
    widest = max((conv for conv, _ in pairs), key=lambda conv: conv.kernel_size[0])
    branches = [RepBranch(conv.weight, conv.bias, _statistics(norm)) for conv, norm in pairs]
    # Not inference tensors, should this be an inference_mode: those can never be used outside it.
    with torch.inference_mode(False), torch.no_grad():
        weight, bias = ops.fold_rep_conv(branches, groups=widest.groups)
        conv = nn.Conv2d(
            widest.in_channels,
            widest.out_channels,
            cast(Any, widest.kernel_size),
            cast(Any, widest.stride),
            cast(Any, widest.padding),
            groups=widest.groups,
            device="meta",
        )
        conv.weight = nn.Parameter(weight.to(widest.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(widest.weight.dtype), requires_grad=False)
        return RepConv2d.from_conv(conv, act=activation, add_first=add_first).eval()


def _state(pairs: Iterable[Pair]) -> Iterable[tuple[Tensor | None, int, int]]:
    for conv, norm in pairs:
        each = cast(Any, norm)
        for a in (conv.weight, conv.bias, each.weight, each.bias, each.running_mean, each.running_var):
            yield (None, 0, 0) if a is None else (a, a.data_ptr(), 0 if a.is_inference() else a._version)


def _same(before: Sequence[tuple[Any, int, int]], now: Sequence[tuple[Any, int, int]]) -> bool:
    return all(a is b and rest == others for (a, *rest), (b, *others) in zip(before, now))
