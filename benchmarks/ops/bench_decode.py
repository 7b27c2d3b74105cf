# SPDX-License-Identifier: Apache-2.0
"""decode_boxes, forward and backward, and decode_candidates against vectorised torch; detect has its own file."""

from __future__ import annotations

import pytest
import torch
from torch_heads import HEAD, close, map_bytes, raw_maps, torch_decode

from fastdet import ops
from harness import compare
from on_device import DEVICES

on_every_device = pytest.mark.parametrize("device", DEVICES)


@on_every_device
def bench_decode_boxes(benchmark, device):
    logits, codes = raw_maps(8, device)
    contenders = {
        "fastdet": lambda: ops.decode_boxes(logits, codes, HEAD),
        "torch": lambda: torch_decode(logits, codes),
    }
    name = "YOLO11 maps, batch 8, 640 px, 80 classes"
    written = sum(a.numel() * a.element_size() for a in ops.decode_boxes(logits, codes, HEAD))
    moved = map_bytes(logits, codes) + written
    compare(benchmark, "decode_boxes", name, contenders, same=close, rounds=10, device=device, moved=moved)


@on_every_device
def bench_decode_boxes_backward(benchmark, device):
    maps = raw_maps(2, device)
    leaves = [m.clone().requires_grad_() for side in maps for m in side]

    def gradients(decode):
        boxes, scores = decode(leaves[:3], leaves[3:])
        return torch.autograd.grad((boxes.sum() + scores.square().sum()), leaves)

    contenders = {
        "fastdet": lambda: gradients(lambda *m: ops.decode_boxes(*m, HEAD)),
        "torch": lambda: gradients(torch_decode),
    }
    name = "forward + backward, YOLO11 maps, batch 2, 640 px"
    moved = 3 * map_bytes(*maps)  # read twice, their gradient written
    compare(benchmark, "decode_boxes", name, contenders, same=close, rounds=10, device=device, moved=moved)


@on_every_device
def bench_decode_candidates(benchmark, device):
    logits, codes = raw_maps(8, device)

    def torch_candidates():
        boxes, scores = torch_decode(logits, codes)
        best, label = scores.max(-1)
        found = [torch.nonzero(b > 0.25).squeeze(1) for b in best]
        return [(boxes[i][n], best[i][n], label[i][n]) for i, n in enumerate(found)]

    def same(kept, peer):
        return all(
            torch.equal(kept.labels[i, : len(s)].long(), label) and close((kept.boxes[i, : len(s)],), (boxes,))
            for i, (boxes, s, label) in enumerate(peer)
        )

    contenders = {
        "fastdet": lambda: ops.decode_candidates(logits, codes, HEAD, score_threshold=0.25),
        "torch": torch_candidates,
    }
    name = "YOLO11 maps, batch 8, 640 px, score 0.25"
    options = {"device": device, "eager": ["torch"], "moved": map_bytes(logits, [])}
    compare(benchmark, "decode_candidates", name, contenders, same=same, rounds=10, **options)
