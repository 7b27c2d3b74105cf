# SPDX-License-Identifier: Apache-2.0
"""detect, from raw maps to detections, against torch decoding followed by a torch NMS or by our own."""

from __future__ import annotations

import pytest
import torch
from bench_nms import TORCHVISION_NMS, torch_nms
from torch_heads import HEAD, close, map_bytes, raw_maps, torch_decode

from fastdet import ops
from harness import compare
from on_device import DEVICES

WAITING = ("torch", "torchvision")  # for how many boxes are left


def torch_detect(logits, codes, class_nms, score_threshold, iou_threshold, max_det=300):
    """The usual prediction loop: dense decoding, best class, threshold, classes shifted apart, NMS per picture."""
    boxes, scores = torch_decode(logits, codes)
    best, label = scores.max(-1)
    results = []
    for b in range(len(boxes)):
        found = torch.nonzero(best[b] > score_threshold).squeeze(1)
        box, score, cls = boxes[b][found], best[b][found], label[b][found]
        keep = class_nms(box + 7680.0 * cls[:, None], score, iou_threshold)[:max_det]
        results.append((box[keep], score[keep], cls[keep]))
    return results


def same(kept, peer):
    if not isinstance(peer, list):
        return all(close((a,), (b,)) for a, b in zip(kept, peer))
    # Shifted coordinates are rounded, so the peer may decide otherwise where an IoU touches the threshold.
    return all(abs(int(kept.count[b]) - len(s)) <= 1 for b, (_, s, _) in enumerate(peer))


def run(benchmark, setting, contenders, logits, codes):
    options = {"device": logits[0].device.type, "eager": WAITING, "moved": map_bytes(logits, [])}  # few codes are read
    compare(benchmark, "detect", setting, contenders, same=same, rounds=10, **options)


@pytest.mark.parametrize("device", DEVICES)
def bench_detect(benchmark, device):
    logits, codes = raw_maps(8, device)
    limits = {"score_threshold": 0.25, "iou_threshold": 0.7}
    contenders = {
        "fastdet": lambda: ops.detect(logits, codes, HEAD, **limits),
        "torch decode + multiclass_nms": lambda: ops.multiclass_nms(*torch_decode(logits, codes), **limits),
        "torch": lambda: torch_detect(logits, codes, torch_nms, **limits),
    }
    if TORCHVISION_NMS is not None:
        contenders["torchvision"] = lambda: torch_detect(logits, codes, TORCHVISION_NMS, **limits)
    run(benchmark, "YOLO11 maps, batch 8, 640 px, score 0.25", contenders, logits, codes)


@pytest.mark.parametrize("device", DEVICES)
def bench_detect_validation(benchmark, device):
    logits, codes = raw_maps(4, device)
    limits = {"score_threshold": 0.001, "iou_threshold": 0.7, "multi_label": True}
    contenders = {
        "fastdet": lambda: ops.detect(logits, codes, HEAD, **limits),
        "torch decode + multiclass_nms": lambda: ops.multiclass_nms(*torch_decode(logits, codes), **limits),
    }
    run(benchmark, "YOLO11 maps, batch 4, score 0.001, multi-label", contenders, logits, codes)
