// SPDX-License-Identifier: Apache-2.0
// One line per operator: its binding lives in its own folder.
#pragma once

#include <pybind11/pybind11.h>

namespace fastdet::bindings {

void bind_aligned_ota(pybind11::module_& module);
void bind_box_iou(pybind11::module_& module);
void bind_box_iou_loss(pybind11::module_& module);
void bind_dataset(pybind11::module_& module);
void bind_compose(pybind11::module_& module);
void bind_decode(pybind11::module_& module);
void bind_hungarian_assign(pybind11::module_& module);
void bind_evaluation(pybind11::module_& module);
void bind_letterbox(pybind11::module_& module);
void bind_ms_deform_attn(pybind11::module_& module);
void bind_network(pybind11::module_& module);
void bind_nms(pybind11::module_& module);
void bind_random(pybind11::module_& module);
void bind_rep_conv(pybind11::module_& module);
void bind_sim_ota(pybind11::module_& module);
void bind_task_aligned(pybind11::module_& module);
void bind_rotated_box_iou(pybind11::module_& module);
void bind_rotated_nms(pybind11::module_& module);
void bind_soft_nms(pybind11::module_& module);
void bind_matrix_nms(pybind11::module_& module);
void bind_topk_detections(pybind11::module_& module);

}  // namespace fastdet::bindings
