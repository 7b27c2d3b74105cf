// SPDX-License-Identifier: Apache-2.0
// What decides in task-aligned assignment, one element at a time, the same bits on the host and on the device.
//
// Anchor a may learn ground truth g if its point lies in g's region: its box, sides below a limit widened. The metric of a pair
// is s^alpha u^beta, s the score of a at g's label and u their similarity, not below 0.
#pragma once

#include <cstdint>

#include "core/assign.h"
#include "core/iou_measure.h"

namespace fastdet {

// x^(whole + fraction), 0 <= fraction < 1.
struct PowerRule {
  std::int32_t whole = 1;
  float fraction = 0.0f;
};

enum class ConflictRule : std::uint8_t { kOverlap, kOverlapAnywhere, kMetric };
enum class TargetScore : std::uint8_t { kNormalized, kMetric, kOverlap };

namespace task_aligned {

constexpr float kInsideMargin = 1e-9f;  // a point is inside an edge that it is farther from than this

// Where the point of an anchor must lie. `bounds` holds all such points; it is the region itself unless boxes are rotated.
struct Region {
  Box bounds;
  float x, y, cosine, sine, half_w, half_h;
};

FD_HD void widen_side(float below, float size, float* low, float* high) {
  const float middle = (*low + *high) * 0.5f, half = size * 0.5f;
  const bool small = *high - *low < below;
  *low = small ? middle - half : *low;
  *high = small ? middle + half : *high;
}

template <IouKind K>
FD_HD Region region_of(const float (&v)[Measure<K, float>::kNumbers], float small_below, float small_size) {
  Region r = {};
  if constexpr (K == IouKind::kProb) {
    sin_cos_exact(v[4], &r.sine, &r.cosine);
    r.x = v[0], r.y = v[1];
    r.half_w = (v[2] < small_below ? small_size : v[2]) * 0.5f;
    r.half_h = (v[3] < small_below ? small_size : v[3]) * 0.5f;
    // Wider than rounding can move a point.
    const float along_x = magnitude(r.half_w * r.cosine) + magnitude(r.half_h * r.sine);
    const float along_y = magnitude(r.half_w * r.sine) + magnitude(r.half_h * r.cosine);
    const float reach_x = along_x * 1.001f + (magnitude(r.x) * 1e-5f + 1e-3f);
    const float reach_y = along_y * 1.001f + (magnitude(r.y) * 1e-5f + 1e-3f);
    r.bounds = {r.x - reach_x, r.y - reach_y, r.x + reach_x, r.y + reach_y};
  } else {
    r.bounds = {v[0], v[1], v[2], v[3]};
    widen_side(small_below, small_size, &r.bounds.x1, &r.bounds.x2);
    widen_side(small_below, small_size, &r.bounds.y1, &r.bounds.y2);
  }
  return r;
}

// False for NaN. The edges belong to a rotated region, not to an upright one.
template <IouKind K>
FD_HD bool in_region(float x, float y, const Region& r) {
  if constexpr (K == IouKind::kProb) {
    const float dx = x - r.x, dy = y - r.y;
    const float along = dx * r.cosine + dy * r.sine, across = dy * r.cosine - dx * r.sine;
    return (magnitude(along) <= r.half_w) & (magnitude(across) <= r.half_h);
  } else {
    const float left = x - r.bounds.x1, top = y - r.bounds.y1, right = r.bounds.x2 - x, bottom = r.bounds.y2 - y;
    return (left > kInsideMargin) & (top > kInsideMargin) & (right > kInsideMargin) & (bottom > kInsideMargin);
  }
}

// False only if no point between the corners of `hull` lies in the bounds.
FD_HD bool hull_meets(const Box& hull, const Box& bounds) {
  return (hull.x2 > bounds.x1) & (hull.y2 > bounds.y1) & (bounds.x2 > hull.x1) & (bounds.y2 > hull.y1);
}

// x^fraction for x in [0, 1]; 0^0 is 1.
FD_HD float fraction_power(float x, float fraction) {
  if (fraction == 0.0f) return 1.0f;
  if (fraction == 0.5f) return square_root(x);
  const float power = exp_exact(fraction * log_exact(x * 4294967296.0f, 32));  // scaled, so that small x are normal
  return x > 0.0f ? power : 0.0f;
}

// x^(whole + fraction) by squaring, in this order of products.
FD_HD float power_of(float x, std::int32_t whole, float fraction) {
  float power = fraction_power(x, fraction);
  for (; whole > 0; whole >>= 1) {
    if ((whole & 1) != 0) power *= x;
    x *= x;
  }
  return power;
}

// s and u as they enter the metric; a score that is not finite makes the metric 0.
FD_HD float metric_of(float score, float score_term, float overlap_term) {
  return is_finite(score) ? score_term * overlap_term : 0.0f;
}

// Rising keys are falling values, then rising index (of the anchor or of the ground truth).
FD_HD std::uint64_t falling_key(float value, std::int32_t index) {
  return static_cast<std::uint64_t>(~order_key(value)) << 32 | static_cast<std::uint32_t>(index);
}
FD_HD float key_value(std::uint64_t key) { return order_key_value(~static_cast<std::uint32_t>(key >> 32)); }

// The target score of an anchor; the best are over all anchors that its ground truth keeps.
FD_HD float target_score_of(TargetScore rule, float metric, float overlap, float best_metric, float best_overlap, float eps) {
  if (rule == TargetScore::kMetric) return metric;
  if (rule == TargetScore::kOverlap) return overlap;
  const float divisor = best_metric + eps;
  return divisor > 0.0f ? metric * best_overlap / divisor : 0.0f;
}

template <IouKind K>
struct GroundTruth {
  typename Measure<K, float>::Item item;
  Region region;
  std::int32_t label;
};

// False for a row that can match nothing: a number is not finite or the label is no class.
template <IouKind K, typename Params>
FD_HD bool load_ground_truth(const Params& p, std::int64_t image, std::int64_t row, GroundTruth<K>* gt) {
  using M = Measure<K, float>;
  const std::int64_t label = load_integer(p.gt_labels, image * p.gt_labels.stride[0] + row * p.gt_labels.stride[1]);
  float v[M::kNumbers];
  load_row(p.gt_boxes, image * p.gt_boxes.stride[0] + row * p.gt_boxes.stride[1], p.gt_boxes.stride[2], v);
  gt->label = static_cast<std::int32_t>(label);
  bool usable = label >= 0 && label < p.classes();
  for (int i = 0; i < M::kNumbers; ++i) usable = usable && is_finite(v[i]);
  if constexpr (K == IouKind::kProb) usable = usable && magnitude(v[4]) <= 1e6f;
  if (!usable) return false;
  gt->item = M::item(BoxFormat::kXyxy, v, p.form);
  gt->region = region_of<K>(v, p.small_below, p.small_size);
  return true;
}

template <IouKind K>
FD_HD float pair_overlap(const typename Measure<K, float>::Item& box, const GroundTruth<K>& gt, const IouForm<float>& form) {
  return positive(Measure<K, float>::value(gt.item, box, form));
}

template <typename Params>
FD_HD float load_score(const Params& p, std::int64_t image, std::int64_t anchor, std::int64_t label) {
  return load_number<float>(p.scores, image * p.scores.stride[0] + anchor * p.scores.stride[1] + label * p.scores.stride[2]);
}

template <typename Params>
FD_HD float pair_metric(const Params& p, float score, float overlap) {
  return metric_of(score, power_of(clamp_score(score), p.score_power.whole, p.score_power.fraction),
                   power_of(overlap, p.overlap_power.whole, p.overlap_power.fraction));
}

}  // namespace task_aligned
}  // namespace fastdet
