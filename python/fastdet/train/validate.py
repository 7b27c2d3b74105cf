# SPDX-License-Identifier: Apache-2.0
"""Detections of a module on every picture of a data set, by the same operators as at inference."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch

from fastdet import ops
from fastdet.data.dataset import Dataset
from fastdet.data.loader import PictureCache
from fastdet.evaluation import Prediction
from fastdet.models import DetectionModel


@torch.no_grad()
def predict(
    module: DetectionModel,
    dataset: Dataset,
    cache: PictureCache,
    *,
    input_size: tuple[int, int] | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_det: int | None = None,
    batch_size: int = 8,
    seconds: dict[str, float] | None = None,
) -> dict[int, Prediction]:
    """Run ``module`` (in evaluation mode) over a data set.

    Args:
        input_size: (height, width) of the network input, in pixels.
        score_threshold, iou_threshold, max_det: of the multi-label NMS (without NMS where
            ``module.spec.nms_free``). All four: None takes those of ``module.spec``.
        seconds: gets what was spent in ``read`` (files to pictures), ``prepare`` (letterbox), ``network`` and ``keep``
            (decoding and suppression), added to what it holds.

    Returns:
        Picture id -> Prediction in pixels of the picture, clipped to it.
    """
    spec = module.spec
    device = next(module.parameters()).device
    clock = _Clock(device, {} if seconds is None else seconds)
    result: dict[int, Prediction] = {}
    for start in range(0, len(dataset), batch_size):
        pictures = dataset.pictures[start : start + batch_size]
        clock.start()
        images = [np.asarray(cache(start + offset).image) for offset in range(len(pictures))]
        clock.lap("read")
        batch, mapping = ops.letterbox(images, input_size or spec.input_size, **spec.preprocessing)
        clock.lap("prepare")
        raw = module(torch.from_numpy(batch).to(device))
        clock.lap("network")
        boxes, scores = module.decode(raw)
        threshold = spec.score_threshold if score_threshold is None else score_threshold
        most = spec.max_det if max_det is None else max_det
        if spec.nms_free:
            kept = module.best_pairs(boxes, scores, score_threshold=threshold, max_det=most)
        else:
            kept = ops.multiclass_nms(
                boxes,
                scores,
                score_threshold=threshold,
                iou_threshold=spec.iou_threshold if iou_threshold is None else iou_threshold,
                max_det=most,
                multi_label=spec.multi_label,
            )
        for row, picture in enumerate(pictures):
            count = int(kept.count[row])
            found = kept.boxes[row, :count].cpu().numpy()
            result[picture.id] = Prediction(
                np.asarray(mapping.to_image(found, index=row)),
                kept.scores[row, :count].cpu().numpy(),
                kept.labels[row, :count].cpu().numpy(),
            )
        clock.lap("keep")
    return result


class _Clock:
    """Adds the time since the last lap to a named sum; on CUDA a lap waits for what was launched in it."""

    def __init__(self, device: torch.device, seconds: dict[str, float]) -> None:
        self._device, self._seconds = device, seconds
        self.start()

    def start(self) -> None:
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now
