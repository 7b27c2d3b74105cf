# SPDX-License-Identifier: Apache-2.0
"""Deformable attention against the grid_sample form that transformers runs.

What the work costs at RT-DETRv2-L's decoder layer (300 queries, 8 heads x 32, maps 80/40/20, 4 points), a picture:

- 28,800 samples of 4 corners of 128 bytes: 14.7 MB gathered from a value of 8.6 MB, 7.4 M multiply-adds; 0.35 MB of
  locations and weights. On one core with 32-byte loads at some 10 GB/s of scattered cache lines: about 1.5 ms forward.
- backward: the corners read again (14.7 MB), 14.7 MB of products summed, 8.6 MB of grad_value written once.
- grid_sample: value copied to [B M, D, H, W] (17 MB moved), then for each of 32 channels of each sample four loads from
  planes of their own: 3.7 M scattered cache lines; the result [B M, D, Q, T] written, read, multiplied and summed
  (3.7 MB four times). Backward walks the same planes again, and copies the gradient back.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastdet import ops
from harness import compare

SIZES = ((80, 80), (40, 40), (20, 20))
HEADS, CHANNELS, QUERIES, POINTS = 8, 32, 300, 4


def grid_sample_form(value, sizes, locations, weights):
    """As transformers' RT-DETRv2 and Deformable DETR: one grid_sample per level, then one weighted sum."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], dim=-1)
    grids = (2 * locations - 1).permute(0, 2, 1, 3, 4, 5).flatten(0, 1)  # [B M, Q, L, P, 2]
    sampled = [
        functional.grid_sample(m.reshape(batch * heads, channels, h, w), grids[:, :, i], align_corners=False)
        for i, (m, (h, w)) in enumerate(zip(maps, sizes))
    ]
    share = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, len(sizes) * points)
    out = (torch.cat(sampled, -1) * share).sum(-1)
    return out.view(batch, heads * channels, queries).transpose(1, 2)


def problem(batch, seed=0):
    """Queries with references all over the picture, samples within their boxes, some outside the picture."""
    draw = np.random.default_rng(seed)
    tokens = sum(h * w for h, w in SIZES)
    shape = (batch, QUERIES, HEADS, len(SIZES), POINTS)
    value = draw.standard_normal((batch, tokens, HEADS, CHANNELS)).astype(np.float32)
    center = draw.uniform(0, 1, (batch, QUERIES, 1, 1, 1, 2))
    size = np.exp(draw.uniform(np.log(0.02), np.log(0.6), (batch, QUERIES, 1, 1, 1, 2)))
    locations = (center + draw.uniform(-0.5, 0.5, (*shape, 2)) * size).astype(np.float32)
    logits = draw.standard_normal((*shape[:3], len(SIZES) * POINTS))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    shapes = np.array(SIZES, np.int64)
    starts = np.cumsum([0, *(h * w for h, w in SIZES)])[:-1]
    arrays = (value, shapes, starts, locations, weights.reshape(shape).astype(np.float32))
    return [torch.from_numpy(a) for a in arrays]


def close(ours, theirs):
    """To 1e-5 of the largest number: gradients of locations are sums of many, up to the width of the map."""
    pairs = zip(ours, theirs) if isinstance(ours, tuple) else [(ours, theirs)]
    return all(float((a - b).abs().max()) <= 1e-5 * float(b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("batch", [1, 4])
def bench_forward(benchmark, batch):
    value, shapes, starts, locations, weights = problem(batch)
    contenders = {
        "fastdet": lambda: ops.ms_deform_attn(value, shapes, starts, locations, weights),
        "grid_sample": lambda: grid_sample_form(value, SIZES, locations, weights),
    }
    setting = f"forward, RT-DETRv2-L decoder, batch {batch}"
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close)


def gradients(run, leaves, grad):
    return lambda: torch.autograd.grad(run(), leaves, grad)


def random_gradient(batch):
    return torch.randn((batch, QUERIES, HEADS * CHANNELS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [1, 4])
def bench_forward_backward(benchmark, batch):
    """ms_deform_attn and, through autograd, ms_deform_attn_backward for all three arguments."""
    value, shapes, starts, locations, weights = problem(batch)
    leaves, grad = [a.requires_grad_() for a in (value, locations, weights)], random_gradient(batch)
    contenders = {
        "fastdet": gradients(lambda: ops.ms_deform_attn(value, shapes, starts, locations, weights), leaves, grad),
        "grid_sample": gradients(lambda: grid_sample_form(value, SIZES, locations, weights), leaves, grad),
    }
    setting = f"forward and backward, RT-DETRv2-L decoder, batch {batch}"
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close)


def fused_problem(batch):
    """Both forms from references, offsets and logits; transformers' decoder has these lines before its grid_sample."""
    value, shapes, starts, locations, _ = problem(batch)
    draw = torch.Generator().manual_seed(1)
    references = torch.rand((batch, QUERIES, 1, 4), generator=draw)
    offsets = torch.randn((batch, QUERIES, HEADS, len(SIZES) * POINTS, 2), generator=draw)
    logits = torch.randn((batch, QUERIES, HEADS, len(SIZES) * POINTS), generator=draw)
    scale = torch.full((len(SIZES) * POINTS, 1), 1 / POINTS)

    def fused():
        return ops.ms_deform_attn_fused(value, shapes, starts, references, offsets, logits)

    def eager():
        reference = references[:, :, None, :, :]
        moved = reference[..., :2] + offsets * scale * reference[..., 2:] * 0.5
        weights = functional.softmax(logits, -1)
        return grid_sample_form(value, SIZES, moved.view(locations.shape), weights.view(locations.shape[:-1]))

    return fused, eager, (value, offsets, logits)


@pytest.mark.parametrize("batch", [1, 4])
def bench_fused(benchmark, batch):
    fused, eager, _ = fused_problem(batch)
    setting = f"ms_deform_attn_fused, batch {batch}"
    compare(benchmark, "ms_deform_attn", setting, {"fastdet": fused, "grid_sample": eager}, same=close)


@pytest.mark.parametrize("batch", [1, 4])
def bench_fused_backward(benchmark, batch):
    """ms_deform_attn_fused and, through autograd, ms_deform_attn_fused_backward."""
    fused, eager, leaves = fused_problem(batch)
    leaves, grad = [a.requires_grad_() for a in leaves], random_gradient(batch)
    contenders = {"fastdet": gradients(fused, leaves, grad), "grid_sample": gradients(eager, leaves, grad)}
    setting = f"ms_deform_attn_fused, forward and backward, batch {batch}"
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close)
