# SPDX-License-Identifier: Apache-2.0
"""Boxes for the tests of the IoU family, and the formulas as their references write them, in torch, for float64."""

from __future__ import annotations

import math

import numpy as np
import torch

KINDS = ("plain", "lattice", "contained", "tiny", "large", "degenerate", "bad")


def boxes(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "plain", fmt: str = "xyxy") -> np.ndarray:
    """(*shape, 4) float32, or 5 for ``fmt="cxcywha"``. ``lattice``: whole numbers, so that boxes touch, share edges and
    are equal; ``degenerate``: some without area or inverted; ``bad``: some not finite."""
    rotated = fmt == "cxcywha"
    if kind == "lattice":
        low = rng.integers(0, 5, (*shape, 2))
        corners = np.concatenate([low, low + rng.integers(1, 5, (*shape, 2))], -1)
    else:
        span = {"tiny": 1e-3, "large": 1e5}.get(kind, 100.0)
        centre = span * (0.5 + (0.05 if kind == "contained" else 0.5) * (rng.random((*shape, 2)) - 0.5))
        half = span * np.exp(rng.uniform(-3.5, -0.8, (*shape, 2)))
        corners = np.concatenate([centre - half, centre + half], -1)
    corners = corners.astype(np.float32)
    if kind == "degenerate":
        hit = rng.integers(0, 6, shape)
        corners[hit == 0, 2] = corners[hit == 0, 0]
        corners[hit == 1, 1] = corners[hit == 1, 3]
        corners[hit == 2] = corners[hit == 2][:, [2, 3, 0, 1]]
        corners[hit == 3] = 0
    out = corners if fmt == "xyxy" else _converted(corners, fmt)
    if rotated:
        out = np.concatenate([out, rng.uniform(-4, 4, (*shape, 1)).astype(np.float32)], -1)
    if kind == "bad":
        hit = rng.random(out.shape) < 0.1
        out[hit] = rng.choice(np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42]), int(hit.sum()))
    return out


def _converted(corners: np.ndarray, fmt: str) -> np.ndarray:
    low, high = corners[..., :2], corners[..., 2:]
    return np.concatenate([low if fmt == "xywh" else (low + high) / 2, high - low], -1)


def corners_of(boxes: torch.Tensor, fmt: str) -> torch.Tensor:
    if fmt == "xyxy":
        return boxes
    first, size = boxes[..., :2], boxes[..., 2:]
    if fmt == "xywh":
        return torch.cat([first, first + size], -1)
    return torch.cat([first - size / 2, first + size / 2], -1)


def torch_similarity(
    a, b, kind, eps, eps_union="none", eps_enclosing="none", eps_sides="none", *, detach_alpha=True, variance_eps=0.0
):
    """The published formulas on broadcast pairs of proper corners (rotated boxes for ``probiou``)."""

    def placed(value, use):
        return value + eps if use == "add" else value.clamp(min=eps) if use == "clamp" else value

    if kind == "probiou":
        return torch_probabilistic(a, b, eps, variance_eps)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    on_w, on_h = eps * (eps_sides == "both"), eps * (eps_sides != "none")
    w1, h1, w2, h2 = ax2 - ax1 + on_w, ay2 - ay1 + on_h, bx2 - bx1 + on_w, by2 - by1 + on_h
    inter = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    inter = inter * (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    union = placed(w1 * h1 + w2 * h2 - inter, eps_union)
    iou = inter / union
    if kind == "iou":
        return iou
    cw, ch = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1), torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    if kind == "giou":
        enclosing = placed(cw * ch, eps_enclosing)
        return iou - (enclosing - union) / enclosing
    distance = ((bx1 + bx2 - ax1 - ax2) ** 2 + (by1 + by2 - ay1 - ay2) ** 2) / 4
    diou = iou - distance / placed(cw**2 + ch**2, eps_enclosing)
    if kind == "diou":
        return diou
    v = 4 / math.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    alpha = v / (1 - iou + v + eps)
    return diou - v * (alpha.detach() if detach_alpha else alpha)


def torch_probabilistic(p, q, eps, variance_eps):
    """Gaussians of rotated boxes, the determinants as differences."""

    def gaussian(box):
        x, y, w, h, angle = box.unbind(-1)
        along, across, cos, sin = w**2 / 12 + variance_eps, h**2 / 12 + variance_eps, angle.cos(), angle.sin()
        return x, y, along * cos**2 + across * sin**2, along * sin**2 + across * cos**2, (along - across) * cos * sin

    x1, y1, a1, b1, c1 = gaussian(p)
    x2, y2, a2, b2, c2 = gaussian(q)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    det, own = a * b - c**2, (a1 * b1 - c1**2).clamp(min=0) * (a2 * b2 - c2**2).clamp(min=0)
    distance = 0.25 * (a * (y1 - y2) ** 2 + b * (x1 - x2) ** 2) / (det + eps)
    distance = distance + 0.5 * c * (x2 - x1) * (y1 - y2) / (det + eps)
    distance = distance + 0.5 * torch.log(det / (4 * own.sqrt() + eps) + eps)
    return 1 - (1 - torch.exp(-distance.clamp(eps, 100)) + eps).sqrt()
