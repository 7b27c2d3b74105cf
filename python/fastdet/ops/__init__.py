# SPDX-License-Identifier: Apache-2.0
"""Operators: NumPy, torch or CuPy arrays in, the same kind out. Table of contents."""

from __future__ import annotations

from fastdet.ops._backend import backend, cuda_available, current_backend
from fastdet.ops.aligned_ota import (
    ALIGNED_OTA_ASSIGN,
    ALIGNED_OTA_COST,
    Assignment,
    AssignmentCost,
    aligned_ota_assign,
    aligned_ota_assign_reference,
    aligned_ota_cost,
    aligned_ota_cost_reference,
)
from fastdet.ops.fold import BatchNorm, RepBranch, fold_conv_bn, fold_rep_conv
from fastdet.ops.letterbox import LETTERBOX, LETTERBOX_OUT, Letterbox, letterbox, letterbox_reference
from fastdet.ops.nms import (
    BATCHED_NMS,
    MULTICLASS_NMS,
    NMS,
    Kept,
    batched_nms,
    batched_nms_reference,
    multiclass_nms,
    multiclass_nms_reference,
    nms,
    nms_reference,
)
from fastdet.ops.rep_conv import (
    BIAS_ACT,
    REP_CONV2D,
    REP_CONV2D_BACKWARD,
    bias_act,
    bias_act_reference,
    pack_rep_conv,
    rep_conv2d,
    rep_conv2d_backend,
    rep_conv2d_backward,
    rep_conv2d_backward_reference,
    rep_conv2d_reference,
)

OPS = (
    LETTERBOX,
    LETTERBOX_OUT,
    NMS,
    BATCHED_NMS,
    MULTICLASS_NMS,
    ALIGNED_OTA_ASSIGN,
    ALIGNED_OTA_COST,
    REP_CONV2D,
    REP_CONV2D_BACKWARD,
    BIAS_ACT,
)

__all__ = [
    "OPS",
    "Assignment",
    "AssignmentCost",
    "BatchNorm",
    "Kept",
    "Letterbox",
    "RepBranch",
    "aligned_ota_assign",
    "aligned_ota_assign_reference",
    "aligned_ota_cost",
    "aligned_ota_cost_reference",
    "backend",
    "batched_nms",
    "batched_nms_reference",
    "bias_act",
    "bias_act_reference",
    "cuda_available",
    "current_backend",
    "fold_conv_bn",
    "fold_rep_conv",
    "letterbox",
    "letterbox_reference",
    "multiclass_nms",
    "multiclass_nms_reference",
    "nms",
    "nms_reference",
    "pack_rep_conv",
    "rep_conv2d",
    "rep_conv2d_backend",
    "rep_conv2d_backward",
    "rep_conv2d_backward_reference",
    "rep_conv2d_reference",
]
