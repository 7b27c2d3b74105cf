// SPDX-License-Identifier: Apache-2.0
// SimOTA label assignment: which candidate learns which ground truth. The contract is in the docstring of
// fastdet.ops.sim_ota_assign; the formulas stand in sim_ota_math.h. B images, N priors, C classes, M ground truths. Candidates
// are A entries of a list of priors (it may name a prior twice), or all priors in or near a ground truth (then A = N).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// Inputs may have any strides and are only read. Outputs are contiguous and do not overlap the inputs: those of the assignment,
// or, with want_cost, those of the cost; the others stay null. The workspace is aligned to 64 bytes.
struct SimOtaParams {
  static constexpr std::int64_t kMaxTopk = 1024;

  TensorView scores;      // [B, N, C] logits, float32, float16, bfloat16
  TensorView objectness;  // [B, N] logits, float32, float16, bfloat16
  TensorView boxes;       // [B, N, 4] float32, float16, bfloat16
  bool listed = false;    // candidates are given; else points and strides are
  TensorView candidates;  // [B, A] int32, int64; outside [0, N): none
  TensorView points;      // [N, 2] float32
  TensorView strides;     // [N] float32
  TensorView gt_boxes;    // [B, M, 4] float32
  TensorView gt_labels;   // [B, M] int32, int64
  TensorView gt_count;    // [B] int32, int64

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
  FD_HD std::int64_t priors() const { return listed ? candidates.shape[1] : scores.shape[1]; }  // A: candidates
  FD_HD std::int64_t classes() const { return scores.shape[2]; }
  FD_HD std::int64_t rows() const { return gt_boxes.shape[1]; }
};

// Throws unless shapes agree and attributes are in range. `look_at_values`: counts and labels lie on the host and are checked
// too; without it counts are clamped and a ground truth whose label is out of range matches nothing.
void sim_ota_check(const char* op, const SimOtaParams& params, bool look_at_values);

std::size_t sim_ota_cpu_workspace_bytes(const SimOtaParams& params);  // O(B (A + M topk))
void sim_ota_cpu(const SimOtaParams& params);

std::size_t sim_ota_cuda_workspace_bytes(const SimOtaParams& params);  // O(B A)
void sim_ota_cuda(const SimOtaParams& params, Stream stream);          // four launches

}  // namespace fastdet
