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
    """A block whose forward is ``_fastdet_run`` where no one looks into it, and its own otherwise.

    Not an ``abc.ABC``: its metaclass would become that of other people's blocks.
    """

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """As the block's."""
        if not args and not options:
            pairs = self._fastdet_pairs()
            if pairs and _may_fold(cast(nn.Module, self), pairs, self._fastdet_passed(), x):
                return self._fastdet_run(x, pairs)
        return super().forward(x, *args, **options)  # type: ignore[misc]

    def train(self, mode: bool = True) -> Any:
        """As the block's; what is folded is made anew at the next call."""
        self.__dict__.pop("_fastdet_conv", None)
        return super().train(mode)  # type: ignore[misc]

    def _fastdet_pairs(self) -> Sequence[Pair]:
        """Convolutions and norms that are folded; none if someone has put something else in their places."""
        raise NotImplementedError(f"{type(self).__name__}: which convolutions are folded is the block's")

    def _fastdet_passed(self) -> Sequence[nn.Module]:
        """Other parts that are not called any more."""
        return ()

    def _fastdet_run(self, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """The block's result for ``x``, ``pairs`` folded."""
        raise NotImplementedError(f"{type(self).__name__}: how the folded convolution runs is the block's")

    def _fastdet_folded(self, pairs: Sequence[Pair], activation: str, *, add_first: bool = False) -> RepConv2d:
        now = ((activation, add_first), *_state(pairs))
        kept = self.__dict__.get("_fastdet_conv")
        if kept is None or not _same(kept[0], now):
            conv = _fold(pairs, activation, add_first)
            self.__dict__["_fastdet_conv"] = kept = now, conv  # not a submodule: it has no place in their state dict
        return cast(RepConv2d, kept[1])


class FoldedConvNorm(Folded):
    """Convolution, BatchNorm, activation, and in HGNetV2 what they call ``lab``."""

    def _fastdet_pairs(self) -> Sequence[Pair]:
        return _conv_norm(cast(nn.Module, self))

    def _fastdet_passed(self) -> Sequence[nn.Module]:
        activation = cast(nn.Module, self)._modules.get("activation")
        return () if activation is None else (activation,)

    def _fastdet_run(self, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        parts = cast(nn.Module, self)._modules
        activation, after = parts.get("activation"), parts.get("lab")
        fused = "none" if activation is None else _fused_name(activation)
        y = self._fastdet_folded(pairs, fused or "none")(x)
        if fused is None:
            y = cast(nn.Module, activation)(y)
        return y if after is None else after(y)


class FoldedSequence(Folded):
    """``nn.Sequential`` of a convolution and a BatchNorm."""

    def _fastdet_pairs(self) -> Sequence[Pair]:
        parts = tuple(cast(nn.Sequential, self))
        return [cast(Pair, parts)] if len(parts) == 2 and _foldable(*parts) else ()

    def _fastdet_run(self, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        return self._fastdet_folded(pairs, "none")(x)


class FoldedRepVgg(Folded):
    """RepVGG: act(norm(3x3 conv) + norm(1x1 conv)) as one 3x3 convolution."""

    def _fastdet_pairs(self) -> Sequence[Pair]:
        branches = [cast(Any, self).conv1, cast(Any, self).conv2]
        pairs = [pair for branch in branches for pair in _conv_norm(branch) if _is_plain(branch)]
        return pairs if sorted(conv.kernel_size for conv, _ in pairs) == [(1, 1), (3, 3)] else ()

    def _fastdet_passed(self) -> Sequence[nn.Module]:
        block = cast(Any, self)
        return block.conv1, block.conv2, block.conv1.activation, block.conv2.activation, block.activation

    def _fastdet_run(self, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        activation = cast(Any, self).activation
        fused = _fused_name(activation)
        y = self._fastdet_folded(pairs, fused or "none")(x)
        return y if fused is not None else activation(y)


class FoldedResidual(Folded):
    """ResNet's block: the last convolution adds the shortcut and applies the activation."""

    def _fastdet_pairs(self) -> Sequence[Pair]:
        block = cast(Any, self)
        last = block.layer[-1]
        return _conv_norm(last) if _is_plain(last) and _fused_name(block.activation) else ()

    def _fastdet_passed(self) -> Sequence[nn.Module]:
        block = cast(Any, self)
        return block.layer, block.layer[-1], block.layer[-1].activation, block.activation

    def _fastdet_run(self, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        block = cast(Any, self)
        y = x
        for layer in block.layer[:-1]:
            y = layer(y)
        activation = cast(str, _fused_name(block.activation))
        return cast(Tensor, self._fastdet_folded(pairs, activation, add_first=True)(y, block.shortcut(x)))


# ---- which module is what ------------------------------------------------------------------------------------------


def folded_form(module: nn.Module) -> type[Folded] | None:
    """How ``module`` of transformers can be folded, its parts being folded already; None if it cannot."""
    name, parts = type(module).__name__, set(module._modules)
    if type(module) is nn.Sequential:
        return FoldedSequence if len(module) == 2 and _foldable(*module) else None
    if not type(module).__module__.startswith("transformers.models."):
        return None
    if name.endswith(("ConvNormLayer", "ConvLayer", "ShortCut")):
        known = {"conv", "norm", "convolution", "normalization", "activation", "lab"}
        return FoldedConvNorm if parts <= known and _conv_norm(module) else None
    if name.endswith("RepVggBlock") and parts == {"conv1", "conv2", "activation"}:
        return FoldedRepVgg if all(_is_plain(branch) for branch in (module.conv1, module.conv2)) else None
    if name.endswith(("BasicLayer", "BottleNeckLayer")) and parts == {"shortcut", "layer", "activation"}:
        return FoldedResidual if _is_plain(cast(Any, module).layer[-1]) else None
    return None


def _is_plain(block: Any) -> bool:
    """Whether ``block`` is a convolution and a norm and nothing behind them."""
    return isinstance(block, FoldedConvNorm) and type(cast(Any, block)._modules.get("activation")) is nn.Identity


def _conv_norm(block: nn.Module) -> Sequence[Pair]:
    """The one pair of a block of two or three parts; none if it is not what it was."""
    parts = block._modules
    conv, norm = parts.get("conv", parts.get("convolution")), parts.get("norm", parts.get("normalization"))
    return [(cast(nn.Conv2d, conv), cast(nn.Module, norm))] if _foldable(conv, norm) else ()


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


def _may_fold(block: nn.Module, pairs: Sequence[Pair], passed: Sequence[nn.Module], x: Tensor) -> bool:
    if block.training or type(x) is not Tensor or x.device.type not in ("cpu", "cuda"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled(x.device.type):
        return False
    grad = torch.is_grad_enabled()
    if grad and x.requires_grad:
        return False
    for part in (*(part for pair in pairs for part in pair), *passed):
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


def _state(pairs: Iterable[Pair]) -> Iterable[tuple[Any, ...]]:
    """All that the folded convolution depends on; tensors themselves, so that none can take another's place."""
    for conv, norm in pairs:
        each = cast(Any, norm)
        yield None, conv.stride, conv.padding, conv.groups, getattr(each, "eps", None)
        for a in (conv.weight, conv.bias, each.weight, each.bias, each.running_mean, each.running_var):
            yield (None,) if a is None else (a, a.data_ptr(), 0 if a.is_inference() else a._version)


def _same(before: Sequence[tuple[Any, ...]], now: Sequence[tuple[Any, ...]]) -> bool:
    return len(before) == len(now) and all(a is b and rest == new for (a, *rest), (b, *new) in zip(before, now))
