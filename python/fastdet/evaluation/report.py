# SPDX-License-Identifier: Apache-2.0
"""All that an evaluation has to say, as files in a folder."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fastdet.evaluation.coco_results import write_rows
from fastdet.evaluation.evaluator import Evaluator
from fastdet.evaluation.metrics import Metrics
from fastdet.files import write_atomic


def save_report(folder: str | os.PathLike[str], evaluator: Evaluator, metrics: Metrics | None = None) -> list[Path]:
    """Write ``metrics.json``, ``predictions.json`` and, where matplotlib is installed, plots; missing folders are made.

    ``metrics.json`` holds the numbers of ``Metrics``, per class the best score threshold with its F1 at IoU 0.50, the
    split of errors and the confusion matrix. ``predictions.json`` is what pycocotools' ``loadRes`` reads, unrounded.

    Args:
        metrics: ``evaluator.metrics()`` if that is at hand.

    Returns:
        The files written.
    """
    folder = Path(folder)
    found = evaluator.curves()
    content = (metrics or evaluator.metrics()).to_dict()
    content["best_threshold"] = {name: {"score": c.best_score, "f1": c.best_f1} for name, c in found.items()}
    content["errors"] = asdict(evaluator.error_split())
    content["confusion_matrix"] = np.asarray(evaluator.confusion_matrix()).tolist()
    paths = [
        write_atomic(folder / "metrics.json", (json.dumps(content, indent=1) + "\n").encode()),
        folder / "predictions.json",
    ]
    write_rows(paths[1], evaluator.ground_truth, evaluator.rows)
    if importlib.util.find_spec("matplotlib") is not None:
        from fastdet.evaluation.plots import save_plots

        paths += save_plots(evaluator, folder)
    return paths
