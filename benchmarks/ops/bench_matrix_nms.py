# SPDX-License-Identifier: Apache-2.0
"""matrix_nms against the published torch form, with its N x N matrices."""

from __future__ import annotations

import numpy as np
import torch

from fastdet import ops
from harness import compare
from on_device import needs_cuda

SIGMA, THRESHOLD = 2.0, 0.05


def candidates(n: int, size: float = 1024.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes in clusters over a picture, as a head gives several for each object."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, size, (n // 8, 2))[rng.integers(0, n // 8, n)] + rng.normal(0, 4, (n, 2))
    half = rng.uniform(4, 40, (n, 2))
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy((1 + rng.permutation(n)).astype(np.float32) / n)


def torch_matrix_nms(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort, IoU of all pairs, upper triangle, minimum of the gaussian decay, sort again."""
    order = torch.argsort(scores, descending=True, stable=True)
    boxes, scores = boxes[order], scores[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    low = torch.maximum(boxes[:, None, :2], boxes[:, :2])
    common = (torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - low).clamp_(min=0).prod(2)
    iou = (common / (area[:, None] + area - common)).triu_(1)
    most = iou.amax(0)[:, None]
    new = scores * torch.exp(-SIGMA * (iou * iou - most * most)).amin(0)
    new, place = new.sort(descending=True, stable=True)
    kept = new > THRESHOLD
    return order[place[kept]], new[kept]


def agree(ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """The same scores to rounding; a box on the threshold may be on either side."""
    n = min(len(ours[1]), len(theirs[1]))
    return abs(len(ours[1]) - len(theirs[1])) <= 2 and torch.allclose(ours[1][:n], theirs[1][:n], rtol=1e-4)


def run(benchmark, device: str) -> None:
    n = 4000 if benchmark.enabled else 300
    boxes, scores = (t.to(device) for t in candidates(n))
    contenders = {
        "fastdet": lambda: ops.matrix_nms(boxes, scores, sigma=SIGMA, score_threshold=THRESHOLD),
        "torch": lambda: torch_matrix_nms(boxes, scores),
    }
    name = f"{n} random boxes, gaussian"
    compare(benchmark, "matrix_nms", name, contenders, same=agree, rounds=10, device=device, eager=contenders)


def bench_matrix_nms(benchmark):
    run(benchmark, "cpu")


@needs_cuda
def bench_matrix_nms_cuda(benchmark):
    run(benchmark, "cuda")
