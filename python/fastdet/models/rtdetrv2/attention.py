# SPDX-License-Identifier: Apache-2.0
"""Self attention, deformable cross attention and the small networks of the transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdet import ops

Shapes = tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def level_tables(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Height and width [L, 2] and first token [L] of each level, int64, as the attention wants them."""
    with torch.inference_mode(False):
        sizes = torch.tensor(shapes, device="cpu")
        tokens = sizes.prod(1)
        return sizes.to(device), (tokens.cumsum(0) - tokens).to(device)


class Mlp(nn.Module):
    """Linear maps of the given ``widths`` with an activation between, none at the end."""

    def __init__(self, *widths: int, act: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.c_out = widths[-1]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for layer in self.layers[:-1]:  # type: ignore[union-attr]
            x = self.act(layer(x))
        return self.layers[-1](x)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves; positions are added to queries and keys, not to values.

    ``in_proj_weight`` [3 dim, dim] holds the maps of queries, keys and values, in this order.
    """

    def __init__(self, dim: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Tokens [B, N, dim], positions [B or 1, N, dim], ``blocked`` [N, N] bool, True where a row may not look."""
        dim = x.shape[-1]
        pairs = functional.linear(x + position, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim])
        values = functional.linear(x, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (*pairs.chunk(2, -1), values))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=None if blocked is None else ~blocked)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class DeformableAttention(nn.Module):
    """Cross attention that reads each level at a few learned points around a reference box.

    Args:
        dim: channels of queries and memory. heads: M. points: per level; T is their sum.
        sampling: ``"default"`` or ``"discrete"``.
    """

    points_scale: Tensor

    def __init__(self, dim: int, *, heads: int, points: Sequence[int], sampling: str = "default"):
        super().__init__()
        self.heads, self.points, self.sampling = heads, tuple(points), sampling
        total = sum(points)
        self.register_buffer("points_scale", torch.cat([torch.full((n,), 1.0 / n) for n in points]))
        self.offsets: nn.Linear | None = nn.Linear(dim, heads * total * 2)
        self.weights: nn.Linear | None = nn.Linear(dim, heads * total)
        self.value_proj: nn.Linear | None = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.joined: nn.Linear | None = None
        self._initialise()

    def _initialise(self) -> None:
        """Head h looks into direction h, point i at i steps; all points weigh the same."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)  # type: ignore[union-attr]
        nn.init.zeros_(self.weights.bias)  # type: ignore[union-attr]
        angles = torch.arange(self.heads) * (2 * pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1.0, n + 1) for n in self.points])
        with torch.no_grad():
            self.offsets.bias.copy_((directions[:, None] * steps[:, None]).flatten())  # type: ignore[union-attr]
        for layer in (self.value_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[union-attr]
            nn.init.zeros_(layer.bias)  # type: ignore[union-attr]

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Shapes) -> Tensor:
        """Queries [B, Q, dim], reference boxes [B, Q, 4] (cxcywh, normalised), values [B, S, dim] -> [B, Q, dim].

        ``shapes``: (height, width) of each level; S is the number of their cells, finest level first.
        """
        sizes, starts = level_tables(shapes, value.device)
        value = value.unflatten(-1, (self.heads, -1))
        # Coordinates are float32 whatever the network's type: at half precision they move by parts of a pixel.
        mixed = ops.ms_deform_attn_fused(
            value, sizes, starts, reference, *self._looks(query), num_points=self.points, method=self.sampling
        )
        return self.out_proj(mixed)

    def _looks(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [B, Q, M, T, 2] and weights before the softmax [B, Q, M, T]."""
        total = sum(self.points)
        if self.joined is not None:
            both = self.joined(query)
            split = self.heads * total * 2
            offsets, weights = both[..., :split], both[..., split:]
        else:
            offsets, weights = self.offsets(query), self.weights(query)  # type: ignore[misc]
        return offsets.unflatten(-1, (self.heads, total, 2)), weights.unflatten(-1, (self.heads, total))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """One linear map for offsets and weights. ``batch_norm`` has no say here."""
        if self.offsets is not None and self.weights is not None:
            self.joined = join_linear([self.offsets, self.weights])
            self.offsets = self.weights = None


@torch.no_grad()
def join_linear(layers: Sequence[nn.Module]) -> nn.Linear:
    """One linear map whose output is that of all ``layers``, side by side."""
    weight = torch.cat([layer.get_parameter("weight") for layer in layers])
    joined = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    joined.weight = nn.Parameter(weight)
    joined.bias = nn.Parameter(torch.cat([layer.get_parameter("bias") for layer in layers]))
    return joined
