// SPDX-License-Identifier: Apache-2.0
// What decides in AlignedOTA, one element at a time, the same bits on the host and on the device.
//
// The class cost of prior a and ground truth g sums the quality focal loss over all classes c, with target q = IoU(a, g) at
// c = label(g) and 0 elsewhere. All classes but one have the same term z(p_c) = -log(1 - p_c) p_c^2 for every g, so with
// S_a = sum_c z(p_c), summed once per prior,
//   class cost = S_a + (BCE(p, q) (q - p)^2 - z(p)),   p = score of a at label(g).
// S_a is float64: at a saturated score S_a and z nearly cancel.
#pragma once

#include <cstdint>

#include "core/ota.h"

namespace fastdet::aligned_ota {

using ota::kLanes, ota::log_one_minus, ota::log_score;

// z(p): what a class that is not the target costs.
FD_HD float negative_cost(float p, float log_not_p) { return -(log_not_p * (p * p)); }

// The term of one score in S_a. A score that is not finite makes the sum NaN, and its prior is then not valid.
FD_HD float class_term(float score) {
  const float p = clamp_score(score);
  const float term = negative_cost(p, log_one_minus(p));
  return is_finite(score) ? term : bit_cast<float>(0x7fc00000u);
}

// One lane of S_a.
struct LaneSum {
  double sum = 0.0;

  FD_HD void add(float score, float) { sum += static_cast<double>(class_term(score)); }
  FD_HD double total() const { return sum; }
};

// What core/ota.h asks for.
template <typename OpParams>
struct RuleOf {
  using Params = OpParams;
  using LaneSum = aligned_ota::LaneSum;
  static constexpr float kMinUnion = 1e-6f;  // as the reference clamps the union
  static constexpr float kIouOffset = 1e-7f;
  static constexpr bool kScoreCountsApart = false;

  FD_HD static bool usable(const Params&, std::int64_t, std::int64_t) { return true; }
  FD_HD static float factor(const Params&, std::int64_t, std::int64_t) { return 1.0f; }
  FD_HD static float probability(float score, float) { return clamp_score(score); }
  FD_HD static float class_cost(double class_sum, float p, float iou) {
    const float log_not_p = log_one_minus(p);
    const float entropy = (iou - 1.0f) * log_not_p - iou * log_score(p);
    const float gap = iou - p;
    // In this order an IoU of 0 changes nothing at all: ground truths out of reach cost the same, and the score no longer
    // matters.
    const double exchange = static_cast<double>(entropy * (gap * gap)) - static_cast<double>(negative_cost(p, log_not_p));
    return static_cast<float>(class_sum + exchange);
  }
};

}  // namespace fastdet::aligned_ota
