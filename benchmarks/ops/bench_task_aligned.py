# SPDX-License-Identifier: Apache-2.0
"""Task-aligned assignment against the same rule in torch, batched and over candidate pairs only.

What the work costs, for B images, A anchors, M ground truths, P pairs of a ground truth with an anchor inside it
(16, 8400, 50: B M A = 6.7 M pairs, of which P about a tenth):

- torch: the region test over [B, M, A] (4 differences, minimum, comparison: 27 MB each), then metric and overlap as
  dense [B, M, A] arrays, because ``topk`` wants rows of equal length; CIoU itself on the P gathered pairs, some 40
  element-wise passes over P. Then one-hot, sums and maxima over [B, M, A] for conflicts and normalisation.
- here: per ground truth the tiles of 64 anchors whose points its box can meet; CIoU, metric and a top-k list in one
  pass over those anchors. Nothing over pairs is written. Memory: about 50 bytes per anchor and 44 + 4 topk per ground
  truth.

The last setting is a crowd (5000 ground truths in each of many pictures): torch's dense arrays do not fit, so it is
timed alone; on a GPU with all 128 pictures.
"""

from __future__ import annotations

import math
import os

import pytest
import torch
from task_aligned_problems import problem

from fastdet import ops
from harness import compare, peak_memory, take_turns
from on_device import DEVICES


def torch_ciou(a, b):
    """CIoU of pairs [P, 4] with 1e-7 added to heights and divisors."""
    w1, h1 = a[:, 2] - a[:, 0], a[:, 3] - a[:, 1] + 1e-7
    w2, h2 = b[:, 2] - b[:, 0], b[:, 3] - b[:, 1] + 1e-7
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_(min=0).prod(1)
    iou = inter / (w1 * h1 + w2 * h2 - inter + 1e-7)
    outer = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    between = b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]
    v = (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square_().mul_(4 / math.pi**2)
    return iou - between.square_().sum(1) / 4 / (outer.square_().sum(1) + 1e-7) - v * v / (1 - iou + v + 1e-7)


def torch_task_aligned(scores, boxes, points, gt, labels, count, topk=10):
    """The rule in torch: matched ground truth and target score per anchor, [B, A]."""
    images, anchors = scores.shape[:2]
    rows = gt.shape[1]
    real = torch.arange(rows, device=gt.device) < count[:, None]
    low = (points - gt[:, :, None, :2]).amin(-1)  # [B, M, A]
    high = (gt[:, :, None, 2:] - points).amin(-1)
    inside = (torch.minimum(low, high) > 1e-9) & real[..., None]
    b, g, a = inside.nonzero(as_tuple=True)
    pair_overlap = torch_ciou(gt[b, g], boxes[b, a]).clamp_(min=0)
    pair_metric = scores[b, a, labels[b, g]].sqrt() * pair_overlap**6
    overlap = torch.zeros((images, rows, anchors), device=gt.device)
    metric = torch.zeros_like(overlap)
    overlap[b, g, a], metric[b, g, a] = pair_overlap, pair_metric
    best, index = metric.topk(topk, dim=-1)
    held = torch.zeros_like(inside).scatter_(-1, index, best > 0)
    several = held.sum(1) > 1  # [B, A]
    winner = torch.zeros_like(held).scatter_(1, overlap.argmax(1, keepdim=True), True)
    held = torch.where(several[:, None], winner, held)
    metric, overlap = metric.mul_(held), overlap.mul_(held)
    target = (metric * overlap.amax(-1, keepdim=True) / (metric.amax(-1, keepdim=True) + 1e-9)).amax(1)
    matched = torch.where(held.any(1), held.int().argmax(1), -1)
    return matched.int(), target


def agree(ours, theirs):
    """Equal but where two metrics differ by less than float32 shows."""
    return float((ours[0] != theirs[0]).float().mean()) < 1e-3 and float((ours[1] - theirs[1]).abs().mean()) < 1e-4


def setting_of(device, **options):
    arguments = [torch.from_numpy(a).to(device) for a in problem(**options)]
    return arguments, {
        "fastdet": lambda: (found := ops.task_aligned_assign(*arguments)) and (found.matched_gt, found.label_scores),
        "torch": lambda: torch_task_aligned(*arguments),
    }


BATCH = {"images": 16, "size": (640, 640), "classes": 80, "rows": 50, "counts": [50] * 16}
SETTINGS = {
    "16 images of 8400 anchors, 80 classes, 50 boxes": BATCH,
    "16 images of 8400 anchors, 80 classes, 50 boxes of 8 to 64 px": {**BATCH, "kind": "small"},
    "8400 anchors, 80 classes, 50 boxes": {**BATCH, "images": 1, "counts": [50]},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("setting", SETTINGS)
def bench_task_aligned(benchmark, setting, device):
    arguments, contenders = setting_of(device, **SETTINGS[setting])
    first = [a if i == 2 else a[:1] for i, a in enumerate(arguments)]
    extra = {"pairs_of_the_first_image": int(ops.task_aligned_cost(*first).inside.sum())}
    if device == "cpu":
        extra["peak_memory"] = {name: max(peak_memory(run) for _ in range(2)) for name, run in contenders.items()}
    waiting = ["torch"]  # for the number of pairs
    kept = {"rounds": 10, "device": device, "eager": waiting, "extra": extra}
    compare(benchmark, "task_aligned", setting, contenders, same=agree, **kept)


@pytest.mark.parametrize("device", DEVICES)
def bench_task_aligned_crowd(benchmark, device):
    """5000 ground truths a picture: 128 pictures on a GPU, 8 on a CPU unless FASTDET_BENCH_FULL=1."""
    images = 128 if device == "cuda" or os.environ.get("FASTDET_BENCH_FULL") == "1" else 8
    sizes = {
        "images": images,
        "size": (640, 640),
        "classes": 4,
        "rows": 5000,
        "counts": [5000] * images,
        "kind": "small",
    }
    _, contenders = setting_of(device, **sizes)
    setting = f"{images} images of 8400 anchors, 5000 boxes of 8 to 64 px"
    if device == "cpu":
        assert peak_memory(contenders["fastdet"]) < images * 2**31 // 128
    take_turns(benchmark, "task_aligned", {setting: contenders["fastdet"]}, rounds=10, device=device)
