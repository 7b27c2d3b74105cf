# SPDX-License-Identifier: Apache-2.0
"""box_iou_loss, forward and backward (box_iou_loss_backward), against the usual formula in torch with autograd.

What the work costs for N pairs (10,000), float32:

- torch, CIoU: about 45 element-wise kernels forward and 70 backward on 40 to 160 KB each, which stay in the second
  cache: not bytes but starting kernels counts, 5 to 10 us each with autograd's nodes: about 1 ms, and some 25 kept
  arrays of 40 KB, 1 MB.
- here: 32 bytes of boxes are read and 4 + 16 written per pair, 0.5 MB. Some 130 operations, 6 divisions and two
  arc tangents per pair with both gradients: at 16 lanes about 250 cycles per 16 pairs, 50 us per 10,000 at 3 GHz;
  taking rows apart into columns and back costs 10 us. Backward multiplies 160 KB: 10 us. What remains is the way
  through Python and autograd, 100 us.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastdet import ops
from harness import compare
from on_device import DEVICES


def pairs(n, device, seed=0):
    rng = np.random.default_rng(seed)
    centre, size = rng.random((n, 2)) * 640, rng.random((n, 2)) * 200 + 40
    target = np.concatenate([centre - size / 2, centre + size / 2], -1)
    pred = target + rng.standard_normal((n, 4)) * 3
    pred, target = (torch.from_numpy(each.astype(np.float32)).to(device) for each in (pred, target))
    return pred.requires_grad_(), target


def torch_loss(pred, target, kind, eps=1e-7):
    (x1, y1, x2, y2), (u1, v1, u2, v2) = pred.unbind(-1), target.unbind(-1)
    w1, h1, w2, h2 = x2 - x1, y2 - y1, u2 - u1, v2 - v1
    inter = (torch.min(x2, u2) - torch.max(x1, u1)).clamp(min=0) * (torch.min(y2, v2) - torch.max(y1, v1)).clamp(min=0)
    union = w1 * h1 + w2 * h2 - inter + eps
    iou = inter / union
    cw, ch = torch.max(x2, u2) - torch.min(x1, u1), torch.max(y2, v2) - torch.min(y1, v1)
    if kind == "giou":
        enclosing = cw * ch + eps
        return 1 - iou + (enclosing - union) / enclosing
    distance = ((u1 + u2 - x1 - x2) ** 2 + (v1 + v2 - y1 - y2) ** 2) / 4
    v = 4 / math.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return 1 - iou + distance / (cw**2 + ch**2 + eps) + alpha * v


def close(ours, theirs):
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-7)


SETTINGS = [("ciou", 10_000), ("giou", 10_000), ("ciou", 500), ("ciou", 100_000)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("kind", "n"), SETTINGS)
def bench_loss(benchmark, kind, n, device):
    pred, target = pairs(n, device)

    def ours():
        return torch.autograd.grad(ops.box_iou_loss(pred, target, kind, reduction="mean"), pred)[0]

    def theirs():
        return torch.autograd.grad(torch_loss(pred, target, kind).mean(), pred)[0]

    setting = f"{kind[0].upper()}IoU, mean and gradient, {n} pairs"
    moved = 3 * 16 * n  # both boxes read, the gradient written
    contenders = {"fastdet": ours, "torch": theirs}
    compare(benchmark, "box_iou_loss", setting, contenders, same=close, rounds=30, device=device, moved=moved)
