// SPDX-License-Identifier: Apache-2.0
// Candidates of a detector's result, ordered by one integer: which score is one, in what order they come, and what a result
// holds.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/numeric.h"
#include "core/platform.h"
#include "core/tensor.h"

namespace fastdet {

// Keys order candidates by falling score, then rising number: the score's order key above, the inverted number below. 0 is no
// candidate (the key of a finite score is never 0).
FD_HD std::uint32_t score_key(float score) { return is_finite(score) ? order_key(score) : 0u; }
FD_HD std::uint64_t candidate_key(std::uint32_t score, std::uint32_t number) {
  return (static_cast<std::uint64_t>(score) << 32) | static_cast<std::uint64_t>(~number);
}
FD_HD std::uint32_t candidate_number(std::uint64_t key) { return ~static_cast<std::uint32_t>(key); }
FD_HD float candidate_score(std::uint64_t key) { return order_key_value(static_cast<std::uint32_t>(key >> 32)); }

// The threshold as a key: candidates have score_key > threshold_key. Decided in double, as Python compares: score > threshold.
inline std::uint32_t threshold_key(double threshold) {
  const float rounded = round_down(threshold);
  if (rounded < -3.4028235e38f) return 0u;
  return order_key(rounded);
}

// Most candidates of one image: their number is the low half of a 64-bit key.
constexpr std::int64_t kMaxCandidates = 4294967295;

// How candidates are numbered and which of them count: what selection and suppression need to know of an operator.
struct CandidateRule {
  std::int64_t anchors = 0;
  std::int64_t columns = 0;
  bool multi_label = false;         // number = anchor * columns + column; otherwise number = anchor, its best column
  std::int64_t max_candidates = 0;  // the best this many take part
  std::int64_t max_det = 0;         // D, rows of the result
  double iou_threshold = 1.0;       // of suppression
  bool by_label = false;            // only boxes of one column compete
  bool by_distance = false;         // DIoU instead of IoU: the distance between centres counts too

  FD_HD std::int64_t candidates() const { return multi_label ? anchors * columns : anchors; }
  FD_HD std::int64_t selected() const { return candidates() < max_candidates ? candidates() : max_candidates; }
  FD_HD std::int64_t anchor_of(std::int64_t number) const { return multi_label ? number / columns : number; }
  // `best` is the best column of each anchor, not read with multi_label.
  FD_HD std::int32_t label_of(std::int64_t number, const std::int32_t* best) const {
    return multi_label ? static_cast<std::int32_t>(number % columns) : best[number];
  }
};

// The rows of a result, contiguous; data == nullptr where a caller does not want an array. Rows past count hold 0, -1.
struct CandidateRows {
  TensorView boxes;   // [B, D, 4] float32
  TensorView scores;  // [B, D] float32
  TensorView labels;  // [B, D] int32
  TensorView index;   // [B, D] int32 or int64, the anchor
  TensorView count;   // [B] int32

  FD_HD void write(std::int64_t at, const Box& box, float score, std::int32_t label, std::int64_t anchor) const {
    if (boxes.data != nullptr) {
      float* corners = boxes.as<float>() + 4 * at;
      corners[0] = box.x1;
      corners[1] = box.y1;
      corners[2] = box.x2;
      corners[3] = box.y2;
    }
    if (scores.data != nullptr) scores.as<float>()[at] = score;
    if (labels.data != nullptr) labels.as<std::int32_t>()[at] = label;
    if (index.dtype == DType::kInt32) {
      index.as<std::int32_t>()[at] = static_cast<std::int32_t>(anchor);
    } else {
      index.as<std::int64_t>()[at] = anchor;
    }
  }
  FD_HD void clear(std::int64_t at) const { write(at, {0.0f, 0.0f, 0.0f, 0.0f}, 0.0f, -1, -1); }
};

}  // namespace fastdet
