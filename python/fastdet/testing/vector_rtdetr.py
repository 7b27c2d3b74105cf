# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of RT-DETRv2's denoising groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]


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
