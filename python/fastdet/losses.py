# SPDX-License-Identifier: Apache-2.0
"""Losses as pure functions of tensors: nothing is weighted, masked or averaged here unless the name says so."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def quality_focal_loss(scores: Tensor, labels: Tensor, label_scores: Tensor, *, beta: float = 2.0) -> Tensor:
    """Quality focal loss on probabilities (Generalized Focal Loss, arXiv 2006.04388, eq. 6), summed over classes.

    With target t = ``label_scores`` in the column of the label and 0 elsewhere: |t - p|^beta * BCE(p, t). Logarithms
    are clamped at -100, so probabilities of exactly 0 and 1 give finite values and gradients.

    Args:
        scores: [..., C] in [0, 1], float32. labels: [...] int64 in [0, C]; C, or any negative, is background.
        label_scores: [...] in [0, 1]; ignored for background.

    Returns:
        [...] float32.
    """
    num_classes = scores.shape[-1]
    foreground = (labels >= 0) & (labels < num_classes)
    column = torch.where(foreground, labels, 0).unsqueeze(-1)
    values = torch.where(foreground, label_scores.to(scores.dtype), 0).unsqueeze(-1)
    target = torch.zeros_like(scores).scatter_(-1, column, values)
    # Written on probabilities in float32 even inside an autocast region, where torch refuses this loss.
    with torch.autocast(scores.device.type, enabled=False):
        entropy = functional.binary_cross_entropy(scores, target, reduction="none")
    return (entropy * (target - scores).abs().pow(beta)).sum(-1)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Distribution focal loss (arXiv 2006.04388, eq. 7): cross-entropy to the two bins around ``target``.

    Args:
        logits: [..., R] over bins 0..R-1, before the softmax. target: [...] in [0, R - 1), in bins; clamp it to less
            than R - 1, as ``target.clamp(0, R - 1.01)``.

    Returns:
        [...] in the dtype of ``logits``.

    Raises:
        RuntimeError: a target outside [0, R - 1) (on a CUDA device an assertion of the device).
    """
    left = target.floor()
    index = left.long().unsqueeze(-1)
    right_weight = target - left
    at_left = logits.gather(-1, index).squeeze(-1)
    at_right = logits.gather(-1, index + 1).squeeze(-1)
    return logits.logsumexp(-1) - (1 - right_weight) * at_left - right_weight * at_right


def giou_loss(boxes: Tensor, target: Tensor, *, eps: float = 1e-6) -> Tensor:
    """1 - GIoU (arXiv 1902.09630) of aligned boxes [..., 4] xyxy -> [...], in [0, 2].

    Union and enclosing area are clamped below by ``eps``: degenerate boxes give finite values and gradients.
    """
    top_left = torch.maximum(boxes[..., :2], target[..., :2])
    bottom_right = torch.minimum(boxes[..., 2:], target[..., 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (target[..., 2:] - target[..., :2]).prod(-1)
    union = (area - overlap).clamp(min=eps)
    outer_top_left = torch.minimum(boxes[..., :2], target[..., :2])
    outer_bottom_right = torch.maximum(boxes[..., 2:], target[..., 2:])
    enclosing = (outer_bottom_right - outer_top_left).clamp(min=0).prod(-1).clamp(min=eps)
    return 1 - overlap / union + (enclosing - union) / enclosing


def channel_wise_distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation (arXiv 2011.13256): KL of each channel's softmax over positions, a scalar.

    Args:
        student, teacher: [B, C, H, W] of the same shape; the teacher is a constant.

    Returns:
        temperature^2 * sum over pictures and channels of KL(teacher || student), divided by B * C.
    """
    log_student = (student.flatten(2) / temperature).log_softmax(-1)
    log_teacher = (teacher.detach().flatten(2) / temperature).log_softmax(-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.shape[0] * student.shape[1])
