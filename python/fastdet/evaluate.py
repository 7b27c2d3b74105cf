# SPDX-License-Identifier: Apache-2.0
"""COCO detection metrics."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from fastdet.data.coco import CocoDataset


class Prediction(NamedTuple):
    """What was found in one picture, best first or in any order."""

    boxes: np.ndarray  # [D, 4] float, x1 y1 x2 y2 in pixels of the picture
    scores: np.ndarray  # [D] float
    labels: np.ndarray  # [D] int, contiguous


@dataclass(frozen=True)
class Metrics:
    """The twelve COCO numbers in [0, 1] (-1 where nothing of that size exists) and average precision per class."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: dict[str, float]
    class_ap50: dict[str, float]


def evaluate(dataset: CocoDataset, predictions: Mapping[int, Prediction]) -> Metrics:
    """COCO box metrics of ``predictions`` against the annotations of ``dataset`` as published, crowds included.

    Computed by pycocotools (extra ``train``): IoU 0.50 to 0.95, at most 100 detections a picture and class.

    Args:
        predictions: picture id -> Prediction. Pictures that are missing count as pictures without detections.

    Raises:
        ValueError: an id that the data set does not have, a label out of range, or arrays that do not agree.
        ModuleNotFoundError: pycocotools is not installed.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Annotation ids are numbered anew from 1: pycocotools takes a match with id 0 for none.
    truth_rows = [
        {**vars(each), "bbox": list(each.bbox), "id": number} for number, each in enumerate(dataset.annotations, 1)
    ]
    found_rows = _rows(dataset, predictions)
    frame = {
        "images": [{"id": p.id, "height": p.height, "width": p.width} for p in dataset.pictures],
        "categories": [{"id": i, "name": n} for i, n in zip(dataset.category_ids, dataset.names, strict=True)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        truth, found = COCO(), COCO()
        for coco, rows in ((truth, truth_rows), (found, found_rows)):
            coco.dataset = {**frame, "annotations": rows}
            coco.createIndex()
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"]  # [IoU, recall, class, area, max_det]
    twelve = dict(zip([each.name for each in fields(Metrics)][:12], map(float, run.stats), strict=True))
    return Metrics(
        **twelve,
        class_ap={name: _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(dataset.names)},
        class_ap50={name: _mean(precision[0, :, k, 0, -1]) for k, name in enumerate(dataset.names)},
    )


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def _rows(dataset: CocoDataset, predictions: Mapping[int, Prediction]) -> list[dict[str, Any]]:
    known = {picture.id for picture in dataset.pictures}
    rows: list[dict[str, Any]] = []
    for identity, prediction in predictions.items():
        if identity not in known:
            raise ValueError(f"evaluate: predictions has picture id {identity}, which is not in {dataset.path}")
        boxes, scores, labels = (np.asarray(each) for each in prediction)
        if boxes.shape != (len(scores), 4) or scores.ndim != 1 or labels.shape != scores.shape:
            raise ValueError(
                f"evaluate: predictions[{identity}] must be (D, 4), (D,), (D,), "
                f"got {boxes.shape}, {scores.shape}, {labels.shape}"
            )
        for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            if not 0 <= label < len(dataset.category_ids):
                raise ValueError(f"evaluate: labels must lie in 0..{len(dataset.category_ids) - 1}, got {label}")
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": identity,
                    "category_id": dataset.category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return rows
