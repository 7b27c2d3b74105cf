// SPDX-License-Identifier: Apache-2.0
// Suppression of rotated boxes: of one picture, and of a batch with scores for classes and results of fixed shape. The contract
// for users is in python/fastdet/ops/rotated_nms.py, the formulas in docs/ops/rotated_nms.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/launch.h"
#include "core/scored_boxes.h"
#include "core/selection.h"

namespace fastdet {

// Which box makes another fall.
struct RotatedChoice {
  double iou_threshold = 0.5;
  bool gaussian = false;  // probabilistic IoU instead of that of the polygons
  bool fast = false;      // a box falls to any better one, also to one that fell itself
  bool degrees = false;

  // Of the CUDA path's workspace; the extra part holds the prepared boxes of all anchors and, for the fast semantics, who has
  // fallen, by place in the order.
  std::int64_t item_bytes() const { return gaussian ? 48 : 32; }
  SelectionLayout layout_of(const CandidateRule& rule, bool best_columns) const {
    const std::int64_t extra =
        SelectionLayout::padded(item_bytes() * rule.anchors) + SelectionLayout::padded(4 * rule.selected());
    return selection_layout(rule, best_columns, !fast, extra, item_bytes());
  }
};

// One picture. Outputs are contiguous and do not overlap the inputs.
struct RotatedNmsParams : RotatedChoice {
  ScoredBoxes in;  // boxes [N, 5]: centre x, y, width, height, angle
  CandidateRows out;
  void* workspace = nullptr;

  CandidateRule rule() const { return scored_rule(in, in.count(), in.count()); }
  SelectionLayout layout() const { return layout_of(rule(), false); }
};

// B pictures, N boxes and C columns of scores each; candidates as in ops/nms/nms.h.
struct RotatedMulticlassParams : RotatedChoice {
  TensorView boxes;              // [B, N, 5] float32, float16 or bfloat16
  TensorView scores;             // [B, N, C] likewise
  double score_threshold = 0.0;  // candidates must be greater
  std::int64_t max_candidates = 0;
  std::int64_t max_det = 0;
  bool class_agnostic = false;
  bool multi_label = false;
  CandidateRows out;  // boxes [B, D, 5]
  void* workspace = nullptr;

  std::int64_t images() const { return boxes.shape[0]; }
  CandidateRule rule() const {
    const std::int64_t columns = scores.shape[2];
    return {boxes.shape[1], columns, multi_label, max_candidates, max_det, iou_threshold, !class_agnostic && columns > 1};
  }
  SelectionLayout layout() const { return layout_of(rule(), !multi_label); }
};

// Sets what the words from Python say; throws on any other.
void rotated_nms_words(const char* op, std::string_view measure, std::string_view semantics, RotatedChoice* choice);
void rotated_nms_check(const char* op, const RotatedNmsParams& params);
void rotated_multiclass_check(const char* op, const RotatedMulticlassParams& params);

std::size_t rotated_nms_cpu_workspace_bytes(const RotatedNmsParams& params);
void rotated_nms_cpu(const RotatedNmsParams& params);
std::size_t rotated_multiclass_cpu_workspace_bytes(const RotatedMulticlassParams& params);
void rotated_multiclass_cpu(const RotatedMulticlassParams& params);

std::size_t rotated_nms_cuda_workspace_bytes(const RotatedNmsParams& params);
void rotated_nms_cuda(const RotatedNmsParams& params, Stream stream);
std::size_t rotated_multiclass_cuda_workspace_bytes(const RotatedMulticlassParams& params);
void rotated_multiclass_cuda(const RotatedMulticlassParams& params, Stream stream);

}  // namespace fastdet
