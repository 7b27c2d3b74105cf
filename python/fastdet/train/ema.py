# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a module's state."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """Average over the steps of every floating point entry of the state, BatchNorm statistics included.

    The decay of update t is ``decay * (1 - exp(-t / tau))``, so that the first updates forget the initial weights.
    ``module`` is a copy in evaluation mode; other entries (counters) are copied as they are.
    """

    def __init__(self, module: M, decay: float, tau: float) -> None:
        """Args: decay: limit of the decay, in [0, 1). tau: number of updates over which it is approached."""
        if not 0 <= decay < 1 or tau <= 0:
            raise ValueError(f"Ema: decay must be in [0, 1) and tau > 0, got {decay} and {tau}")
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        self.updates = 0

    @torch.no_grad()
    def update(self, module: M) -> None:
        """Take the state of ``module`` (same structure) into the average."""
        self.updates += 1
        weight = 1 - self.decay * (1 - math.exp(-self.updates / self.tau))
        source = module.state_dict()
        averaged, current = [], []
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                averaged.append(value)
                current.append(source[name].detach())
            else:
                value.copy_(source[name])
        torch._foreach_lerp_(averaged, current, weight)
