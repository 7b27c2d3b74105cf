# SPDX-License-Identifier: Apache-2.0
"""The group ``iou`` of the parity file ``tal.npz``: the similarities of the Ultralytics family."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]
VARIANCE_EPS = 0.01  # of ``prob_floor``


def iou_pairs(arrays: Mapping[str, np.ndarray], prefix: str = "iou/") -> Arrays:
    """``iou``, ``giou``, ``diou``, ``ciou`` of ``box1``, ``box2``; ``prob`` and ``prob_floor`` of ``rbox1``, ``rbox2``.

    Keys begin with ``prefix``. 1e-7 is added to heights, to the union and to the enclosing area or squared diagonal.
    """
    from fastdet import ops

    a, b, rotated_a, rotated_b = (
        np.asarray(arrays[f"{prefix}{name}"], np.float32)[:, None] for name in ("box1", "box2", "rbox1", "rbox2")
    )
    eps = 1e-7
    found = {
        "iou": ops.box_iou(a, b, eps=eps, eps_sides="height"),
        "giou": ops.generalized_box_iou(a, b, eps=eps, eps_sides="height"),
        "diou": ops.distance_box_iou(a, b, eps, eps_union="add", eps_sides="height"),
        "ciou": ops.complete_box_iou(a, b, eps, eps_union="add", eps_sides="height"),
        "prob": ops.probabilistic_box_iou(rotated_a, rotated_b, eps=eps),
        "prob_floor": ops.probabilistic_box_iou(rotated_a, rotated_b, eps=eps, variance_eps=VARIANCE_EPS),
    }
    return {f"{prefix}{name}": value[:, 0, 0] for name, value in found.items()}
