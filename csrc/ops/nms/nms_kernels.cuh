// SPDX-License-Identifier: Apache-2.0
// Where selection and suppression (core/selection_kernels.cuh, core/suppression_kernels.cuh) find the scores, boxes and groups of
// this operator. Layouts: boxes [B, N, 4], scores [B, N, C], groups [B, N], any strides.
#pragma once

#include "core/suppression_kernels.cuh"
#include "ops/nms/nms_math.h"

namespace fastdet {

template <typename TBox>
struct NmsBoxes {
  TensorView boxes, groups;

  FD_D Box box(const SelectionTask&, std::int64_t image, std::int64_t anchor) const {
    return load_box(boxes.as<const TBox>() + image * boxes.stride[0] + anchor * boxes.stride[1], boxes.stride[2]);
  }
  FD_D std::int64_t competes(const SelectionTask& task, std::int64_t image, std::int64_t number, std::int64_t anchor) const {
    if (groups.data != nullptr) return load_group(groups, image, anchor);
    return task.rule.by_label ? task.label(image, number) : 0;
  }
};

template <typename TBox, typename TScore>
struct NmsSource : NmsBoxes<TBox>, ScoreColumns<TScore> {
  FD_D bool usable(const SelectionTask& task, std::int64_t image, std::int64_t anchor) const {
    return box_finite(this->box(task, image, anchor));
  }
};

}  // namespace fastdet
