# SPDX-License-Identifier: Apache-2.0
"""SimOTA against the same rule in torch: as published with its [n, M, C] cross-entropy, and with that written away.

What the work costs, for n valid candidates, C classes, M ground truths (about 8000, 80, 50):

- torch, published: some 10 element-wise passes over [n, M, C] float32 (32 M elements, 128 MB each).
- torch: the cross-entropy of all classes once per candidate ([n, C]: sigmoid, product, root, logarithm), the exchanged
  class gathered per pair, then some 15 passes over [n, M] and a ``topk`` per ground truth, since k differs.
- here: C exponentials, divisions and roots and C / 8 logarithms for each candidate that is priced or has one of the
  largest IoUs (a quarter of the 8000, all of a list); per ground truth one scan of the chunks of 16 candidates that its
  box meets, from the cache, and three logarithms for pairs that are inside or whose class sum and IoU leave them a
  chance. Most of the time is the class sums', and of that the divisions' and roots'. Memory: 62 bytes per candidate,
  36 + 4 topk per ground truth.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sim_ota_problems import DEFAULTS, problem
from torch.nn import functional

from fastdet import ops
from fastdet.assign import PaddedTargets, anchor_candidates
from harness import compare, peak_memory
from on_device import DEVICES

ANCHORS = [[[12, 16], [19, 36], [40, 28]], [[36, 75], [76, 55], [72, 146]], [[142, 110], [192, 243], [459, 401]]]


def torch_sim_ota(scores, objectness, boxes, gt, labels, points, strides, candidates, dense=False):
    """One image: matched ground truth per candidate. ``dense``: the cross-entropy as an [n, M, C] array."""
    length = len(scores) if candidates is None else len(candidates)
    outside = None
    if candidates is None:
        x, y, reach = points[:, :1], points[:, 1:], 2.5 * strides[:, None]
        in_box = (x > gt[:, 0]) & (y > gt[:, 1]) & (gt[:, 2] > x) & (gt[:, 3] > y)
        centre = (gt[:, :2] + gt[:, 2:]) / 2
        in_centre = ((x - centre[:, 0]).abs() < reach) & ((y - centre[:, 1]).abs() < reach)
        valid = torch.nonzero((in_box | in_centre).any(1))[:, 0]
        source, outside = valid, ~(in_box & in_centre)[valid]
    else:
        valid = torch.nonzero(candidates >= 0)[:, 0]
        source = candidates[valid]
    p = (scores[source].sigmoid() * objectness[source, None].sigmoid()).sqrt_()
    b = boxes[source][:, None]
    side = (torch.minimum(b[..., 2:], gt[:, 2:]) - torch.maximum(b[..., :2], gt[:, :2])).clamp_(min=0)
    inter = side.prod(-1)
    iou = inter / ((b[..., 2:] - b[..., :2]).prod(-1) + (gt[:, 2:] - gt[:, :2]).prod(-1) - inter)
    if dense:
        target = functional.one_hot(labels, p.shape[1]).to(p.dtype)[None].expand(len(p), -1, -1)
        wide = p[:, None].expand_as(target)
        class_cost = functional.binary_cross_entropy(wide, target, reduction="none").sum(-1)
    else:
        log_not = (-p).log1p_().clamp_(min=-100)
        class_cost = (log_not[:, labels] - p[:, labels].log_().clamp_(min=-100)) - log_not.sum(1, keepdim=True)
    cost = class_cost - 3.0 * torch.log(iou + 1e-8)
    if outside is not None:
        cost = cost + 1e5 * outside
    k = torch.topk(iou, min(10, len(valid)), dim=0).values.sum(0).int().clamp(min=1).tolist()
    takes = torch.zeros_like(cost, dtype=torch.bool)
    for g, count in enumerate(k):
        takes[torch.topk(cost[:, g], count, largest=False).indices, g] = True
    takers = takes.sum(1)
    winner = torch.where(takers > 1, cost.argmin(1), takes.int().argmax(1))
    positive = takers > 0
    matched = torch.full((length,), -1, dtype=torch.int32, device=scores.device)
    matched[valid[positive]] = winner[positive].int()
    return matched


def contenders_of(arguments):
    scores, objectness, boxes, gt, labels, count, points, strides, candidates = arguments
    counts = count.tolist()

    def loop(dense):
        found = []
        for b, n in enumerate(counts):
            listed = None if candidates is None else candidates[b]
            image = (scores[b], objectness[b], boxes[b], gt[b, :n], labels[b, :n])
            found.append(torch_sim_ota(*image, points, strides, listed, dense))
        return torch.stack(found)

    return {
        "fastdet": lambda: ops.SIM_OTA_ASSIGN(*arguments, *DEFAULTS)[0],
        "torch": lambda: loop(False),
        "torch, published form": lambda: loop(True),
    }


def agree(ours, theirs):
    """Equal but where two costs differ by less than float32 shows in the sum over all classes."""
    return float((ours != theirs).float().mean()) < 1e-3


def run(benchmark, setting, device, numpy_arguments):
    arguments = [None if a is None else torch.from_numpy(np.array(a)).to(device) for a in numpy_arguments]
    contenders = contenders_of(arguments)
    peers = [name for name in contenders if name != "fastdet"]  # they count on the host
    scores, objectness, boxes, *rest = (None if a is None else a for a in arguments)
    first = [a[:1] for a in (scores, objectness, boxes, *rest[:3])]
    options = {"points": rest[3], "strides": rest[4], "candidates": None if rest[5] is None else rest[5][:1]}
    extra = {"valid_of_the_first_image": int(ops.sim_ota_cost(*first, **options).valid.sum())}
    if device == "cpu":
        extra["peak_memory"] = {name: max(peak_memory(c) for _ in range(2)) for name, c in contenders.items()}
    compare(benchmark, "sim_ota", setting, contenders, same=agree, rounds=10, device=device, eager=peers, extra=extra)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["plain", "small"])
def bench_sim_ota_windows(benchmark, device, kind):
    arguments = problem(images=2, size=(640, 640), classes=80, rows=50, counts=[50, 50], kind=kind)
    of = "boxes" if kind == "plain" else "boxes of 8 to 64 px"
    run(benchmark, f"2 images of 8400 priors, 80 classes, 50 {of}", device, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("coarse", [False, True])
def bench_sim_ota_listed(benchmark, device, coarse):
    """YOLOv7's forms: 25200 priors, of which the anchors' shapes list some 20 (coarse 30) per ground truth."""
    scores, objectness, boxes, gt, labels, count, *_ = problem(
        images=8, size=(640, 640), classes=80, rows=20, counts=[20] * 8, kind="small"
    )
    scores, boxes = np.repeat(scores, 3, 1), np.repeat(boxes, 3, 1)
    objectness = np.repeat(objectness, 3, 1) + np.random.default_rng(0).normal(0, 0.5, (8, 25200)).astype(np.float32)
    truth = PaddedTargets(torch.from_numpy(gt), torch.from_numpy(labels), torch.from_numpy(count))
    shapes = torch.tensor(ANCHORS, dtype=torch.float32)
    listed = anchor_candidates(truth, shapes, [(80, 80), (40, 40), (20, 20)], [8, 16, 32], coarse=coarse)
    # Equal candidates would be ties, which the contenders break in their own ways.
    listed = [np.unique(row[row >= 0], return_index=True)[0] for row in listed.numpy()]
    candidates = np.full((8, max(map(len, listed))), -1, np.int64)
    for row, own in zip(candidates, listed, strict=True):
        row[: len(own)] = own
    setting = f"8 images of 25200 priors, 80 classes, 20 boxes, {'coarse' if coarse else 'fine'} lists"
    run(benchmark, setting, device, (scores, objectness, boxes, gt, labels, count, None, None, candidates))
