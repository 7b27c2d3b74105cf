# SPDX-License-Identifier: Apache-2.0
"""What a detector's boxes are worth: COCO's metrics, equal to pycocotools bit for bit, and what lies behind them."""

from __future__ import annotations

from fastdet.evaluation.coco_results import read_coco_results, write_coco_results
from fastdet.evaluation.evaluator import Evaluator, evaluate
from fastdet.evaluation.ground_truth import GroundTruth
from fastdet.evaluation.metrics import Metrics
from fastdet.evaluation.prediction import Prediction
from fastdet.evaluation.report import save_report

__all__ = [
    "Evaluator",
    "GroundTruth",
    "Metrics",
    "Prediction",
    "evaluate",
    "read_coco_results",
    "save_report",
    "write_coco_results",
]
