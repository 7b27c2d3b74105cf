// SPDX-License-Identifier: Apache-2.0
// AlignedOTA label assignment: which prior learns which ground truth. The contract is in the docstring of
// fastdet.ops.aligned_ota_assign; the formulas stand in aligned_ota_math.h. B images, A priors, C classes, M ground truths.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// Inputs may have any strides and are only read. Outputs are contiguous and do not overlap the inputs: those of the assignment,
// or, with want_cost, those of the cost; the others stay null. The workspace is aligned to 64 bytes.
struct AlignedOtaParams {
  static constexpr std::int64_t kMaxTopk = 1024;

  TensorView scores;     // [B, A, C] float32, float16, bfloat16
  TensorView boxes;      // [B, A, 4] float32, float16, bfloat16
  TensorView points;     // [A, 2] float32
  TensorView strides;    // [A] float32
  TensorView gt_boxes;   // [B, M, 4] float32
  TensorView gt_labels;  // [B, M] int32, int64
  TensorView gt_count;   // [B] int32, int64

  float center_radius = 2.5f;
  float class_weight = 1.0f;
  float iou_weight = 3.0f;
  std::int64_t topk = 10;
  bool want_cost = false;

  // Assignment.
  std::int32_t* matched_gt = nullptr;  // [B, A]
  std::int32_t* labels = nullptr;      // [B, A]
  float* label_scores = nullptr;       // [B, A]
  std::int32_t* num_pos = nullptr;     // [B]

  // Cost, for inspection.
  float* cost = nullptr;              // [B, A, M]
  float* iou = nullptr;               // [B, A, M]
  bool* inside = nullptr;             // [B, A, M]
  bool* valid = nullptr;              // [B, A]
  std::int32_t* dynamic_k = nullptr;  // [B, M]

  void* workspace = nullptr;

  FD_HD std::int64_t images() const { return scores.shape[0]; }
  FD_HD std::int64_t priors() const { return scores.shape[1]; }
  FD_HD std::int64_t classes() const { return scores.shape[2]; }
  FD_HD std::int64_t rows() const { return gt_boxes.shape[1]; }
};

// Throws unless shapes agree and attributes are in range. `look_at_values`: counts and labels lie on the host and are checked
// too; without it counts are clamped and a ground truth whose label is out of range matches nothing.
void aligned_ota_check(const char* op, const AlignedOtaParams& params, bool look_at_values);

std::size_t aligned_ota_cpu_workspace_bytes(const AlignedOtaParams& params);  // O(B (A + M topk))
void aligned_ota_cpu(const AlignedOtaParams& params);

std::size_t aligned_ota_cuda_workspace_bytes(const AlignedOtaParams& params);  // O(B A)
void aligned_ota_cuda(const AlignedOtaParams& params, Stream stream);          // four launches

}  // namespace fastdet
