# SPDX-License-Identifier: Apache-2.0
"""Optimiser groups and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

OPTIMIZERS = ("adamw", "sgd")


def build_optimizer(
    module: nn.Module, kind: str, *, lr: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, with weight decay only where it belongs.

    Every bias and every parameter of a normalisation layer goes without decay.

    Raises:
        ValueError: ``kind`` is not one of ``OPTIMIZERS``.
    """
    decayed, plain = split_parameters(module)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), foreach=True)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, foreach=True)
    raise ValueError(f"build_optimizer: kind must be one of {OPTIMIZERS}, got {kind!r}")


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters with and without weight decay, each once, in the order of the module."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter, is_plain in _walk(module):
        (plain if is_plain else decayed).append(parameter)
    return decayed, plain


def _walk(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter, isinstance(part, norms) or name.rsplit(".", 1)[-1] == "bias"


def learning_rate(step: int, *, peak: float, warmup: int, total: int, flat: int, floor: float) -> float:
    """Learning rate of a step: quadratic warm-up, cosine to ``floor * peak``, constant over the last ``flat`` steps.

    Args:
        step: number of the step, from 0. total: number of steps of the whole training.
        warmup: steps of the rise, lr = peak * ((step + 1) / warmup)^2.
    """
    if step < warmup:
        return peak * ((step + 1) / warmup) ** 2
    decay = max(1, total - flat - warmup)
    progress = min(1.0, (step - warmup) / decay)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
