# SPDX-License-Identifier: Apache-2.0
"""rotated_nms against the usual torch form: sort, all pairs at once, upper triangle, maximum; batches one by one."""

from __future__ import annotations

import numpy as np
import torch

from fastdet import ops
from harness import compare, take_turns
from on_device import needs_cuda

THRESHOLD = 0.7


def candidates(n: int = 8400, size: float = 1024.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes in clusters over a picture, as a head gives several for each object."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, size, (n // 8, 2))[rng.integers(0, n // 8, n)] + rng.normal(0, 4, (n, 2))
    boxes = np.concatenate([centre, rng.uniform(8, 80, (n, 2)), rng.uniform(-0.7, 2.3, (n, 1))], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.permutation(n).astype(np.float32) / n)


def torch_probiou(boxes: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """All pairs by broadcasting, with as few passes over N x N as the formula allows."""
    x, y, w, h, angle = boxes.unbind(1)
    along, across, cos, sin = w * w / 12, h * h / 12, angle.cos(), angle.sin()
    a, b = along * cos * cos + across * sin * sin, along * sin * sin + across * cos * cos
    c, own = (along - across) * cos * sin, along * across
    sa, sb, sc = a[:, None] + a, b[:, None] + b, c[:, None] + c
    dx, dy = x[:, None] - x, y[:, None] - y
    det = sa * sb - sc * sc
    distance = (sa * dy * dy + sb * dx * dx).mul_(0.25).sub_((sc * dx * dy).mul_(0.5)).div_(det + eps)
    distance += (det / (own[:, None] * own).sqrt_().mul_(4).add_(eps)).add_(eps).log_().mul_(0.5)
    return 1 - (1 - distance.clamp_(eps, 100).neg_().exp_()).add_(eps).sqrt_()


def torch_fast(boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The triangular-matrix form: dropped if any better box overlaps by more than the threshold."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[torch_probiou(boxes[order]).triu_(1).amax(0) <= THRESHOLD]


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Rounding may decide a few pairs otherwise: the formula cancels as torch computes it."""
    differing = len(set(ours.tolist()) ^ set(theirs.tolist()))
    return differing <= max(4, len(ours) // 100)


def run(benchmark, device: str) -> None:
    n = 8400 if benchmark.enabled else 300  # the torch form takes seconds
    boxes, scores = (t.to(device) for t in candidates(n))
    contenders = {
        "fastdet": lambda: ops.rotated_nms(boxes, scores, THRESHOLD, measure="probiou", semantics="fast"),
        "torch": lambda: torch_fast(boxes, scores),
    }
    name = f"{n} random rotated boxes, probabilistic IoU 0.7, fast"
    compare(benchmark, "rotated_nms", name, contenders, same=agree, rounds=10, device=device, eager=contenders)


def bench_rotated_nms(benchmark):
    run(benchmark, "cpu")


@needs_cuda
def bench_rotated_nms_cuda(benchmark):
    run(benchmark, "cuda")


def torch_batch(boxes: torch.Tensor, scores: torch.Tensor, score_threshold: float, max_det: int) -> list[torch.Tensor]:
    """The usual loop over pictures: best class, threshold, classes shifted apart, the triangular-matrix form."""
    kept = []
    for picture, table in zip(boxes, scores):
        best, label = table.max(1)
        chosen = torch.where(best > score_threshold)[0]
        shifted = picture[chosen].clone()
        shifted[:, :2] += label[chosen, None] * 4096.0
        kept.append(chosen[torch_fast(shifted, best[chosen])][:max_det])
    return kept


def agree_each(ours: ops.Kept, theirs: list[torch.Tensor]) -> bool:
    return all(agree(index[:n], kept) for index, n, kept in zip(ours.index, ours.count.tolist(), theirs))


def run_batch(benchmark, device: str) -> None:
    """A head's 21504 boxes of 15 classes (1024 x 1024), 8 pictures, some 2000 candidates each."""
    n, pictures = (21504, 8) if benchmark.enabled else (300, 2)
    boxes = torch.stack([candidates(n, seed=i)[0] for i in range(pictures)]).to(device)
    scores = (torch.rand(pictures, n, 15, generator=torch.Generator().manual_seed(0)) ** 200).to(device)
    words = {"iou_threshold": THRESHOLD, "measure": "probiou", "semantics": "fast"}
    contenders = {
        "fastdet": lambda: ops.rotated_multiclass_nms(boxes, scores, score_threshold=0.25, **words),
        "torch": lambda: torch_batch(boxes, scores, 0.25, 300),
    }
    name = f"{pictures} pictures of {n} rotated boxes, 15 classes, probabilistic IoU 0.7, fast"
    compare(benchmark, "rotated_nms", name, contenders, same=agree_each, rounds=10, device=device, eager=("torch",))


def bench_rotated_multiclass_nms(benchmark):
    run_batch(benchmark, "cpu")


@needs_cuda
def bench_rotated_multiclass_nms_cuda(benchmark):
    run_batch(benchmark, "cuda")


def bench_rotated_nms_forms(benchmark):
    """What the reference does not have: the greedy walk, and the IoU of the polygons."""
    boxes, scores = candidates(8400 if benchmark.enabled else 300)
    contenders = {
        f"8400 random rotated boxes, {measure} 0.7, {semantics}": lambda m=measure, s=semantics: ops.rotated_nms(
            boxes, scores, THRESHOLD, measure=m, semantics=s
        )
        for measure, semantics in (("probiou", "greedy"), ("polygon", "greedy"), ("polygon", "fast"))
    }
    take_turns(benchmark, "rotated_nms", contenders, rounds=10)
