// SPDX-License-Identifier: Apache-2.0
// Task-aligned label assignment: which anchor learns which ground truth. The contract is in the docstring of
// fastdet.ops.task_aligned_assign; the formulas stand in task_aligned_math.h. B images, A anchors, C classes, M ground truths.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/iou.h"
#include "core/launch.h"
#include "core/tensor.h"
#include "ops/task_aligned/task_aligned_math.h"

namespace fastdet {

// Inputs may have any strides and are only read. Outputs are contiguous and do not overlap the inputs: those of the assignment,
// or, with want_cost, those of the cost; the others stay null. The workspace is aligned to 64 bytes.
struct TaskAlignedParams {
  TensorView scores;     // [B, A, C] float32, float16, bfloat16
  TensorView boxes;      // [B, A, 4 | 5] float32, float16, bfloat16
  TensorView points;     // [A, 2] float32
  TensorView gt_boxes;   // [B, M, 4 | 5] float32
  TensorView gt_labels;  // [B, M] int32, int64
  TensorView gt_count;   // [B] int32, int64

  IouKind kind = IouKind::kCiou;  // kIou, kCiou, kProb
  IouForm<float> form = {};
  std::int64_t topk = 10;
  std::int64_t second_topk = 0;  // 0: no second selection
  PowerRule score_power, overlap_power;
  float small_below = 0.0f, small_size = 0.0f, eps = 1e-9f;
  ConflictRule conflict = ConflictRule::kOverlap;
  TargetScore target_score = TargetScore::kNormalized;
  bool want_cost = false;

  // Assignment.
  std::int32_t* matched_gt = nullptr;  // [B, A]
  std::int32_t* labels = nullptr;      // [B, A]
  float* label_scores = nullptr;       // [B, A]
  std::int32_t* num_pos = nullptr;     // [B]

  // Cost, for inspection.
  float* metric = nullptr;   // [B, A, M]
  float* overlap = nullptr;  // [B, A, M]
  bool* inside = nullptr;    // [B, A, M]
  bool* chosen = nullptr;    // [B, A, M]

  void* workspace = nullptr;

  FD_HD std::int64_t images() const { return scores.shape[0]; }
  FD_HD std::int64_t anchors() const { return scores.shape[1]; }
  FD_HD std::int64_t classes() const { return scores.shape[2]; }
  FD_HD std::int64_t rows() const { return gt_boxes.shape[1]; }
  FD_HD int numbers() const { return kind == IouKind::kProb ? 5 : 4; }
};

// Throws unless shapes agree and attributes are in range. `look_at_values`: counts and labels lie on the host and are checked
// too; without it counts are clamped and a ground truth whose label is out of range matches nothing.
void task_aligned_check(const char* op, const TaskAlignedParams& params, bool look_at_values);
// Exponents in [0, kMaxPower]; throws on others.
PowerRule task_aligned_power(const char* op, const char* name, double exponent);

std::size_t task_aligned_cpu_workspace_bytes(const TaskAlignedParams& params);  // O(B (A + M topk))
void task_aligned_cpu(const TaskAlignedParams& params);

std::size_t task_aligned_cuda_workspace_bytes(const TaskAlignedParams& params);  // O(B (A + M))
void task_aligned_cuda(const TaskAlignedParams& params, Stream stream);          // five launches

}  // namespace fastdet
