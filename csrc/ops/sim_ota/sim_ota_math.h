// SPDX-License-Identifier: Apache-2.0
// What decides in SimOTA, one element at a time, the same bits on the host and on the device.
//
// The class cost of prior a and ground truth g sums the binary cross-entropy over all classes c, with target 1 at c = label(g)
// and 0 elsewhere. All classes but one have the same term z(p_c) = -log(1 - p_c) for every g, so with S_a = sum_c z(p_c), summed
// once per prior,
//   class cost = S_a + (-log(p) - z(p)),   p = sqrt(sigmoid(class) sigmoid(objectness)) of a at label(g).
// A logarithm serves kFactors classes: that of the product of their 1 - p_c, which float32 holds, since what is not 0 is at least
// 2^-24. Where 1 - p_c is 0 the term is 100 and the factor 1. S_a is float64: at a saturated score S_a and z nearly cancel.
#pragma once

#include <cstdint>

#include "core/ota.h"

namespace fastdet::sim_ota {

using ota::kLanes, ota::kMinLog, ota::log_one_minus, ota::log_score;

constexpr int kFactors = 8;                 // classes of a lane in one product
constexpr std::int32_t kProductShift = 70;  // a product begins at 2^70 and ends at 2^-122 or above
constexpr float kProductStart = 1180591620717411303424.0f;
// p of a class; `objectness` is a probability already.
FD_HD float joint_score(float class_logit, float objectness) {
  return clamp_score(square_root(sigmoid_exact(class_logit) * objectness));
}

// 1 - p of a class: 0, or 2^-24 to 1.
FD_HD float score_rest(float class_logit, float objectness) { return 1.0f - joint_score(class_logit, objectness); }
FD_HD double saturated_terms(std::int32_t count) { return -static_cast<double>(kMinLog) * static_cast<double>(count); }
// The term of the classes in a product that began at kProductStart.
FD_HD float product_term(float product) { return -log_exact(product, kProductShift); }

// One lane of S_a, class by class. A logit that is not finite makes it NaN, and its prior is then not valid.
struct LaneSum {
  double sum = 0.0;
  float product = kProductStart;
  std::int32_t factors = 0, saturated = 0;

  FD_HD void add(float class_logit, float objectness) {
    const float rest = score_rest(class_logit, objectness);
    if (!is_finite(class_logit)) sum = bit_cast<double>(std::uint64_t{0x7ff8000000000000u});
    saturated += rest == 0.0f ? 1 : 0;
    product *= rest == 0.0f ? 1.0f : rest;
    if (++factors < kFactors) return;
    sum += static_cast<double>(product_term(product));
    product = kProductStart, factors = 0;
  }
  FD_HD double total() const {
    return (factors > 0 ? sum + static_cast<double>(product_term(product)) : sum) + saturated_terms(saturated);
  }
};

// What core/ota.h asks for. The factor is the probability that the prior holds an object.
template <typename OpParams>
struct RuleOf {
  using Params = OpParams;
  using LaneSum = sim_ota::LaneSum;
  static constexpr float kMinUnion = 1e-12f;  // below it the IoU counts as 0
  static constexpr float kIouOffset = 1e-8f;
  static constexpr bool kScoreCountsApart = true;

  FD_HD static float objectness(const Params& p, std::int64_t image, std::int64_t prior) {
    return load_number<float>(p.objectness, image * p.objectness.stride[0] + prior * p.objectness.stride[1]);
  }
  FD_HD static bool usable(const Params& p, std::int64_t image, std::int64_t prior) {
    return is_finite(objectness(p, image, prior));
  }
  FD_HD static float factor(const Params& p, std::int64_t image, std::int64_t prior) {
    return sigmoid_exact(objectness(p, image, prior));
  }
  FD_HD static float probability(float score, float factor) { return joint_score(score, factor); }
  FD_HD static float class_cost(double class_sum, float p, float) {
    const double exchange = static_cast<double>(log_one_minus(p)) - static_cast<double>(log_score(p));
    return positive(static_cast<float>(class_sum + exchange));
  }
};

}  // namespace fastdet::sim_ota
