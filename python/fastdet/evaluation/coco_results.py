# SPDX-License-Identifier: Apache-2.0
"""Detections as COCO's result file, which pycocotools' ``loadRes`` reads: a list with one entry per box."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.data.dataset import Dataset
from fastdet.evaluation.ground_truth import GroundTruth
from fastdet.evaluation.prediction import Prediction, Rows, rows_of
from fastdet.files import write_atomic


def write_coco_results(path: str | Path, detections: Mapping[Any, Any], ground_truth: GroundTruth | Dataset) -> None:
    """Write ``detections`` (picture id -> Prediction) to ``path``; no number is rounded.

    Raises:
        ValueError: as for ``evaluate``; nothing is written then.
    """
    truth = GroundTruth.of(ground_truth) if isinstance(ground_truth, Dataset) else ground_truth
    write_rows(path, truth, rows_of(detections, truth.places, len(truth.names)))


def write_rows(path: str | Path, truth: GroundTruth, rows: Rows) -> None:
    """The same for rows that were checked before."""
    entries = [
        {"image_id": truth.image_ids[i], "category_id": truth.category_ids[k], "bbox": box, "score": score}
        for i, k, box, score in zip(*(column.tolist() for column in rows), strict=True)
    ]
    write_atomic(Path(path), (json.dumps(entries) + "\n").encode())


def read_coco_results(path: str | Path, ground_truth: GroundTruth | Dataset) -> dict[Any, Prediction]:
    """What ``write_coco_results`` or another tool wrote: picture id -> Prediction.

    Corners are made from sides, so widths may change in their last digit.

    Raises:
        ValueError: not such a file, or an entry that does not belong to ``ground_truth``.
    """
    truth = GroundTruth.of(ground_truth) if isinstance(ground_truth, Dataset) else ground_truth
    try:
        entries = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from None
    labels = {identity: k for k, identity in enumerate(truth.category_ids)}
    if not isinstance(entries, list):
        raise ValueError(f"{path}: must hold a list of detections, got {type(entries).__name__}")
    grouped: dict[Any, list[tuple[list[float], float, int]]] = {}
    for number, entry in enumerate(entries):
        try:
            box = [float(value) for value in entry["bbox"]]
            row = (box, float(entry["score"]), labels[entry["category_id"]])
            identity = entry["image_id"]
            if len(box) != 4 or identity not in truth.places:
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise ValueError(
                f"{path}: entry {number} must have image_id and category_id of the data set, bbox of four numbers and "
                f"score, got {json.dumps(entry)[:120]}"
            ) from None
        grouped.setdefault(identity, []).append(row)
    found = {}
    for identity, rows in grouped.items():
        boxes, scores, classes = (np.array(column) for column in zip(*rows, strict=True))
        boxes[:, 2:] += boxes[:, :2]
        found[identity] = Prediction(boxes, scores, classes)
    return found
