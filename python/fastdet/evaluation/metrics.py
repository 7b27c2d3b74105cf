# SPDX-License-Identifier: Apache-2.0
"""The twelve numbers of COCO and the arrays behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastdet.data.dataset import distinct

THRESHOLDS = np.linspace(0.5, 0.95, int(np.round((0.95 - 0.5) / 0.05)) + 1, endpoint=True)
RECALLS = np.linspace(0.0, 1.00, int(np.round((1.00 - 0.0) / 0.01)) + 1, endpoint=True)
AREAS = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]], np.float64)  # all, small, medium, large
SIZES = ("small", "medium", "large")
MOST = (1, 10, 100)


@dataclass(frozen=True)
class Metrics:
    """COCO's box metrics in [0, 1]; -1 where nothing of that size or class exists.

    T = 10 thresholds of IoU (0.50 to 0.95), R = 101 recalls (0 to 1), K classes, A = 4 ranges of area (all, small below
    32², medium, large from 96² square pixels), M = 3 most detections of a picture and class (1, 10, 100).
    """

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
    milliseconds: dict[str, float] = field(
        default_factory=dict, kw_only=True, compare=False
    )  # per picture and stage, where measured
    precision: np.ndarray = field(kw_only=True, compare=False, repr=False)  # [T, R, K, A, M]
    recall: np.ndarray = field(kw_only=True, compare=False, repr=False)  # [T, K, A, M]
    scores: np.ndarray = field(
        kw_only=True, compare=False, repr=False
    )  # [T, R, K, A, M], the score at which precision was reached

    @classmethod
    def of(cls, precision: np.ndarray, recall: np.ndarray, scores: np.ndarray, names: tuple[str, ...]) -> Metrics:
        """The numbers of these arrays, in the order in which pycocotools adds them up."""
        found: dict[str, Any] = {
            "ap": _mean(precision[:, :, :, 0, -1]),
            "ap50": _mean(precision[0, :, :, 0, -1]),
            "ap75": _mean(precision[5, :, :, 0, -1]),
        }
        found |= {f"ap_{size}": _mean(precision[:, :, :, a, -1]) for a, size in enumerate(SIZES, 1)}
        found |= {f"ar_{most}": _mean(recall[:, :, 0, m]) for m, most in enumerate(MOST)}
        found |= {f"ar_{size}": _mean(recall[:, :, a, -1]) for a, size in enumerate(SIZES, 1)}
        rows = distinct(names)
        return cls(
            **found,
            class_ap={name: _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(rows)},
            class_ap50={name: _mean(precision[0, :, k, 0, -1]) for k, name in enumerate(rows)},
            precision=precision,
            recall=recall,
            scores=scores,
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers without the arrays, for JSON."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(np.mean(valid)) if valid.size else -1.0
