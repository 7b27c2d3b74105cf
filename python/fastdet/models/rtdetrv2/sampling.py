# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def ms_deform_attn(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    points: Sequence[int],
    method: str = "default",
) -> Tensor:
    """Weighted sum of samples of ``value`` [B, S, M, D] at ``locations`` [B, Q, M, T, 2] -> [B, Q, M * D]."""
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    sizes = [h * w for h, w in shapes]
    sampled = []
    for (h, w), level, where in zip(shapes, value.split(sizes, 1), locations.split(tuple(points), 3)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, dim, h, w)
        where = where.transpose(1, 2).flatten(0, 1)
        if method == "default":
            out = functional.grid_sample(
                maps, (2 * where - 1).to(maps.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
            )
        else:
            size = torch.tensor([w, h], device=where.device)
            index = torch.minimum((where * size + 0.5).long().clamp(min=0), size - 1)
            flat = (index[..., 1] * w + index[..., 0]).flatten(1)
            out = maps.flatten(2).gather(2, flat[:, None].expand(-1, dim, -1)).unflatten(2, where.shape[1:3])
        sampled.append(out)
    mix = weights.transpose(1, 2).flatten(0, 1)[:, None].to(value.dtype)
    out = (torch.cat(sampled, -1) * mix).sum(-1)
    return out.view(batch, heads * dim, queries).transpose(1, 2)
