# SPDX-License-Identifier: Apache-2.0
"""Raw maps as a trained head gives them, and their decoding in vectorised torch: the peer of the decode benchmarks."""

from __future__ import annotations

import torch

from fastdet import ops

HEAD = ops.HeadFormat("dfl", strides=(8, 16, 32))


def raw_maps(images: int, device: str = "cpu", classes: int = 80, size: int = 640, seed: int = 0) -> tuple[list, list]:
    """Logits and codes of YOLO11: nearly all logits far below 0, a few objects of some ten anchors each."""
    generator = torch.Generator().manual_seed(seed)
    logits, codes = [], []
    for stride in (8, 16, 32):
        h = w = size // stride
        level = torch.randn(images, classes, h, w, generator=generator) * 1.2 - 9
        for image in range(images):
            for _ in range(4):  # objects: a patch of anchors where one class is likely
                y, x, c = (int(torch.randint(0, n, (), generator=generator)) for n in (h - 3, w - 3, classes))
                level[image, c, y : y + 4, x : x + 4] += 9 + 2 * torch.rand(4, 4, generator=generator)
        logits.append(level.to(device))
        codes.append((torch.randn(images, 64, h, w, generator=generator) * 2).to(device))
    return logits, codes


def map_bytes(logits: list, codes: list) -> int:
    """Of all raw maps."""
    return sum(m.numel() * m.element_size() for m in (*logits, *codes))


def torch_decode(logits: list, codes: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and scores, one softmax and one sigmoid over all levels."""
    images, classes, device = *logits[0].shape[:2], logits[0].device
    joined = torch.cat([c.reshape(images, 64, -1) for c in codes], 2)
    scores = torch.cat([x.reshape(images, classes, -1) for x in logits], 2).sigmoid().transpose(1, 2)
    bins = torch.arange(16, dtype=torch.float32, device=device)
    distances = (joined.view(images, 4, 16, -1).softmax(2) * bins[:, None]).sum(2)
    points, strides = [], []
    for level, stride in zip(logits, HEAD.strides):
        h, w = level.shape[2:]
        y, x = torch.meshgrid(*(torch.arange(n, device=device) + 0.5 for n in (h, w)), indexing="ij")
        points.append(torch.stack((x, y)).reshape(2, -1))
        strides.append(torch.full((h * w,), float(stride), device=device))
    grid, stride = torch.cat(points, 1), torch.cat(strides)
    boxes = torch.cat((grid - distances[:, :2], grid + distances[:, 2:]), 1) * stride
    return boxes.transpose(1, 2), scores


def close(ours, theirs) -> bool:
    """Equal but for rounding: a thousandth of a pixel, a millionth of a score."""
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(ours, theirs))
