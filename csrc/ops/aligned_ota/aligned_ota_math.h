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

#include "core/box.h"
#include "core/numeric.h"
#include "core/platform.h"
#include "core/tensor.h"

namespace fastdet::aligned_ota {

constexpr int kLanes = 8;                            // partial sums of S_a: lane j adds classes j, j + 8, ...
constexpr float kMinUnion = 1e-6f;                   // as the reference clamps the union
constexpr float kIouOffset = 1e-7f;                  // inside the logarithm of the IoU cost
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

// z(p): what a class that is not the target costs.
FD_HD float negative_cost(float p, float log_not_p) { return -(log_not_p * (p * p)); }

// The term of one score in S_a. A score that is not finite makes the sum NaN, and its prior is then not valid.
FD_HD float class_term(float score) {
  const float p = clamp_score(score);
  const float term = negative_cost(p, log_one_minus(p));
  return is_finite(score) ? term : bit_cast<float>(0x7fc00000u);
}

// Cost without the penalty of pairs that are not inside.
FD_HD float pair_cost(double class_sum, float p, float iou, float class_weight, float iou_weight) {
  const float log_not_p = log_one_minus(p);
  const float entropy = (iou - 1.0f) * log_not_p - iou * log_score(p);
  const float gap = iou - p;
  // In this order an IoU of 0 changes nothing at all, so that ground truths out of reach cost the same.
  const double exchange = static_cast<double>(entropy * (gap * gap)) - static_cast<double>(negative_cost(p, log_not_p));
  const float class_cost = static_cast<float>(class_sum + exchange);
  return class_weight * class_cost + iou_weight * -log_exact(iou + kIouOffset);
}

// pair_cost of an IoU of 0, bit for bit: the score no longer matters. No pair apart costs less than apart_cost(0, ...).
FD_HD float apart_cost(double class_sum, float class_weight, float iou_weight) {
  return class_weight * static_cast<float>(class_sum) + iou_weight * -log_exact(kIouOffset);
}

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

// How many priors a ground truth asks for: the sum of its largest IoUs, truncated, at least 1.
FD_HD int dynamic_k(double iou_sum) { return iou_sum < 1.0 ? 1 : static_cast<int>(iou_sum); }

}  // namespace fastdet::aligned_ota
