# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of YOLOv7's assignment: matches of the lead head, and of the fine and coarse pair with auxiliary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
# tag: sums 20 IoUs instead of 10; coarse candidates. All three match predictions of the lead head.
ASSIGNMENTS = {"ota": (10, False), "auxota_lead": (20, False), "auxota_aux": (20, True)}


class _Problem(NamedTuple):
    """The lead head's predictions [B, N, ...] and targets padded to [B, M, ...], with what names a prior."""

    scores: np.ndarray
    objectness: np.ndarray
    boxes: np.ndarray
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    gt_count: np.ndarray
    rows: np.ndarray  # [B, M] of the file's targets
    places: np.ndarray  # [N, 4] level, anchor, y, x
    anchors: np.ndarray  # [L, K, 2] pixels
    strides: list[float]
    sizes: list[tuple[int, int]]
    ratio: float


def yolov7_assignments(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The assignments of ``yolov7_ota``: matches per level, and per picture with targets what they are decided by."""
    problem = _problem(arrays)
    outputs: Arrays = {}
    for tag, (topk, coarse) in ASSIGNMENTS.items():
        outputs |= {f"{tag}_{name}": value for name, value in _assignment(arrays, problem, topk, coarse).items()}
    return outputs


def _problem(arrays: Mapping[str, np.ndarray]) -> _Problem:
    strides, anchors = [float(s) for s in arrays["stride"]], np.asarray(arrays["anchors_px"], np.float32)
    targets, extent = np.asarray(arrays["targets"], np.float32), np.float32(arrays["image_hw"][0])
    maps = [np.asarray(arrays[f"lead_p{i}"], np.float32) for i in range(len(strides))]
    boxes, rows, places, sizes = [], [], [], []
    for level, (raw, stride) in enumerate(zip(maps, strides)):
        b, kinds, h, w, _ = raw.shape
        k, y, x = (v.reshape(-1) for v in np.meshgrid(np.arange(kinds), np.arange(h), np.arange(w), indexing="ij"))
        flat = raw.reshape(b, kinds * h * w, -1)
        activated: np.ndarray = 1 / (1 + np.exp(-flat[..., :4]))
        cell = np.stack([x, y], 1).astype(np.float32)
        centre = (activated[..., :2] * np.float32(2) - np.float32(0.5) + cell) * np.float32(stride)
        factor = (activated[..., 2:] * np.float32(2)) ** 2
        side = factor * (anchors[level, k] / np.float32(stride)) * np.float32(stride)
        boxes.append(np.concatenate([centre - side / 2, centre + side / 2], -1))
        rows.append(flat)
        places.append(np.stack([np.full_like(k, level), k, y, x], 1))
        sizes.append((h, w))
    predictions = np.concatenate(rows, 1)
    counts = np.bincount(targets[:, 0].astype(np.int64), minlength=len(predictions))
    padded = np.full((len(predictions), max(1, int(counts.max(initial=0)))), 0, np.int64)
    for b in range(len(predictions)):
        padded[b, : counts[b]] = np.nonzero(targets[:, 0] == b)[0]
    own: np.ndarray = targets[padded] if len(targets) else np.zeros((*padded.shape, 6), np.float32)
    centre, half = own[..., 2:4] * extent, own[..., 4:6] * extent / 2
    return _Problem(
        np.ascontiguousarray(predictions[..., 5:]),
        np.ascontiguousarray(predictions[..., 4]),
        np.concatenate(boxes, 1).astype(np.float32),
        np.concatenate([centre - half, centre + half], -1),
        own[..., 1].astype(np.int64),
        counts,
        padded,
        np.concatenate(places),
        anchors,
        strides,
        sizes,
        float(arrays["anchor_t"]),
    )


def _assignment(arrays: Mapping[str, np.ndarray], problem: _Problem, topk: int, coarse: bool) -> Arrays:
    from fastdet import ops

    targets = np.asarray(arrays["targets"], np.float32)
    listed = _candidates(arrays, problem, coarse)
    given = (*problem[:6],)
    found = ops.sim_ota_assign(*given, candidates=listed, topk=topk)
    pairs = ops.sim_ota_cost(*given, candidates=listed, topk=topk)
    entropy = ops.sim_ota_cost(*given, candidates=listed, topk=topk, iou_weight=0.0)
    outputs: Arrays = {}
    picture, entry = np.nonzero(found.matched_gt >= 0)
    place = problem.places[listed[picture, entry]]
    row = problem.rows[picture, found.matched_gt[picture, entry]]
    for level, stride in enumerate(problem.strides):
        here = place[:, 0] == level
        index = np.concatenate([picture[here, None], place[here, 1:]], 1)
        outputs[f"l{level}_index"] = index.astype(np.int64)
        outputs[f"l{level}_target"] = targets[row[here]].reshape(-1, 6)
        outputs[f"l{level}_anchor"] = problem.anchors[level, index[:, 1]] / np.float32(stride)
    for n, b in enumerate(np.nonzero(problem.gt_count)[0]):
        count, real = problem.gt_count[b], np.nonzero(listed[b] >= 0)[0]
        place = problem.places[listed[b, real]]
        listing = np.concatenate([place[:, :1], np.full((len(real), 1), b), place[:, 1:]], 1)
        outputs |= {f"img{n}_candidates": listing.astype(np.int64), f"img{n}_k": pairs.dynamic_k[b, :count]}
        for name, field in (("iou", pairs.iou), ("cls", entropy.cost), ("cost", pairs.cost)):
            outputs[f"img{n}_{name}"] = np.ascontiguousarray(field[b, real, :count].T)
    return outputs


def _candidates(arrays: Mapping[str, np.ndarray], problem: _Problem, coarse: bool) -> np.ndarray:
    """[B, A] priors; -1: none."""
    import torch

    from fastdet.assign import candidates_of_centres

    targets = torch.from_numpy(np.asarray(arrays["targets"], np.float32))
    own = targets[torch.from_numpy(problem.rows)] if len(targets) else torch.zeros(*problem.rows.shape, 6)
    height, width = (int(v) for v in arrays["image_hw"])
    extent = torch.tensor([width, height], dtype=torch.float32)
    real = torch.arange(own.shape[1]) < torch.from_numpy(problem.gt_count)[:, None]
    return candidates_of_centres(
        own[..., 2:4] * extent,
        own[..., 4:6] * extent,
        real,
        torch.from_numpy(problem.anchors),
        problem.sizes,
        problem.strides,
        ratio=problem.ratio,
        coarse=coarse,
    ).numpy()
