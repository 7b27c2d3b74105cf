# SPDX-License-Identifier: Apache-2.0
"""Random data sets for the evaluator, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from fastdet.evaluation import GroundTruth, Prediction


def random_case(seed: int) -> tuple[GroundTruth, dict[int, Prediction]]:
    """A small data set: crowds, ties of score and overlap, empty pictures and classes, flat boxes, all sizes."""
    rng = np.random.default_rng(seed)
    pictures, classes = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    image_ids = sorted(rng.choice(1000, pictures, replace=False).tolist())
    grid = bool(rng.random() < 0.5)  # whole numbers of a coarse grid: equal overlaps are then common
    boxes = _boxes(rng, int(rng.integers(0, 4 * pictures)), grid)
    count = len(boxes)
    areas = boxes[:, 2] * boxes[:, 3] * rng.choice([1.0, 0.7], count)
    areas[rng.random(count) < 0.1] = rng.choice([0, 32**2, 96**2, 1e5**2, 2e10])
    truth = GroundTruth(
        image_ids,
        tuple(f"class {k}" for k in range(classes)),
        tuple(range(3, 3 + 2 * classes, 2)),
        rng.integers(0, pictures, count),
        rng.integers(0, classes, count),
        boxes,
        areas,
        rng.random(count) < rng.choice([0, 0.2, 0.6]),
    )
    return truth, {image_ids[i]: _found(rng, truth, i, classes, grid) for i in range(pictures) if rng.random() < 0.9}


def _boxes(rng: np.random.Generator, count: int, grid: bool) -> np.ndarray:
    if grid:
        boxes = rng.integers(0, 5, (count, 4)) * rng.choice([8.0, 40.0])
    else:
        sides = np.exp(rng.uniform(0, 5.5, (count, 2)))
        boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), sides], axis=1)
    flat = rng.random(count) < 0.1
    boxes[flat, 2 + rng.integers(0, 2, int(flat.sum()))] *= rng.choice([0.0, -1.0], int(flat.sum()))
    return boxes


def _found(rng: np.random.Generator, truth: GroundTruth, picture: int, classes: int, grid: bool) -> Prediction:
    here = np.repeat(np.flatnonzero(truth.picture == picture), int(rng.integers(0, 4)))
    near = truth.boxes[here]
    if not grid:
        near = near + rng.normal(0, rng.choice([0.5, 5.0]), near.shape)
    strays = _boxes(rng, int(rng.integers(0, 6)), grid)
    boxes = np.concatenate([near, strays])
    labels = np.concatenate([truth.label[here], rng.integers(0, classes, len(strays))])
    labels = np.where(rng.random(len(labels)) < 0.8, labels, rng.integers(0, classes, len(labels)))
    if rng.random() < 0.05:  # more than the limit of 100
        copies = 1 + 130 // max(len(boxes), 1)
        boxes, labels = np.concatenate([boxes] * copies), np.concatenate([labels] * copies)
    scores = rng.random(len(boxes)) if rng.random() < 0.5 else rng.integers(0, 3, len(boxes)) / 2
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    kind = np.float32 if rng.random() < 0.5 else np.float64
    return Prediction(corners.astype(kind), scores.astype(kind), labels)


def pycocotools_run(truth: GroundTruth, detections: dict[int, Prediction]):
    """A finished ``COCOeval``."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    frame = {
        "images": [{"id": identity} for identity in truth.image_ids],
        "categories": [{"id": i, "name": name} for i, name in zip(truth.category_ids, truth.names)],
    }
    columns = (truth.picture, truth.label, truth.boxes, truth.areas, truth.crowd)
    real = [
        {"id": number, "image_id": truth.image_ids[i], "category_id": truth.category_ids[k], "bbox": box, "area": area,
         "iscrowd": int(crowd)}
        for number, (i, k, box, area, crowd) in enumerate(zip(*(column.tolist() for column in columns)), 1)
    ]  # fmt: skip
    found = [
        {"image_id": identity, "category_id": truth.category_ids[label], "score": score,
         "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for identity, each in detections.items()
        for (x1, y1, x2, y2), score, label in zip(each.boxes.tolist(), each.scores.tolist(), each.labels.tolist())
    ]  # fmt: skip
    for number, row in enumerate(found, 1):
        row |= {"id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco_truth, coco_found = COCO(), COCO()
        for coco, rows in ((coco_truth, real), (coco_found, found)):
            coco.dataset = {**frame, "annotations": rows}
            coco.createIndex()
        run = COCOeval(coco_truth, coco_found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run
