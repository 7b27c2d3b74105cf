# SPDX-License-Identifier: Apache-2.0
"""Layers, parameters and arithmetic of a network, in all and stage by stage; nothing is computed but shapes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fastdet.models.graph import Graph


class Stage(NamedTuple):
    """A part of a network. name: its path; block: class; output: shapes of one picture's output; gflops: as below."""

    name: str
    block: str
    output: str
    parameters: int
    gflops: float


@dataclass(frozen=True)
class Complexity:
    """What a network is made of and costs for one picture.

    Attributes:
        layers: convolutions, linear layers and normalisations. parameters: constants that checkpoints keep included.
        gflops: 1e9 operations, a multiplication and an addition being two, of convolutions, matrix products and
            BatchNorm. norm_gflops: the part of BatchNorm, which folding removes. product_gflops: the part of products
            of two activations (attention), which published tables mostly leave out.
        stages: the rows of a table, or the direct parts of another network, in the order in which they run.
    """

    layers: int
    parameters: int
    gflops: float
    norm_gflops: float
    product_gflops: float
    stages: tuple[Stage, ...]


def complexity(module: nn.Module, size: tuple[int, int] = (640, 640)) -> Complexity:
    """Count ``module`` (in either graph, on any device; left as it is) for one picture of ``size`` (height, width)."""
    shadow, counter = _shadow(module).eval(), _Counter()
    started: dict[str, int] = {}
    stages: list[Stage] = []

    def end(name: str, part: nn.Module, output: Any) -> None:
        gflops = (counter.total() - started[name]) / 1e9
        stages.append(Stage(name, type(part).__name__, _shapes(output), _parameters(part), gflops))

    for name, part in _parts(shadow):
        part.register_forward_pre_hook(lambda _, __, name=name: started.update({name: counter.total()}))
        part.register_forward_hook(lambda part, _, output, name=name: end(name, part, output))
    images = torch.empty(1, 3, *size, device="meta", dtype=next(shadow.parameters()).dtype)
    with torch.no_grad(), counter:
        shadow(images)
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)
    layers = sum(isinstance(layer, kinds) for layer in module.modules())
    gflops, norm, product = counter.total() / 1e9, counter.norm / 1e9, counter.product / 1e9
    return Complexity(layers, _parameters(module), gflops, norm, product, tuple(stages))


class _Counter(TorchFunctionMode):
    """Operations of the functions that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.norm = self.product = 0

    def total(self) -> int:
        return self.layer + self.norm + self.product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.conv2d:
            self.layer += 2 * output.numel() * args[1][0].numel()
        elif func is torch.conv_transpose2d:
            self.layer += 2 * args[0].numel() * args[1][0].numel()
        elif func is functional.linear:
            self.layer += 2 * output.numel() * args[0].shape[-1]
        elif func is functional.batch_norm:
            self.norm += 8 * output.numel()  # as the counter of the published tables has it
        elif func in _PRODUCTS:
            self.product += 2 * output.numel() * args[0].shape[-1]
        elif func is functional.scaled_dot_product_attention:
            query, key = args[:2]
            self.product += 2 * key.shape[-2] * (query.numel() + output.numel())
        return output


_PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)


def _shadow(module: nn.Module) -> nn.Module:
    """A copy on the meta device, which has shapes and no values."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The rows of a table and its head, or the children of another network."""
    children = list(module.named_children())
    if len(children) == 1 and isinstance(children[0][1], Graph):
        return [(str(i), row) for i, row in enumerate(children[0][1])]
    return children


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shapes(output: Any) -> str:
    """Shapes without the batch: ``64 x 80 x 80``, those of several tensors one after another."""
    if isinstance(output, Tensor):
        return " x ".join(map(str, output.shape[1:]))
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return ", ".join(filter(None, map(_shapes, parts)))
