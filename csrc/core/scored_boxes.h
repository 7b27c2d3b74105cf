// SPDX-License-Identifier: Apache-2.0
// Boxes of one picture with a score each, as the operators that suppress them take them: who is a candidate, in what order, and
// who competes with whom.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/check.h"
#include "core/iou_measure.h"
#include "core/tensor.h"

namespace fastdet {

// Any strides; float32, float16 or bfloat16.
struct ScoredBoxes {
  TensorView boxes;   // [N, k], k = 4, or 5 with an angle
  TensorView scores;  // [N]
  TensorView groups;  // [N] int32 or int64: only boxes of one group compete; data == nullptr: all do

  FD_HD std::int64_t count() const { return boxes.shape[0]; }
  template <int K>
  FD_HD void row(std::int64_t i, float (&numbers)[K]) const {
    load_row<float>(boxes, i * boxes.stride[0], boxes.stride[1], numbers);
  }
  FD_HD Box box(std::int64_t i) const {
    float v[4];
    row(i, v);
    return {v[0], v[1], v[2], v[3]};
  }
  FD_HD std::int64_t group(std::int64_t i) const {
    if (groups.data == nullptr) return 0;
    const std::int64_t at = i * groups.stride[0];
    return groups.dtype == DType::kInt32 ? groups.as<const std::int32_t>()[at] : groups.as<const std::int64_t>()[at];
  }
  // The score's order key; 0 where the score or the box is not finite, or the angle beyond what has a sine.
  FD_HD std::uint32_t key(std::int64_t i) const {
    bool usable = true;
    for (std::int64_t k = 0; k < boxes.shape[1]; ++k) {
      const float number = load_number<float>(boxes, i * boxes.stride[0] + k * boxes.stride[1]);
      usable = usable & is_finite(number) & (k < 4 || (number <= 1e6f && number >= -1e6f));
    }
    return usable ? score_key(load_number<float>(scores, i * scores.stride[0])) : 0u;
  }
};

// Selection's Source (core/selection_kernels.cuh): every box is one candidate, numbered as it stands. Its rule has multi_label.
struct ScoredSource {
  ScoredBoxes in;

  template <typename Task>
  FD_HD std::uint32_t column_key(const Task&, std::int64_t, std::int64_t anchor, std::int64_t) const {
    return in.key(anchor);
  }
  template <typename Task>
  FD_HD bool usable(const Task&, std::int64_t, std::int64_t) const {
    return true;
  }
};

inline CandidateRule scored_rule(const ScoredBoxes& in, std::int64_t max_candidates, std::int64_t max_det) {
  return {in.count(), 1, true, max_candidates, max_det, 1.0, false};
}

inline void check_scored_boxes(const char* op, const ScoredBoxes& in, int numbers) {
  const TensorView& boxes = in.boxes;
  FD_CHECK(boxes.ndim == 2 && boxes.shape[1] == numbers, ValueError, op, ": boxes must be (N, ", numbers, "), got ",
           shape_text(boxes), boxes.ndim == 2 && boxes.shape[0] == numbers ? "; did you mean boxes.swapaxes(-1, -2)?" : "");
  FD_CHECK(in.scores.ndim == 1 && in.scores.shape[0] == boxes.shape[0], ValueError, op,
           ": scores must be (N,) with the N of boxes ", shape_text(boxes), ", got ", shape_text(in.scores));
  FD_CHECK(in.groups.data == nullptr || in.groups.shape[0] == boxes.shape[0], ValueError, op,
           ": idxs must be (N,) with the N of boxes ", shape_text(boxes), ", got ", shape_text(in.groups));
  FD_CHECK(boxes.shape[0] <= kMaxCandidates, ValueError, op, ": at most ", kMaxCandidates, " boxes, got ", boxes.shape[0]);
}

inline void check_unit_interval(const char* op, const char* name, double value) {
  FD_CHECK(value >= 0.0 && value <= 1.0, ValueError, op, ": ", name, " must lie in [0, 1], got ", value);
}

inline void check_not_negative(const char* op, const char* name, double value) {
  FD_CHECK(value >= 0.0, ValueError, op, ": ", name, " must not be negative, got ", value);
}

// What divides or multiplies in float32.
inline void check_positive_float(const char* op, const char* name, double value) {
  FD_CHECK(value >= 1e-30 && value <= 1e30, ValueError, op, ": ", name, " must lie in [1e-30, 1e30], got ", value);
}

}  // namespace fastdet
