// SPDX-License-Identifier: Apache-2.0
// Suppression of rotated boxes. The contract for users is in python/fastdet/ops/rotated_nms.py, the formulas in
// docs/ops/rotated_nms.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/launch.h"
#include "core/scored_boxes.h"
#include "core/selection.h"

namespace fastdet {

// One picture. Outputs are contiguous and do not overlap the inputs.
struct RotatedNmsParams {
  ScoredBoxes in;  // boxes [N, 5]: centre x, y, width, height, angle
  double iou_threshold = 0.5;
  bool gaussian = false;  // probabilistic IoU instead of that of the polygons
  bool fast = false;      // a box falls to any better one, also to one that fell itself
  bool degrees = false;
  CandidateRows out;
  void* workspace = nullptr;

  CandidateRule rule() const { return scored_rule(in, in.count(), in.count()); }
  // Of the CUDA path's workspace; the extra part holds the prepared boxes of all candidates and, for the fast semantics, who has
  // fallen.
  std::int64_t item_bytes() const { return gaussian ? 48 : 32; }
  SelectionLayout layout() const {
    const std::int64_t extra = SelectionLayout::padded(item_bytes() * in.count()) + SelectionLayout::padded(4 * in.count());
    return selection_layout(rule(), false, !fast, extra, item_bytes());
  }
};

// Sets what the words from Python say; throws on any other.
void rotated_nms_words(const char* op, std::string_view measure, std::string_view semantics, RotatedNmsParams* params);
void rotated_nms_check(const char* op, const RotatedNmsParams& params);

std::size_t rotated_nms_cpu_workspace_bytes(const RotatedNmsParams& params);
void rotated_nms_cpu(const RotatedNmsParams& params);

std::size_t rotated_nms_cuda_workspace_bytes(const RotatedNmsParams& params);
void rotated_nms_cuda(const RotatedNmsParams& params, Stream stream);

}  // namespace fastdet
