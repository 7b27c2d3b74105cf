# SPDX-License-Identifier: Apache-2.0
"""rotated_box_iou against a torch form: crossings of edges and corners inside, sorted by angle, shoelace formula.

What the work costs for P pairs: torch makes 24 points for each (16 crossings, 8 corners), sorts them and sums,
some 3 kB of arrays per pair; here 4 bytes per pair are written, pairs that are not near cost 8 operations, near ones
about 120 and 6 divisions, 16 at a time.
"""

from __future__ import annotations

import numpy as np
import torch

from fastdet import ops
from harness import compare, take_turns
from on_device import needs_cuda


def boxes(seed: int, n: int, size: float = 1024.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    drawn = [rng.uniform(0, size, (n, 2)), rng.uniform(8, 80, (n, 2)), rng.uniform(-0.7, 2.3, (n, 1))]
    return torch.from_numpy(np.concatenate(drawn, 1).astype(np.float32))


def corners(box: torch.Tensor) -> torch.Tensor:
    x, y, w, h, angle = box.unbind(-1)
    cos, sin = angle.cos() / 2, angle.sin() / 2
    px, py, qx, qy = w * cos, w * sin, -h * sin, h * cos
    xs, ys = (
        torch.stack([px + qx, qx - px, -px - qx, px - qx], -1),
        torch.stack([py + qy, qy - py, -py - qy, py - qy], -1),
    )
    return torch.stack([x[..., None] + xs, y[..., None] + ys], -1)


def cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def inside(points: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    sides = of.roll(-1, -2) - of
    return (cross(sides[..., None, :, :], points[..., :, None, :] - of[..., None, :, :]) >= -1e-4).all(-1)


def torch_pairs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of broadcast pairs."""
    area_a, area_b = a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]
    p, q = torch.broadcast_tensors(corners(a), corners(b))
    e, f = (p.roll(-1, -2) - p)[..., :, None, :], (q.roll(-1, -2) - q)[..., None, :, :]
    between = q[..., None, :, :] - p[..., :, None, :]
    det = cross(e, f)
    t, u = cross(between, f) / det, cross(between, e) / det
    hits = (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    crossings = (p[..., :, None, :] + t[..., None] * e).flatten(-3, -2)
    points = torch.cat([crossings, p, q], -2)
    known = torch.cat([hits.flatten(-2), inside(p, q), inside(q, p)], -1)
    points = torch.where(known[..., None], points, 0.0)
    centre = points.sum(-2, keepdim=True) / known.sum(-1)[..., None, None].clamp(min=1)
    points = torch.where(known[..., None], points - centre, 0.0)
    turn = torch.where(known, torch.atan2(points[..., 1], points[..., 0]), 9.0)
    points = points.gather(-2, turn.argsort(-1)[..., None].expand_as(points))
    count = known.sum(-1)[..., None]
    following = torch.where(
        torch.arange(24, device=a.device) + 1 == count, 0, torch.arange(1, 25, device=a.device) % 24
    )
    common = cross(points, points.gather(-2, following[..., None].expand_as(points))).sum(-1) / 2
    return common / (area_a + area_b - common)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Nearly parallel edges cross anywhere as torch computes it."""
    return bool(((ours - theirs).abs() < 1e-3).float().mean() > 0.999)


def run(benchmark, device: str) -> None:
    m, n = (300, 8400) if benchmark.enabled else (20, 50)
    a, b = boxes(0, m).to(device), boxes(1, n).to(device)
    contenders = {
        "fastdet": lambda: ops.rotated_box_iou(a, b),
        "torch": lambda: torch.cat([torch_pairs(a[i : i + 10, None], b[None]) for i in range(0, m, 10)]),
    }
    name = f"polygon IoU, {m} x {n}"
    compare(benchmark, "rotated_box_iou", name, contenders, same=close, rounds=10, device=device, moved=4 * m * n)


def bench_rotated_box_iou(benchmark):
    run(benchmark, "cpu")


@needs_cuda
def bench_rotated_box_iou_cuda(benchmark):
    run(benchmark, "cuda")


def bench_rotated_box_iou_aligned(benchmark):
    count = 8400 if benchmark.enabled else 50
    a = boxes(0, count)
    b = a + boxes(1, count) / 100
    contenders = {
        "fastdet": lambda: ops.rotated_box_iou(a, b, aligned=True),
        "torch": lambda: torch_pairs(a, b),
    }
    compare(benchmark, "rotated_box_iou", f"polygon IoU, {count} aligned", contenders, same=close, rounds=10)


def bench_rotated_box_iou_forms(benchmark):
    """All pairs of crowded boxes, where nearly all are near; and the probabilistic IoU."""
    m, n = (300, 8400) if benchmark.enabled else (20, 50)
    a, b = boxes(0, m), boxes(1, n)
    crowded = boxes(0, m, 40.0), boxes(1, n, 40.0)
    contenders = {
        f"polygon IoU of crowded boxes, {m} x {n}": lambda: ops.rotated_box_iou(*crowded),
        f"probabilistic IoU, {m} x {n}": lambda: ops.rotated_box_iou(a, b, measure="probiou"),
    }
    take_turns(benchmark, "rotated_box_iou", contenders, rounds=10)
