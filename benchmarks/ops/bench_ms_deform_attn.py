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
from on_device import needs_cuda

SIZES = ((80, 80), (40, 40), (20, 20))
HEADS, CHANNELS, QUERIES, POINTS = 8, 32, 300, 4
CUDA = [(batch, "cuda", dtype) for batch in (1, 8) for dtype in (torch.float32, torch.float16)]
PLACES = [
    (1, "cpu", torch.float32),
    (4, "cpu", torch.float32),
    *(pytest.param(*each, marks=needs_cuda) for each in CUDA),
]
on_every_device = pytest.mark.parametrize(("batch", "device", "dtype"), PLACES)


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


def problem(batch, device="cpu", dtype=torch.float32, seed=0):
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
    value, *rest = (torch.from_numpy(a).to(device) for a in arrays)
    return [value.to(dtype), *rest]


def named(what, batch, dtype):
    return f"{what}, batch {batch}" + ("" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}")


def least_bytes(value, *others):
    """Everything read once, the result written once."""
    result = value.shape[0] * QUERIES * HEADS * CHANNELS * value.element_size()
    return result + sum(a.numel() * a.element_size() for a in (value, *others))


def close(ours, theirs):
    """To 1e-5 of the largest number: gradients of locations are sums of many, up to the width of the map.

    In half precision grid_sample rounds locations to parts of a pixel, and these maps are noise: a tenth of the result
    or of the value's gradient; gradients of locations jump between pixels and say nothing then.
    """
    pairs = list(zip(ours, theirs)) if isinstance(ours, tuple) else [(ours, theirs)]
    if pairs[0][0].dtype == torch.float32:
        return all(float((a - b).abs().max()) <= 1e-5 * float(b.abs().max()) for a, b in pairs)
    a, b = (each.float() for each in pairs[0])
    return float((a - b).norm()) <= 0.1 * float(b.norm())


@on_every_device
def bench_forward(benchmark, batch, device, dtype):
    value, shapes, starts, locations, weights = problem(batch, device, dtype)
    theirs = locations.to(dtype), weights.to(dtype)
    contenders = {
        "fastdet": lambda: ops.ms_deform_attn(value, shapes, starts, locations, weights),
        "grid_sample": lambda: grid_sample_form(value, SIZES, *theirs),
    }
    setting = named("forward, RT-DETRv2-L decoder", batch, dtype)
    moved = least_bytes(value, locations, weights)
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close, device=device, moved=moved)


def gradients(run, leaves, grad):
    return lambda: torch.autograd.grad(run(), leaves, grad)


def random_gradient(value):
    shape = (value.shape[0], QUERIES, HEADS * CHANNELS)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(value)


@on_every_device
def bench_forward_backward(benchmark, batch, device, dtype):
    """ms_deform_attn and, through autograd, ms_deform_attn_backward for all three arguments."""
    value, shapes, starts, locations, weights = problem(batch, device, dtype)
    leaves, grad = [a.requires_grad_() for a in (value, locations, weights)], random_gradient(value)

    def theirs():
        return grid_sample_form(value, SIZES, locations.to(dtype), weights.to(dtype))

    contenders = {
        "fastdet": gradients(lambda: ops.ms_deform_attn(value, shapes, starts, locations, weights), leaves, grad),
        "grid_sample": gradients(theirs, leaves, grad),
    }
    setting = named("forward and backward, RT-DETRv2-L decoder", batch, dtype)
    moved = 2 * least_bytes(value, locations, weights)
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close, device=device, moved=moved)


def fused_problem(batch, device, dtype):
    """Both forms from references, offsets and logits; transformers' decoder has these lines before its grid_sample."""
    value, shapes, starts, locations, _ = problem(batch, device, dtype)
    draw = torch.Generator().manual_seed(1)
    references = torch.rand((batch, QUERIES, 1, 4), generator=draw).to(device)
    offsets = torch.randn((batch, QUERIES, HEADS, len(SIZES) * POINTS, 2), generator=draw).to(device)
    logits = torch.randn((batch, QUERIES, HEADS, len(SIZES) * POINTS), generator=draw).to(device)
    scale = torch.full((len(SIZES) * POINTS, 1), 1 / POINTS, device=device)

    def fused():
        return ops.ms_deform_attn_fused(value, shapes, starts, references, offsets, logits)

    def eager():
        reference = references[:, :, None, :, :]
        moved = (reference[..., :2] + offsets * scale * reference[..., 2:] * 0.5).to(dtype)
        weights = functional.softmax(logits, -1).to(dtype)
        return grid_sample_form(value, SIZES, moved.view(locations.shape), weights.view(locations.shape[:-1]))

    return fused, eager, (value, offsets, logits)


@on_every_device
def bench_fused(benchmark, batch, device, dtype):
    fused, eager, (value, *rest) = fused_problem(batch, device, dtype)
    contenders = {"fastdet": fused, "grid_sample": eager}
    moved = least_bytes(value, *rest)
    setting = named("ms_deform_attn_fused", batch, dtype)
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close, device=device, moved=moved)


@on_every_device
def bench_fused_backward(benchmark, batch, device, dtype):
    """ms_deform_attn_fused and, through autograd, ms_deform_attn_fused_backward."""
    fused, eager, leaves = fused_problem(batch, device, dtype)
    leaves, grad = [a.requires_grad_() for a in leaves], random_gradient(leaves[0])
    contenders = {"fastdet": gradients(fused, leaves, grad), "grid_sample": gradients(eager, leaves, grad)}
    moved = 2 * least_bytes(*leaves)
    setting = named("ms_deform_attn_fused, forward and backward", batch, dtype)
    compare(benchmark, "ms_deform_attn", setting, contenders, same=close, device=device, moved=moved)
