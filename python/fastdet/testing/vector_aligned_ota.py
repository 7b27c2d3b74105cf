# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of the AlignedOTA assignment: single pictures, each under a name of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]


def damo_aligned_ota(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of ``damo_aligned_ota``.

    A picture NAME has ``NAME_scores`` and ``NAME_gt_boxes``; its points are its own or the file's.
    """
    outputs: Arrays = {}
    for key in arrays:
        name = key.removesuffix("_gt_boxes")
        if name != key and f"{name}_scores" in arrays:
            outputs.update({f"{name}_{output}": value for output, value in _picture(arrays, name).items()})
    return outputs


def _picture(arrays: Mapping[str, np.ndarray], name: str) -> Arrays:
    from fastdet.ops import aligned_ota_assign, aligned_ota_cost

    gt_boxes = np.asarray(arrays[f"{name}_gt_boxes"], np.float32)
    arguments = (
        np.asarray(arrays[f"{name}_scores"])[None],
        np.asarray(arrays[f"{name}_boxes"])[None],
        np.asarray(arrays.get(f"{name}_points", arrays.get("points"))),
        np.asarray(arrays.get(f"{name}_strides", arrays.get("strides"))),
        gt_boxes[None],
        np.asarray(arrays[f"{name}_gt_labels"])[None],
        np.array([len(gt_boxes)]),
    )
    assignment = aligned_ota_assign(*arguments)
    outputs = {
        "matched_gt": assignment.matched_gt[0].astype(np.int64),
        "labels": assignment.labels[0].astype(np.int64),
        "label_scores": assignment.label_scores[0],
        "num_pos": assignment.num_pos[0].astype(np.int64),
    }
    if len(gt_boxes) == 0:
        return outputs
    pairs = aligned_ota_cost(*arguments)
    valid = pairs.valid[0]
    outputs |= {"valid": valid, "in_box_and_centre": pairs.inside[0][valid]}
    if valid.any():
        dynamic_k = pairs.dynamic_k[0].astype(np.int64)
        outputs |= {"iou": pairs.iou[0][valid], "cost": pairs.cost[0][valid], "dynamic_k": dynamic_k}
    return outputs
