# SPDX-License-Identifier: Apache-2.0
"""AlignedOTA assignment against the published formula in torch, with its [n, M, C] cross-entropy.

What the work costs, for A priors of which n are valid, C classes, M ground truths (8400, about 8000, 80, 50):

- published: about 12 element-wise passes over [n, M, C] float32 (32 M elements, 128 MB each), 3 GB moved, and two
  logarithms per element, 64 M. At 10 GB/s some 300 ms; at the peak four or five such arrays lie side by side.
- here: A C scores read once (2.7 MB), one logarithm each (0.7 M). Per ground truth one scan of the n valid priors, 5
  floats each, 8 MB in all from the cache, with some 30 operations per pair. Three logarithms only for pairs inside, a
  few thousand. At about 1 ns per logarithm and per visit of a pair: 1 to 2 ms on one thread.
  Memory: 62 bytes per prior, 36 + 4 top-k bytes per ground truth: 0.5 MB; no array over pairs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligned_ota_problems import problem
from torch.nn import functional

from fastdet import ops
from harness import compare, peak_memory
from on_device import DEVICES


def torch_aligned_ota(scores, boxes, points, strides, gt, labels):
    """The published rule for one image as one writes it in torch: valid priors, all classes in one cross-entropy."""
    x, y, reach = points[:, :1], points[:, 1:], 2.5 * strides[:, None]
    sides = torch.stack([x - gt[:, 0], y - gt[:, 1], gt[:, 2] - x, gt[:, 3] - y])
    in_box = sides.amin(0) > 0
    centre = (gt[:, :2] + gt[:, 2:]) / 2
    in_centre = ((x - centre[:, 0]).abs() < reach) & ((y - centre[:, 1]).abs() < reach)
    valid = torch.nonzero((in_box | in_centre).any(1))[:, 0]
    inside = (in_box & in_centre)[valid]
    p, b = scores[valid], boxes[valid][:, None]
    side = (torch.minimum(b[..., 2:], gt[:, 2:]) - torch.maximum(b[..., :2], gt[:, :2])).clamp_(min=0)
    inter = side.prod(-1)
    union = (b[..., 2:] - b[..., :2]).prod(-1) + (gt[:, 2:] - gt[:, :2]).prod(-1) - inter
    iou = inter / union.clamp(min=1e-6)

    target = functional.one_hot(labels, p.shape[1]).to(p.dtype)[None] * iou[..., None]  # [n, M, C]
    p = p[:, None].expand_as(target)
    entropy = functional.binary_cross_entropy(p, target, reduction="none")
    class_cost = entropy.mul_((target - p).square_()).sum(-1)
    # 1e3 where 1e8 is published: in float32 that would leave the order of pairs outside to chance.
    cost = class_cost - 3.0 * torch.log(iou + 1e-7) + 1e3 * ~inside

    k = torch.topk(iou, min(10, len(valid)), dim=0).values.sum(0).int().clamp(min=1).tolist()
    takes = torch.zeros_like(cost, dtype=torch.bool)
    for g, count in enumerate(k):
        takes[torch.topk(cost[:, g], count, largest=False).indices, g] = True
    takers = takes.sum(1)
    winner = torch.where(takers > 1, cost.argmin(1), takes.int().argmax(1))
    positive = takers > 0
    matched = torch.full((len(scores),), -1, dtype=torch.int32)
    matched[valid[positive]] = winner[positive].int()
    return matched


def agree(ours, theirs):
    """Equal but where two costs differ by less than float32 shows in the sum over all classes."""
    return float((ours != theirs).float().mean()) < 1e-3


SIZE = {"size": (640, 640), "classes": 80}
SETTINGS = {
    "8400 priors, 80 classes, 50 boxes": {**SIZE, "rows": 50, "counts": [50]},
    "8400 priors, 80 classes, 50 boxes of 8 to 64 px": {**SIZE, "rows": 50, "counts": [50], "kind": "small"},
    "8400 priors, 5 classes, 500 boxes of 8 to 64 px": {
        "size": (640, 640), "classes": 5, "rows": 500, "counts": [500], "kind": "small"
    },
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("setting", SETTINGS)
def bench_aligned_ota(benchmark, setting, device):
    arguments = [torch.from_numpy(a).to(device) for a in problem(images=1, **SETTINGS[setting])]
    single = [a if i in (2, 3) else a[0] for i, a in enumerate(arguments[:6])]
    contenders = {
        "fastdet": lambda: ops.aligned_ota_assign(*arguments).matched_gt[0],
        "torch": lambda: torch_aligned_ota(*single),
    }
    extra = {"valid_priors": int(ops.aligned_ota_cost(*arguments).valid.sum())}
    if device == "cpu":
        extra["peak_memory"] = {name: max(peak_memory(run) for _ in range(2)) for name, run in contenders.items()}
    run(benchmark, setting, contenders, device, extra)


@pytest.mark.parametrize("device", DEVICES)
def bench_aligned_ota_batch(benchmark, device):
    """A batch at once against a loop over images, which is what the formula in torch needs."""
    images = 8
    numpy_arguments = problem(1, images=images, size=(416, 416), classes=80, rows=20, counts=np.arange(images) + 8)
    arguments = [torch.from_numpy(a).to(device) for a in numpy_arguments]
    scores, boxes, points, strides, gt, labels, count = arguments

    def loop():
        rows = [(gt[b, : count[b]], labels[b, : count[b]]) for b in range(images)]
        return torch.stack([torch_aligned_ota(scores[b], boxes[b], points, strides, *rows[b]) for b in range(images)])

    contenders = {"fastdet": lambda: ops.aligned_ota_assign(*arguments).matched_gt, "torch": loop}
    run(benchmark, "8 images of 3549 priors, 80 classes, 8 to 15 boxes", contenders, device)


def run(benchmark, setting, contenders, device, extra=None):
    options = {"rounds": 20, "device": device, "eager": ["torch"], "extra": extra}  # torch waits for who is valid
    compare(benchmark, "aligned_ota", setting, contenders, same=agree, **options)
