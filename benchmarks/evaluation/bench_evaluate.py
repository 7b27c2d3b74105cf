# SPDX-License-Identifier: Apache-2.0
"""COCO metrics of a validation set of COCO's size against pycocotools and, where installed, faster-coco-eval.

All start from detections in memory, as a training loop has them: ours from one array per picture, the others from their
own rows; the ground truth is indexed before.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastdet.evaluation import GroundTruth, Metrics, Prediction, evaluate
from harness import compare, peak_memory

CLASSES = 80
SIDE = 640
BOXES_A_PICTURE = 7.3  # as in COCO's validation set


def ground_truth(pictures: int, seed: int = 0) -> GroundTruth:
    """Boxes of all sizes, about one in a hundred a crowd."""
    rng = np.random.default_rng(seed)
    count = int(pictures * BOXES_A_PICTURE)
    sides = np.exp(rng.uniform(1.5, 5.5, (count, 2)))
    boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * (SIDE - sides), sides], axis=1)
    return GroundTruth(
        list(range(pictures)),
        tuple(f"class {k}" for k in range(CLASSES)),
        tuple(range(1, CLASSES + 1)),
        np.sort(rng.integers(0, pictures, count)),
        rng.integers(0, CLASSES, count),
        boxes,
        boxes[:, 2] * boxes[:, 3] * 0.7,
        rng.random(count) < 0.01,
    )


def detections(truth: GroundTruth, count: int, seed: int = 1) -> dict[int, Prediction]:
    """``count`` detections near the truth: three in five of the right class, scores higher where that is so."""
    rng = np.random.default_rng(seed)
    near = rng.integers(0, len(truth.picture), count)
    near = near[np.argsort(truth.picture[near], kind="stable")]
    boxes = truth.boxes[near] + rng.normal(0, 4, (count, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    right = rng.random(count) < 0.6
    labels = np.where(right, truth.label[near], rng.integers(0, CLASSES, count))
    scores = np.clip(rng.beta(2, 4, count) + 0.2 * right, 0, 1).astype(np.float32)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
    cuts = np.searchsorted(truth.picture[near], np.arange(1, len(truth.image_ids)))
    parts = zip(*(np.split(column, cuts) for column in (corners, scores, labels)), strict=True)
    return {identity: Prediction(*each) for identity, each in zip(truth.image_ids, parts, strict=True)}


def rows_of(truth: GroundTruth, found: dict[int, Prediction]) -> list[dict[str, Any]]:
    """The detections as a result file has them."""
    return [
        {"image_id": identity, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for identity, each in found.items()
        for (x1, y1, x2, y2), score, label in zip(
            each.boxes.tolist(), each.scores.tolist(), each.labels.tolist(), strict=True
        )
    ]


def peer(coco_class: Any, eval_class: Any, truth: GroundTruth, rows: list[dict[str, Any]]) -> Callable[[], np.ndarray]:
    """Their evaluation of ``rows``: the twelve numbers."""
    columns = zip(truth.picture, truth.label, truth.boxes.tolist(), truth.areas, truth.crowd, strict=True)
    real = coco_class()
    real.dataset = {
        "info": {},
        "images": [{"id": identity} for identity in truth.image_ids],
        "categories": [
            {"id": i, "name": name} for i, name in zip(truth.category_ids, truth.names, strict=True)
        ],
        "annotations": [
            {"id": number, "image_id": int(i), "category_id": int(k) + 1, "bbox": box, "area": float(area),
             "iscrowd": int(crowd)}
            for number, (i, k, box, area, crowd) in enumerate(columns, 1)
        ],
    }  # fmt: skip

    def run() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            found = real.loadRes([dict(row) for row in rows])
            judged = eval_class(real, found, "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return np.asarray(judged.stats)[:12]

    with contextlib.redirect_stdout(io.StringIO()):
        real.createIndex()
    return run


def agree(ours: Metrics, theirs: np.ndarray) -> bool:
    """The last digit but one: faster-coco-eval rounds differently. Equality with pycocotools is a test's business."""
    numbers = [value for value in vars(ours).values() if isinstance(value, float)]
    return bool(np.allclose(numbers, theirs, rtol=0, atol=1e-12))


@pytest.mark.parametrize("count", [36_000, 500_000])
def bench_evaluate(benchmark: Any, count: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pictures = 5000 if benchmark.enabled else 50
    truth = ground_truth(pictures)
    found = detections(truth, count * pictures // 5000)
    rows = rows_of(truth, found)
    contenders: dict[str, Callable[[], Any]] = {"fastdet": lambda: evaluate(found, truth)}
    if importlib.util.find_spec("faster_coco_eval") is not None:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        contenders["faster-coco-eval"] = peer(FasterCOCO, COCOeval_faster, truth, rows)
    contenders["pycocotools"] = peer(COCO, COCOeval, truth, rows)
    memory = {name: peak_memory(run) for name, run in contenders.items()} if benchmark.enabled else {}
    compare(
        benchmark, "evaluate", f"5,000 pictures, {count:,} detections", contenders, same=agree,
        rounds=10 if count < 100_000 else 3, extra={"peak_memory": memory},
    )  # fmt: skip
