// SPDX-License-Identifier: Apache-2.0
// Where selection (core/selection_kernels.cuh) finds the scores and boxes of this operator; it does the rest.
#pragma once

#include "core/selection_kernels.cuh"
#include "ops/topk_detections/topk_detections.h"

namespace fastdet {

template <typename T>
struct TopkSource {
  TensorView logits, boxes, image_sizes;
  TopkBoxFormat format;
  float image_height, image_width;
  bool sigmoid;
  DType box_dtype;

  FD_D std::uint32_t column_key(const SelectionTask&, std::int64_t image, std::int64_t query, std::int64_t column) const {
    const std::int64_t at = image * logits.stride[0] + query * logits.stride[1] + column * logits.stride[2];
    return topk_key(to_float(logits.as<const T>()[at]), sigmoid);
  }
  FD_D Box box(const SelectionTask&, std::int64_t image, std::int64_t query) const {
    const std::int64_t at = image * boxes.stride[0] + query * boxes.stride[1];
    float height = image_height, width = image_width;
    if (image_sizes.data != nullptr) {
      const float* size = image_sizes.as<const float>() + image * image_sizes.stride[0];
      height = size[0];
      width = size[image_sizes.stride[1]];
    }
    Box row{};
    if (box_dtype == DType::kFloat32) {
      row = load_box(boxes.as<const float>() + at, boxes.stride[2]);
    } else if (box_dtype == DType::kFloat16) {
      row = load_box(boxes.as<const Half>() + at, boxes.stride[2]);
    } else {
      row = load_box(boxes.as<const BFloat16>() + at, boxes.stride[2]);
    }
    return topk_box(row, format, height, width);
  }
  FD_D bool usable(const SelectionTask& task, std::int64_t image, std::int64_t query) const {
    return box_finite(box(task, image, query));
  }
};

}  // namespace fastdet
