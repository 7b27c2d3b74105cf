// SPDX-License-Identifier: Apache-2.0
// Hungarian matching: RT-DETR's cost of every pair of query and object, and the one-to-one assignment of least total cost. The
// contract is in the docstrings of fastdet.ops.hungarian_assign and linear_sum_assignment; formulas and the rule of ties stand
// in hungarian_assign_math.h. B images, Q queries, C classes, M rows of ground truth.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// Inputs may have any strides and are only read. Outputs are contiguous and do not overlap the inputs: those of the task, the
// others stay null. The workspace is aligned to 64 bytes.
struct HungarianAssignParams {
  enum class Task : std::uint8_t {
    kAssign,  // cost of the pairs, then assignment
    kCost,    // the costs alone
    kSolve,   // assignment on costs that are given
  };
  Task task = Task::kAssign;

  TensorView logits;     // [B, Q, C] float32, float16, bfloat16
  TensorView boxes;      // [B, Q, 4] cxcywh float32, float16, bfloat16
  TensorView gt_boxes;   // [B, M, 4] cxcywh float32
  TensorView gt_labels;  // [B, M] int32, int64
  TensorView given;      // [B, Q, M] float32, float64, float16, bfloat16: for kSolve instead of the four above
  TensorView count;      // [B] int32, int64

  float class_weight = 2.0f, l1_weight = 5.0f, giou_weight = 2.0f;
  float alpha = 0.25f, gamma = 2.0f;

  std::int32_t* matched_gt = nullptr;     // [B, Q] -1 where none
  std::int32_t* matched_query = nullptr;  // [B, M] -1 where none
  std::int32_t* num_pos = nullptr;        // [B]
  float* cost = nullptr;                  // [B, Q, M] for kCost

  void* workspace = nullptr;

  FD_HD const TensorView& sized() const { return task == Task::kSolve ? given : logits; }
  FD_HD std::int64_t images() const { return sized().shape[0]; }
  FD_HD std::int64_t queries() const { return sized().shape[1]; }
  FD_HD std::int64_t rows() const { return task == Task::kSolve ? given.shape[2] : gt_boxes.shape[1]; }
  FD_HD std::int64_t classes() const { return logits.shape[2]; }
};

// Throws unless shapes agree and attributes are in range. `look_at_values`: counts and labels lie on the host and are checked
// too; without it counts are clamped and an object whose label is out of range matches nothing.
void hungarian_assign_check(const char* op, const HungarianAssignParams& params, bool look_at_values);

// O(B Q M): the costs of all pairs, laid out for the solver. The same on both devices.
std::size_t hungarian_assign_workspace_bytes(const HungarianAssignParams& params);
void hungarian_assign_cpu(const HungarianAssignParams& params);
void hungarian_assign_cuda(const HungarianAssignParams& params, Stream stream);  // one launch for the costs, one to solve

}  // namespace fastdet
