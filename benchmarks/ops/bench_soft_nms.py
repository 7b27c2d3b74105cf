# SPDX-License-Identifier: Apache-2.0
"""soft_nms against the loop as one writes it in torch."""

from __future__ import annotations

import numpy as np
import torch

from fastdet import ops
from harness import compare
from on_device import needs_cuda

SIGMA, THRESHOLD = 0.5, 0.05


def candidates(n: int, size: float = 1024.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes in clusters over a picture, as a head gives several for each object."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, size, (n // 8, 2))[rng.integers(0, n // 8, n)] + rng.normal(0, 4, (n, 2))
    half = rng.uniform(4, 40, (n, 2))
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy((1 + rng.permutation(n)).astype(np.float32) / n)


def torch_soft_nms(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One vectorised row of IoU and gaussian decay for each box chosen."""
    index, new = torch.arange(len(boxes), device=boxes.device), []
    area, picked = (boxes[:, 2:] - boxes[:, :2]).prod(1), []
    while len(index):
        i = scores.argmax()
        picked.append(index[i])
        new.append(scores[i])
        low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
        common = (high - low).clamp_(min=0).prod(1)
        iou = common / (area[i] + area - common)
        scores = scores * torch.exp(-(iou * iou) / SIGMA)
        left = scores > THRESHOLD
        left[i] = False
        boxes, scores, area, index = boxes[left], scores[left], area[left], index[left]
    return torch.stack(picked), torch.stack(new)


def agree(ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """The same scores to rounding; a box on the threshold may be on either side."""
    n = min(len(ours[1]), len(theirs[1]))
    return abs(len(ours[1]) - len(theirs[1])) <= 2 and torch.allclose(ours[1][:n], theirs[1][:n], rtol=1e-4)


def run(benchmark, device: str) -> None:
    n = 4000 if benchmark.enabled else 300
    boxes, scores = (t.to(device) for t in candidates(n))
    contenders = {
        "fastdet": lambda: ops.soft_nms(boxes, scores, sigma=SIGMA, score_threshold=THRESHOLD),
        "torch": lambda: torch_soft_nms(boxes, scores),
    }
    name = f"{n} random boxes, gaussian"
    compare(benchmark, "soft_nms", name, contenders, same=agree, rounds=10, device=device, eager=contenders)


def bench_soft_nms(benchmark):
    run(benchmark, "cpu")


@needs_cuda
def bench_soft_nms_cuda(benchmark):
    run(benchmark, "cuda")
