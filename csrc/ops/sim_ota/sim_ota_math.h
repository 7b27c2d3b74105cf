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

#include "core/box.h"
#include "core/numeric.h"
#include "core/platform.h"
#include "core/tensor.h"

namespace fastdet::sim_ota {

constexpr int kLanes = 8;                   // partial sums of S_a: lane j adds classes j, j + 8, ...
constexpr int kFactors = 8;                 // classes of a lane in one product
constexpr std::int32_t kProductShift = 70;  // a product begins at 2^70 and ends at 2^-122 or above
constexpr float kProductStart = 1180591620717411303424.0f;
constexpr float kMinUnion = 1e-12f;                  // below it the IoU counts as 0
constexpr float kIouOffset = 1e-8f;                  // inside the logarithm of the IoU cost
constexpr float kMinLog = -100.0f;                   // logarithms of probabilities, as binary cross-entropy clamps them
constexpr std::uint64_t kNoKey = ~std::uint64_t{0};  // above every key

struct GroundTruth {
  Box box;
  float center_x, center_y, area;
  std::int32_t label;
};

// Strict on all sides, so also false for NaN.
FD_HD bool in_box(float x, float y, const Box& box) { return (x > box.x1) & (y > box.y1) & (box.x2 > x) & (box.y2 > y); }

FD_HD float magnitude(float value) { return value < 0.0f ? -value : value; }

// `reach` is the radius times the stride of the prior.
FD_HD bool in_center(float x, float y, float reach, float center_x, float center_y) {
  return (magnitude(x - center_x) < reach) & (magnitude(y - center_y) < reach);
}

// IoU in [0, 1]; 0 where areas leave the range of float32.
FD_HD float pair_iou(const Box& box, const Box& gt, float gt_area) {
  const float intersection = box_intersection(box, gt);
  const float sum = box_area(box) + gt_area - intersection;
  const float iou = intersection / (sum > kMinUnion ? sum : kMinUnion);
  return iou <= 1.0f ? iou : 0.0f;
}

FD_HD float clamp_score(float score) { return smaller(positive(score), 1.0f); }  // never -0, which has no logarithm here

// Logarithms of p and of 1 - p for p in [0, 1], at least -100. Scaling keeps small arguments normal, and 0 ends below -100.
FD_HD float log_score(float p) { return larger(log_exact(p * 4294967296.0f, 32), kMinLog); }
FD_HD float log_one_minus(float p) {
  const float rest = 1.0f - p;  // rounded; what it lost is added as the first term of the series
  return larger(log_exact(rest * 4294967296.0f, 32) + ((1.0f - rest) - p), kMinLog);
}

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

// Cost without the penalty of pairs that are not inside.
FD_HD float pair_cost(double class_sum, float p, float iou, float class_weight, float iou_weight) {
  const double exchange = static_cast<double>(log_one_minus(p)) - static_cast<double>(log_score(p));
  const float class_cost = positive(static_cast<float>(class_sum + exchange));
  return class_weight * class_cost + iou_weight * -log_exact(iou + kIouOffset);
}

// No pair with an IoU of 0 costs less.
FD_HD float least_apart_cost(float iou_weight) { return iou_weight * -log_exact(kIouOffset); }

// Keys order pairs: those inside first, then by cost, then by index (of the prior or of the ground truth, below 2^31).
constexpr std::uint64_t kFirstOutside = std::uint64_t{1} << 63;  // keys of pairs inside are below
FD_HD std::uint64_t pair_key(bool inside, float cost, std::int32_t index) {
  return (static_cast<std::uint64_t>(!inside) << 63) | (static_cast<std::uint64_t>(order_key(cost)) << 31) |
         static_cast<std::uint64_t>(index);
}
FD_HD std::int32_t key_index(std::uint64_t key) { return static_cast<std::int32_t>(key & 0x7fffffffu); }

FD_HD std::int64_t load_integer(const TensorView& view, std::int64_t at) {
  return view.dtype == DType::kInt32 ? view.as<const std::int32_t>()[at] : view.as<const std::int64_t>()[at];
}

FD_HD float load_float(const TensorView& view, std::int64_t at) {
  switch (view.dtype) {
    case DType::kFloat16: return to_float(view.as<const Half>()[at]);
    case DType::kBFloat16: return to_float(view.as<const BFloat16>()[at]);
    default: return view.as<const float>()[at];
  }
}

// Rows of an image that are not padding.
FD_HD std::int64_t load_count(const TensorView& count, std::int64_t image, std::int64_t rows) {
  const std::int64_t value = load_integer(count, image * count.stride[0]);
  return value < 0 ? 0 : value > rows ? rows : value;
}

// False for a row that can match nothing: a coordinate is not finite or the label is no class.
FD_HD bool load_ground_truth(const TensorView& boxes, const TensorView& labels, std::int64_t classes, std::int64_t image,
                             std::int64_t row, GroundTruth* gt) {
  const std::int64_t label = load_integer(labels, image * labels.stride[0] + row * labels.stride[1]);
  const Box box = load_box(boxes.as<const float>() + image * boxes.stride[0] + row * boxes.stride[1], boxes.stride[2]);
  gt->box = box;
  gt->center_x = (box.x1 + box.x2) * 0.5f;
  gt->center_y = (box.y1 + box.y2) * 0.5f;
  gt->area = box_area(box);
  gt->label = static_cast<std::int32_t>(label);
  return box_finite(box) && label >= 0 && label < classes;
}

// The prior behind a candidate; -1: none.
template <typename Params>
FD_HD std::int64_t source_of(const Params& p, std::int64_t image, std::int64_t candidate) {
  if (!p.listed) return candidate;
  const std::int64_t prior = load_integer(p.candidates, image * p.candidates.stride[0] + candidate * p.candidates.stride[1]);
  return prior >= 0 && prior < p.scores.shape[1] ? prior : -1;
}

// How many priors a ground truth asks for: the sum of its largest IoUs, truncated, at least 1.
FD_HD int dynamic_k(double iou_sum) { return iou_sum < 1.0 ? 1 : static_cast<int>(iou_sum); }

}  // namespace fastdet::sim_ota
