# SPDX-License-Identifier: Apache-2.0
"""topk_detections against torch's sigmoid, topk and gather."""

from __future__ import annotations

import pytest
import torch

from fastdet import ops
from harness import compare
from on_device import DEVICES


def rows(images: int, queries: int, classes: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, queries, classes, generator=generator) * 1.5 - 5
    return logits.to(device), torch.rand(images, queries, 4, generator=generator).to(device)


def same(kept, peer):
    boxes, scores, _ = peer
    return torch.allclose(kept.scores, scores, rtol=1e-5) and torch.allclose(kept.boxes, boxes, atol=1e-2)


def run(benchmark, name, contenders, logits, boxes):
    device, moved = logits.device.type, 4 * (logits.numel() + boxes.numel())
    compare(benchmark, "topk_detections", name, contenders, same=same, rounds=20, device=device, moved=moved)


@pytest.mark.parametrize("device", DEVICES)
def bench_topk_detections(benchmark, device):
    logits, boxes = rows(8, 300, 80, device)
    size = torch.tensor([640.0, 480.0, 640.0, 480.0], device=device)

    def torch_topk():
        scores, at = logits.sigmoid().flatten(1).topk(300, 1)
        query, label = at // 80, at % 80
        cx, cy, w, h = boxes.gather(1, query[..., None].expand(-1, -1, 4)).unbind(-1)
        corners = torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), -1)
        return corners * size, scores, label

    contenders = {
        "fastdet": lambda: ops.topk_detections(logits, boxes, box_format="cxcywh", image_size=(480, 640)),
        "torch": torch_topk,
    }
    name = "RT-DETR: batch 8, 300 queries, 80 classes"
    run(benchmark, name, contenders, logits, boxes)


@pytest.mark.parametrize("device", DEVICES)
def bench_topk_detections_two_stages(benchmark, device):
    logits, boxes = rows(8, 8400, 80, device)

    def torch_two_stages():
        best = logits.amax(-1).topk(300, 1).indices
        scores = logits.gather(1, best[..., None].expand(-1, -1, 80)).sigmoid()
        scores, at = scores.flatten(1).topk(300, 1)
        anchor = best.gather(1, at // 80)
        return boxes.gather(1, anchor[..., None].expand(-1, -1, 4)), scores, at % 80

    contenders = {"fastdet": lambda: ops.topk_detections(logits, boxes), "torch": torch_two_stages}
    run(benchmark, "YOLOv10: batch 8, 8400 anchors, 80 classes", contenders, logits, boxes)
