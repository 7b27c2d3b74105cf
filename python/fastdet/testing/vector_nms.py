# SPDX-License-Identifier: Apache-2.0
"""The scenarios of the parity file ``nms.npz``: suppression as the Ultralytics family does it, on ``fastdet.ops``."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from fastdet import ops

# Scenarios of the two-stage top-k have no arguments in the file: (rows asked for, one row per anchor).
TOPK = {
    "topk": (300, False),
    "topk_agnostic": (300, True),
    "topk_20": (20, False),
    "topk_more_than_anchors": (10**6, False),
}
TOPK_CLASSES = 7


def nms_scenarios(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``<scenario>/count``, ``/anchor``, ``/rows`` for every ``<scenario>/args``; ``/rows`` of the top-k scenarios.

    Boxes are compared by exact arithmetic, without a class offset; where the file has an ``exact_anchor``, it is ours.
    """
    out: dict[str, np.ndarray] = {}
    inputs = [key.removesuffix("/pred") for key in arrays if key.endswith("/pred")]
    for key in arrays:
        if not key.endswith("/args"):
            continue
        name = key.removesuffix("/args")
        source = max((i for i in inputs if name.startswith(i)), key=len, default="base")
        args = json.loads(str(arrays[key]))
        run = _filter_rows if args.get("end2end") else _rotated if args.get("rotated") else _suppress
        count, anchor, rows = run(arrays[f"{source}/pred"], args)
        out |= {f"{name}/count": count, f"{name}/anchor": anchor, f"{name}/rows": rows}
        if name == "offset":
            out["offset/exact_anchor"] = anchor
    if "topk/pred" in arrays:
        out |= {f"{name}/rows": _topk(arrays["topk/pred"], *args) for name, args in TOPK.items()}
    return out


def _split(pred: np.ndarray, args: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (B, N, 4) cxcywh, scores (B, N, C) with filtered classes removed, extra columns (B, N, E)."""
    columns = pred.transpose(0, 2, 1)
    nc = args.get("nc", columns.shape[2] - 4)
    boxes, scores, extra = columns[..., :4], columns[..., 4 : 4 + nc].copy(), columns[..., 4 + nc :]
    if "classes" in args:
        allowed = np.isin(np.arange(nc), args["classes"])
        if args.get("multi_label"):
            scores[..., ~allowed] = -np.inf
        else:  # the best class is chosen first, so a filtered one hides the others
            scores[~allowed[scores.argmax(-1)]] = -np.inf
    return boxes, scores, extra


def _suppress(pred: np.ndarray, args: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centres, scores, extra = _split(pred, args)
    half = centres[..., 2:] / 2
    kept = ops.multiclass_nms(
        np.concatenate([centres[..., :2] - half, centres[..., :2] + half], -1),
        scores,
        score_threshold=args["conf_thres"],
        iou_threshold=args["iou_thres"],
        max_det=args.get("max_det", 300),
        max_candidates=args.get("max_nms", 30000),
        class_agnostic=args.get("agnostic", False),
        multi_label=args.get("multi_label", False) and scores.shape[2] > 1,
    )
    rows = np.concatenate([kept.boxes, kept.scores[..., None], kept.labels[..., None].astype(np.float32)], -1)
    return _joined([(kept.index[b, :n], rows[b, :n]) for b, n in enumerate(kept.count)], extra)


def _joined(
    images: list[tuple[np.ndarray, np.ndarray]], extra: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = np.array([len(index) for index, _ in images], np.int32)
    rows = [np.concatenate([rows, extra[b, index]], 1) for b, (index, rows) in enumerate(images)]
    return (
        count,
        np.concatenate([index for index, _ in images]).astype(np.int32),
        np.concatenate(rows).astype(np.float32),
    )


def _filter_rows(pred: np.ndarray, args: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = []
    for rows in pred:
        keep = rows[:, 4] > args["conf_thres"]
        if "classes" in args:
            keep &= np.isin(rows[:, 5], args["classes"])
        index = np.flatnonzero(keep)[: args.get("max_det", 300)]
        images.append((index, rows[index]))
    return _joined(images, np.zeros((len(pred), pred.shape[1], 0), np.float32))


def _rotated(pred: np.ndarray, args: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Any better box of the class that overlaps by more than the threshold removes a box, itself removed or not."""
    boxes, scores, extra = _split(pred, args)
    images = []
    for b in range(len(boxes)):
        if args.get("multi_label"):
            anchor, label = (a.ravel() for a in np.indices(scores[b].shape))
        else:
            anchor, label = np.arange(len(boxes[b])), scores[b].argmax(1)
        score = scores[b][anchor, label]
        order = np.argsort(-score, kind="stable")
        order = order[score[order] > args["conf_thres"]][: args.get("max_nms", 30000)]
        anchor, label, score = anchor[order], label[order], score[order]
        rotated = np.concatenate([boxes[b, anchor], extra[b, anchor, -1:]], 1)
        idxs = None if args.get("agnostic", False) else label.astype(np.int64)
        kept = ops.rotated_nms(rotated, score, args["iou_thres"], idxs=idxs, measure="probiou", semantics="fast")
        index = kept[: args.get("max_det", 300)]
        rows = np.concatenate([boxes[b, anchor[index]], score[index, None], label[index, None]], 1)
        images.append((anchor[index], rows))
    return _joined(images, extra)


def _topk(pred: np.ndarray, rows: int, agnostic: bool) -> np.ndarray:
    """The one-to-one head: the best (anchor, class) pairs, as many rows as there are anchors at most."""
    scores, extra = pred[..., 4 : 4 + TOPK_CLASSES], pred[..., 4 + TOPK_CLASSES :]
    limit = min(rows, pred.shape[1])
    kept = ops.topk_detections(scores, pred[..., :4], max_det=limit, sigmoid=False, multi_label=not agnostic)
    carried = np.take_along_axis(extra, kept.index[..., None].astype(np.int64), 1)
    columns = (kept.boxes, kept.scores[..., None], kept.labels[..., None], carried)
    return np.concatenate(columns, -1).astype(np.float32)
