// SPDX-License-Identifier: Apache-2.0
// Exact greedy non-maximum suppression. The contract for users is in python/fastdet/ops/nms.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/candidate.h"
#include "core/launch.h"
#include "core/selection.h"
#include "core/tensor.h"

namespace fastdet {

// One problem of B images, N boxes and C score columns each. Inputs may have any strides; outputs are contiguous and do not
// overlap them. A candidate is a box (its best column) or, with multi_label, a (box, column) pair, numbered n * columns + c.
struct NmsParams {
  TensorView boxes;   // [B, N, 4] float32, float16 or bfloat16
  TensorView scores;  // [B, N, C] float32, float16 or bfloat16
  TensorView groups;  // [B, N] int32 or int64: only boxes of one group compete; data == nullptr: columns are the groups

  double iou_threshold = 0.5;
  double score_threshold = 0.0;  // candidates must be greater; -inf takes every finite score
  std::int64_t max_candidates = 0;
  std::int64_t max_det = 0;
  bool class_agnostic = false;
  bool multi_label = false;
  bool by_distance = false;  // DIoU instead of IoU

  CandidateRows out;  // only index and count where the caller wants no more
  void* workspace = nullptr;

  std::int64_t images() const { return boxes.shape[0]; }
  std::int64_t anchors() const { return boxes.shape[1]; }
  std::int64_t columns() const { return scores.shape[2]; }
  std::int64_t candidates() const { return rule().candidates(); }
  std::int64_t selected() const { return rule().selected(); }
  CandidateRule rule() const {
    const bool by_label = !class_agnostic && groups.data == nullptr && columns() > 1;
    return {anchors(), columns(), multi_label, max_candidates, max_det, iou_threshold, by_label, by_distance};
  }
  SelectionLayout layout() const { return selection_layout(rule(), !multi_label, true); }  // of the CUDA path's workspace
};

// From the word that Python gives; throws on any other.
bool nms_by_distance(const char* op, std::string_view measure);

void nms_check(const char* op, const NmsParams& params);

std::size_t nms_cpu_workspace_bytes(const NmsParams& params);
void nms_cpu(const NmsParams& params);

std::size_t nms_cuda_workspace_bytes(const NmsParams& params);
void nms_cuda(const NmsParams& params, Stream stream);

}  // namespace fastdet
