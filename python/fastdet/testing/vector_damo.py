# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of DAMO-YOLO's losses and distillation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]


def damo_losses(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of ``damo_losses``: each loss with its gradient, the whole criterion, and feature distillation."""
    import torch

    tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    outputs = {}
    for group in (_qfl, _dfl, _giou, _box_distances, _head, _distillation):
        outputs.update(group(tensors))
    return {key: value.detach().numpy() for key, value in outputs.items()}


def _leaf(tensors, key):
    return tensors[key].clone().requires_grad_()


def _qfl(t):
    from fastdet.losses import quality_focal_loss

    prob = _leaf(t, "qfl_prob")
    rows = quality_focal_loss(prob, t["qfl_label"], t["qfl_score"])
    loss = rows.sum() / t["qfl_avg_factor"]
    loss.backward()
    edge = quality_focal_loss(t["qfl_edge_prob"], t["qfl_edge_label"], t["qfl_edge_score"])
    return {"qfl_per_row": rows, "qfl_loss": loss, "qfl_grad_prob": prob.grad, "qfl_edge_per_row": edge}


def _dfl(t):
    from fastdet.losses import distribution_focal_loss

    logits = _leaf(t, "dfl_logits")
    rows = distribution_focal_loss(logits, t["dfl_target"])
    loss = 0.25 * (rows * t["dfl_weight"]).sum() / t["dfl_avg_factor"]
    loss.backward()
    return {"dfl_per_row": rows, "dfl_loss": loss, "dfl_grad_logits": logits.grad}


def _giou(t):
    from fastdet.losses import giou_loss

    pred = _leaf(t, "giou_pred")
    rows = giou_loss(pred, t["giou_target"])
    loss = 2 * (rows * t["giou_weight"]).sum() / t["giou_avg_factor"]
    loss.backward()
    edge = giou_loss(t["giou_edge_pred"], t["giou_edge_target"])
    return {"giou_per_row": rows, "giou_loss": loss, "giou_grad_pred": pred.grad, "giou_edge_per_row": edge}


def _box_distances(t):
    from fastdet.models.heads import boxes_to_distances

    reg_max = t["head_reg_logits"].shape[-1] - 1
    return {"b2d_distance": boxes_to_distances(t["b2d_points"], t["b2d_boxes"], reg_max - 0.1)}


def _head(t):
    from fastdet.assign import pad_targets
    from fastdet.models.damo_yolo.criterion import Criterion
    from fastdet.models.damo_yolo.head import FlatHead

    cls_logits, reg_logits = _leaf(t, "head_cls_logits"), _leaf(t, "head_reg_logits")
    num_classes, reg_max = cls_logits.shape[-1], reg_logits.shape[-1] - 1
    counts = t["head_gt_count"].tolist()
    truth = pad_targets(t["head_gt_boxes"].split(counts), t["head_gt_labels"].split(counts), num_classes)
    flat = FlatHead(cls_logits, reg_logits, t["head_points"], t["head_strides"])
    values, target = Criterion(num_classes, reg_max)(flat, truth)
    values["loss"].backward()
    return {
        "head_labels": target.labels,
        "head_label_scores": target.label_scores,
        "head_bbox_targets": target.boxes,
        "head_dfl_targets": target.distances,
        "head_num_pos": target.num_pos.long(),
        "head_loss_cls": values["loss_cls"],
        "head_loss_bbox": values["loss_bbox"],
        "head_loss_dfl": values["loss_dfl"],
        "head_total_loss": values["loss"],
        "head_grad_cls_logits": cls_logits.grad,
        "head_grad_reg_logits": reg_logits.grad,
    }


def _distillation(t):
    from torch.nn import functional

    from fastdet.losses import channel_wise_distillation_loss

    student = _leaf(t, "feat_student")
    aligned = functional.conv2d(student, t["feat_align_weight"], t["feat_align_bias"])
    # Batch statistics, no affine part: what the reference's shared BatchNorm does to both in training mode.
    normed = [functional.batch_norm(x, None, None, training=True, eps=1e-5) for x in (aligned, t["feat_teacher"])]
    loss = channel_wise_distillation_loss(*normed)
    loss.backward()
    return {
        "cwd_loss": channel_wise_distillation_loss(t["cwd_student"], t["cwd_teacher"]),
        "feat_loss": loss,
        "feat_grad_student": student.grad,
    }
