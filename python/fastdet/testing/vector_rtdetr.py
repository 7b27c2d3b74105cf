# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of RT-DETRv2's matching and denoising groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]


def rtdetr_matcher(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of ``rtdetr_matcher``: for every set of inputs (``<set>_num_gt`` and so on) costs, pairs, their gap."""
    outputs: Arrays = {}
    weights = dict(zip(("class_weight", "l1_weight", "giou_weight"), map(float, arrays["weights"])))
    weights |= dict(zip(("alpha", "gamma"), map(float, arrays["alpha_gamma"])))
    for prefix in (key.removesuffix("num_gt") for key in arrays if key.endswith("_num_gt")):
        given = {key.removeprefix(prefix): np.asarray(arrays[key]) for key in arrays if key.startswith(prefix)}
        outputs |= {prefix + key: value for key, value in _matches(given, weights).items()}
    return outputs


def _matches(given: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> Arrays:
    from fastdet.ops import hungarian_assign, hungarian_cost

    count = given["num_gt"].astype(np.int64)
    boxes = np.zeros((len(count), max(1, count.max(initial=0)), 4), np.float32)
    labels = np.zeros(boxes.shape[:2], np.int64)
    real = np.arange(boxes.shape[1]) < count[:, None]
    boxes[real], labels[real] = given["gt_boxes"], given["gt_labels"]
    arguments = (given["logits"].astype(np.float32), given["boxes"].astype(np.float32), boxes, labels, count)
    assignment = hungarian_assign(*arguments, **weights)
    padded = hungarian_cost(*arguments, **weights).astype(np.float64)
    costs = [cost[:, :n] for cost, n in zip(padded, count)]
    outputs: Arrays = {"cost": costs[0] if len(costs) == 1 else np.concatenate([c.ravel() for c in costs])}
    gap = np.inf
    for i, (matched, cost) in enumerate(zip(assignment.matched_gt, costs)):
        source = np.nonzero(matched >= 0)[0]
        outputs |= {f"src{i}": source.astype(np.int64), f"tgt{i}": matched[source].astype(np.int64)}
        gap = min(gap, _gap(cost, source, matched[source]))
    return outputs | {"gap": np.array(gap)}


def _gap(cost: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """How much more than these pairs the best other assignment costs: each pair in turn is priced out."""
    from fastdet.ops import linear_sum_assignment

    finite = cost[np.isfinite(cost)]
    if len(finite) == 0:
        return np.inf
    too_much = finite.max() + (len(source) * np.ptp(finite) + 1)  # more than any two assignments without it can differ
    without = np.repeat(cost[None], len(source), axis=0)
    without[np.arange(len(source)), source, target] = too_much
    other = linear_sum_assignment(without, np.full(len(source), cost.shape[1]))
    best, gap = cost[source, target].sum(), np.inf
    for one, matched in zip(without, other.column_of_row):
        rows = np.nonzero(matched >= 0)[0]
        paid = one[rows, matched[rows]]
        if (paid < too_much).all():
            gap = min(gap, float(paid.sum() - best))
    return gap


def rtdetr_denoising(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of ``rtdetr_denoising``: for every set of inputs (``<set>_num_gt`` and so on) its denoising groups."""
    import torch

    from fastdet.models.rtdetrv2 import DenoisingRandom, denoising_groups

    outputs: Arrays = {}
    for prefix in (key.removesuffix("num_gt") for key in arrays if key.endswith("_num_gt")):
        given = {
            key.removeprefix(prefix): torch.from_numpy(np.array(value))
            for key, value in arrays.items()
            if key.startswith(prefix)
        }
        counts = given["num_gt"].tolist()
        queries = int(given["num_queries"])
        groups = denoising_groups(
            given["gt_boxes"].split(counts),
            given["gt_labels"].split(counts),
            given["class_embed"],
            DenoisingRandom(
                given["rand_label_flip"], given["rand_new_label"], given["rand_sign01"], given["rand_part"]
            ),
            queries=queries,
            nominal=int(given["num_denoising"]),
            label_noise=float(arrays["label_noise_ratio"]),
            box_noise=float(arrays["box_noise_scale"]),
        )
        total = groups.labels.shape[1]
        found = {
            "class_ids": groups.labels.int(),
            "query_content": groups.content,
            "query_box_unact": groups.box_logits,
            "attn_mask": groups.blocked,
            "num_group": torch.tensor(groups.groups),
            "num_split": torch.tensor([total, queries]),
        }
        for i, (positive, (source, target)) in enumerate(zip(groups.positives, groups.matches())):
            found |= {f"positive_idx{i}": positive, f"match_src{i}": source, f"match_tgt{i}": target}
        outputs |= {prefix + key: value.numpy() for key, value in found.items()}
    return outputs
