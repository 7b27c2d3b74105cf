// SPDX-License-Identifier: Apache-2.0
// The best (query, class) pairs of heads that need no suppression. The contract for users is in
// python/fastdet/ops/topk_detections.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/candidate.h"
#include "core/launch.h"
#include "core/selection.h"
#include "core/tensor.h"
#include "ops/topk_detections/topk_detections_math.h"

namespace fastdet {

// B pictures, Q queries, C columns. Inputs may have any strides; results are contiguous and do not overlap them.
struct TopkParams {
  TensorView logits;       // [B, Q, C] float32, float16 or bfloat16
  TensorView boxes;        // [B, Q, 4] of these
  TensorView image_sizes;  // [B, 2] float32, height and width; data == nullptr: one size for all, below
  double image_height = 1.0, image_width = 1.0;
  TopkBoxFormat format;
  bool sigmoid = true;  // columns are logits, else scores
  bool multi_label = true;
  double score_threshold = 0.0;  // candidates have a greater score
  std::int64_t max_det = 0;

  CandidateRows out;
  void* workspace = nullptr;

  CandidateRule rule() const { return {logits.shape[1], logits.shape[2], multi_label, max_det, max_det, 1.0, false}; }
  SelectionLayout layout() const { return selection_layout(rule(), !multi_label, false); }  // of the CUDA path's workspace

  // The picture's height and width.
  FD_HD void size_of(std::int64_t image, float* height, float* width) const {
    *height = static_cast<float>(image_height);
    *width = static_cast<float>(image_width);
    if (image_sizes.data == nullptr) return;
    const float* size = image_sizes.as<const float>() + image * image_sizes.stride[0];
    *height = size[0];
    *width = size[image_sizes.stride[1]];
  }
};

void topk_detections_check(const TopkParams& params);

std::size_t topk_detections_cpu_workspace_bytes(const TopkParams& params);
void topk_detections_cpu(const TopkParams& params);

std::size_t topk_detections_cuda_workspace_bytes(const TopkParams& params);
void topk_detections_cuda(const TopkParams& params, Stream stream);

}  // namespace fastdet
