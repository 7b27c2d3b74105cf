# SPDX-License-Identifier: Apache-2.0
"""NMS against a plain torch implementation, and against torchvision's where it is installed and loads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastdet import ops
from harness import compare
from on_device import DEVICES


def candidates(
    images: int, anchors: int, classes: int, device: str = "cpu", seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes spread over a 640 x 640 picture, scores as a trained head gives them: few high, most near 0."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 640, (images, anchors, 2))
    half = rng.uniform(4, 60, (images, anchors, 2))
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    scores = (rng.random((images, anchors, classes)) ** 12).astype(np.float32)
    return torch.from_numpy(boxes).to(device), torch.from_numpy(scores).to(device)


def torch_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, limit: int = 2**31) -> torch.Tensor:
    """Greedy NMS as one writes it in torch: sort, then one vectorised IoU row for each kept box, ``limit`` at most."""
    order = torch.argsort(scores, descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = []
    while len(order) and len(keep) < limit:
        i, rest = order[0], order[1:]
        keep.append(i)
        low = torch.maximum(boxes[i, :2], boxes[rest, :2])
        high = torch.minimum(boxes[i, 2:], boxes[rest, 2:])
        overlap = (high - low).clamp_(min=0).prod(1)
        order = rest[overlap / (area[i] + area[rest] - overlap) <= iou_threshold]
    return torch.stack(keep) if keep else order


def torch_multiclass_nms(
    class_nms: Callable[..., torch.Tensor],
    boxes: torch.Tensor,
    scores: torch.Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_det: int,
    max_candidates: int,
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The usual validation loop: threshold, top-k, shift classes apart, one greedy NMS per picture."""
    results = []
    for picture_boxes, picture_scores in zip(boxes, scores, strict=True):
        anchor, label = torch.nonzero(picture_scores > score_threshold, as_tuple=True)
        score = picture_scores[anchor, label]
        score, best = score.topk(min(max_candidates, len(score)))
        anchor, label = anchor[best], label[best]
        found = picture_boxes[anchor]
        keep = class_nms(found + 4096.0 * label[:, None], score, iou_threshold, max_det)
        results.append((found[keep], score[keep], label[keep]))
    return results


def torchvision_nms():
    try:
        from torchvision.ops import nms
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    return nms


TORCHVISION_NMS = torchvision_nms()


def boxes_with_scores(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    boxes, _ = candidates(1, 8400, 1, device)
    return boxes[0], torch.from_numpy(np.random.default_rng(1).random(8400).astype(np.float32)).to(device)


@pytest.mark.parametrize("device", DEVICES)
def bench_nms(benchmark, device):
    """As many indices as are kept: all contenders wait for their number."""
    boxes, scores = boxes_with_scores(device)
    peers = {"torch": lambda: torch_nms(boxes, scores, 0.65)}
    if TORCHVISION_NMS is not None:
        peers["torchvision"] = lambda: TORCHVISION_NMS(boxes, scores, 0.65)
    ours = {"fastdet": lambda: ops.nms(boxes, scores, 0.65)}
    contenders = ours | peers
    options = {"device": device, "eager": contenders}
    compare(benchmark, "nms", "8400 random boxes, IoU 0.65", contenders, same=torch.equal, rounds=10, **options)


@pytest.mark.parametrize("device", DEVICES)
def bench_batched_nms(benchmark, device):
    boxes, scores = boxes_with_scores(device)
    classes = torch.from_numpy(np.random.default_rng(2).integers(0, 80, 8400)).to(device)

    def shifted(nms: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Classes moved apart, the usual way to make one problem of many."""
        return nms(boxes + 1024.0 * classes[:, None], scores, 0.65)

    def same(ours, theirs):  # shifted coordinates are rounded: a pair near the threshold may fall otherwise
        return abs(len(ours) - len(theirs)) <= 8

    contenders = {
        "fastdet": lambda: ops.batched_nms(boxes, scores, classes, 0.65),
        "torch": lambda: shifted(torch_nms),
    }
    if TORCHVISION_NMS is not None:
        contenders["torchvision"] = lambda: shifted(TORCHVISION_NMS)
    name, options = "8400 random boxes, 80 classes, IoU 0.65", {"device": device, "eager": contenders}
    compare(benchmark, "batched_nms", name, contenders, same=same, rounds=10, **options)


@pytest.mark.parametrize("device", DEVICES)
def bench_multiclass_nms(benchmark, device):
    boxes, scores = candidates(4, 8400, 80, device)
    setting = {"score_threshold": 0.001, "iou_threshold": 0.65, "max_det": 300, "max_candidates": 30000}

    def same(kept, peer):
        counts = [len(s) for _, s, _ in peer]
        return kept.count.tolist() == counts and all(
            # Shifted coordinates are rounded, so the peer may decide otherwise where an IoU touches the threshold.
            float((kept.scores[b, :n] == peer[b][1]).float().mean()) > 0.9
            for b, n in enumerate(counts)
        )

    contenders = {
        "fastdet": lambda: ops.multiclass_nms(boxes, scores, **setting, multi_label=True),
        "torch": lambda: torch_multiclass_nms(torch_nms, boxes, scores, **setting),
    }
    if TORCHVISION_NMS is not None:
        all_then_cut = lambda b, s, threshold, limit: TORCHVISION_NMS(b, s, threshold)[:limit]  # noqa: E731
        contenders["torchvision"] = lambda: torch_multiclass_nms(all_then_cut, boxes, scores, **setting)
    name = "validation: 4 x 8400 boxes x 80 classes, score 0.001, IoU 0.65, multi-label"
    options = {"device": device, "eager": ("torch", "torchvision"), "moved": 4 * scores.numel()}
    compare(benchmark, "multiclass_nms", name, contenders, same=same, rounds=10, **options)
