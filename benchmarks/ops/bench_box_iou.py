# SPDX-License-Identifier: Apache-2.0
"""Pairwise IoU family (box_iou and kin) against the broadcast form in torch, 300 x 8400 pairs and a batch.

What the work costs for P pairs (2.5 M; float32):

- torch: every elementary step is a pass over [M, N] or [M, N, 2]: about 10 passes of 8 to 16 bytes per pair for IoU, 20
  for GIoU, 35 for CIoU, and as many arrays come and go. At 8 GB/s per core for memory that was just taken: 120 bytes
  per pair are 40 ms, 400 bytes 125 ms.
- here: 4 bytes per pair are written; boxes stay in the first cache. IoU has 14 operations and 1 division per pair,
  GIoU 22 and 2, CIoU 33 and 3; two arc tangents are taken per box. With 16 lanes and about 10 cycles per vector of
  divisions: 30 to 70 cycles per 16 pairs, 1.5 to 4 ms at 3 GHz on one core.
- gradients (box_iou_backward): torch keeps every intermediate array, some 15 over [M, N] for CIoU (150 MB), and walks
  them again; here pairs are computed again, twice, about 100 operations each, and nothing but the boxes is kept.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastdet import ops
from harness import compare, peak_memory
from on_device import DEVICES


def boxes(seed, *shape):
    rng = np.random.default_rng(seed)
    centre, size = rng.random((*shape, 2)) * 640, rng.random((*shape, 2)) * 200 + 2
    return torch.from_numpy(np.concatenate([centre - size / 2, centre + size / 2], -1).astype(np.float32))


def torch_intersection(a, b):
    a, b = a[..., :, None, :], b[..., None, :, :]
    side = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = side[..., 0] * side[..., 1]
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    return a, b, inter, area_a + area_b - inter


def torch_iou(a, b):
    _, _, inter, union = torch_intersection(a, b)
    return inter / union


def torch_giou(a, b):
    a, b, inter, union = torch_intersection(a, b)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    enclosing = outer[..., 0] * outer[..., 1]
    return inter / union - (enclosing - union) / enclosing


def torch_ciou(a, b, eps=1e-7):
    a, b, inter, union = torch_intersection(a, b)
    iou = inter / union
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    diagonal = outer[..., 0] ** 2 + outer[..., 1] ** 2 + eps
    centre_a, centre_b = ((x[..., :2] + x[..., 2:]) / 2 for x in (a, b))
    distance = ((centre_a - centre_b) ** 2).sum(-1)
    angle_a, angle_b = (torch.atan((x[..., 2] - x[..., 0]) / (x[..., 3] - x[..., 1])) for x in (a, b))
    v = 4 / math.pi**2 * (angle_a - angle_b) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return iou - distance / diagonal - alpha * v


def close(ours, theirs):
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def run(benchmark, setting, ours, theirs, a, b):
    contenders = {"fastdet": lambda: ours(a, b), "torch": lambda: theirs(a, b)}
    device = a.device.type
    extra = {"peak_memory": {name: peak_memory(f) for name, f in contenders.items()}} if device == "cpu" else {}
    moved = a.element_size() * (a.numel() + b.numel() + a.numel() // 4 * b.shape[-2])
    compare(benchmark, "box_iou", setting, contenders, same=close, rounds=20, device=device, moved=moved, extra=extra)


PAIRWISE = {
    "IoU": (ops.box_iou, torch_iou),
    "GIoU": (ops.generalized_box_iou, torch_giou),
    "CIoU": (ops.complete_box_iou, torch_ciou),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", PAIRWISE)
def bench_pairwise(benchmark, kind, device):
    run(benchmark, f"{kind}, 300 x 8400", *PAIRWISE[kind], boxes(0, 300).to(device), boxes(1, 8400).to(device))


@pytest.mark.parametrize("device", DEVICES)
def bench_ciou_batch(benchmark, device):
    pictures, anchors = boxes(0, 8, 50).to(device), boxes(1, 8, 8400).to(device)
    run(benchmark, "CIoU, 8 images of 50 x 8400", *PAIRWISE["CIoU"], pictures, anchors)


@pytest.mark.parametrize("device", DEVICES)
def bench_ciou_gradient(benchmark, device):
    a, b = (each.to(device).requires_grad_() for each in (boxes(0, 300), boxes(1, 8400)))
    grad = torch.randn(300, 8400, generator=torch.Generator().manual_seed(0)).to(device)

    def both(function):
        return lambda *_: torch.cat(torch.autograd.grad(function(a, b), (a, b), grad))

    run(benchmark, "CIoU with gradients for both, 300 x 8400", both(ops.complete_box_iou), both(torch_ciou), a, b)
