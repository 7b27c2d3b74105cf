// SPDX-License-Identifier: Apache-2.0
// Which rotated box makes another fall. Both measures ask first whether two boxes are near: boxes that are not cannot suppress
// one another, and the test is part of the rule, so that rounding far away decides nothing. Everything is float32, without
// branches.
#pragma once

#include "core/iou_measure.h"
#include "core/rotated_iou.h"
#include "core/rotated_polygon.h"

namespace fastdet {

// The rule as numbers. `reach`: how far apart Gaussians may be, see rotated_rule.
struct RotatedRule {
  float threshold, reach;
  IouForm<float> form;
  bool degrees;
};

constexpr double kProbIouEps = 1e-7;  // as the reference has it; no floor on the variances

// A similarity 1 - H above t needs a distance below L = -log(1 - (1 - t)^2 + eps). The distance is at least d^2 / 4 over the sum
// of the greater variances, so beyond that no pair needs to be looked at; a little is added for rounding.
inline RotatedRule rotated_rule(double threshold, bool degrees) {
  IouRules rules;
  rules.kind = IouKind::kProb;
  rules.format = BoxFormat::kRotated;
  rules.eps = kProbIouEps;
  const double apart = 1.0 - threshold, argument = (1.0 - apart * apart) + kProbIouEps;
  const float limit = -log_exact(static_cast<float>(argument));
  return {round_down(threshold), 4.0f * (limit * 1.001f + 0.001f), iou_form<float>(rules), degrees};
}

// Box `anchor` of boxes [B, N, 5], and whether it may be a candidate: finite, and an angle that has a sine.
FD_HD void rotated_row(const TensorView& boxes, std::int64_t image, std::int64_t anchor, float (&numbers)[5]) {
  load_row<float>(boxes, image * boxes.stride[0] + anchor * boxes.stride[1], boxes.stride[2], numbers);
}
FD_HD bool rotated_usable(const float (&v)[5]) { return box_finite(RotatedBoxOf<float>{v[0], v[1], v[2], v[3], v[4]}); }

using Polygon = PolygonOf<float>;

// The IoU of the polygons. An empty box (a side not above 0) has nothing in common with any.
struct PolygonMeasure {
  using Kept = Polygon;
  using Item = Polygon;
  static constexpr int kFields = kPolygonFields, kReachField = kPolygonRadius;
  RotatedRule rule;

  FD_HD static Polygon prepare(const float (&v)[5], const RotatedRule& rule) {
    return polygon_of(RotatedBoxOf<float>{v[0], v[1], v[2], v[3], v[4]}, rule.degrees);
  }
  // From centres and the reach field of each.
  FD_HD static bool near(float dx, float dy, float reach_a, float reach_b, const RotatedRule&) {
    return circles_touch(dx, dy, reach_a, reach_b);
  }
  FD_HD static bool above(const Polygon& a, const Polygon& b, const RotatedRule& rule) {
    return iou_of(polygon_intersection(a, b), a.area, b.area) > rule.threshold;
  }
  FD_HD static Polygon at(const float* columns, std::int64_t pitch, std::int64_t i) { return polygon_at(columns, pitch, i); }
  FD_HD static void put(const Polygon& item, float* columns, std::int64_t pitch, std::int64_t i) {
    polygon_put(item, columns, pitch, i);
  }
  FD_HD static float reach(const Polygon& item) { return item.radius; }

  // The walk's words, see core/suppression_kernels.cuh.
  template <typename Source, typename Task>
  FD_HD Polygon load(const Source&, const Task& task, std::int64_t image, std::int64_t anchor) const {
    return task.template part<Polygon>(image, task.layout.extra_at())[anchor];
  }
  FD_HD Polygon item(const Polygon& kept) const { return kept; }
  FD_HD Box corners(const Polygon&) const { return {0.0f, 0.0f, 0.0f, 0.0f}; }
  FD_HD bool suppresses(const Polygon& a, const Polygon& b) const {
    return near(b.x - a.x, b.y - a.y, a.radius, b.radius, rule) && above(a, b, rule);
  }
};

struct ReachingGaussian {
  GaussianBox<float> box;
  float reach;  // the greater variance; infinite where eps would matter
};

// The probabilistic IoU of core/rotated_iou.h.
struct GaussianMeasure {
  using Kept = ReachingGaussian;
  using Item = ReachingGaussian;
  static constexpr int kFields = 12, kReachField = 11;
  RotatedRule rule;

  FD_HD static ReachingGaussian prepare(const float (&v)[5], const RotatedRule& rule) {
    float sine, cosine;
    rotated_turn(v[4], rule.degrees, &sine, &cosine);
    const GaussianBox<float> box =
        gaussian_box_turned(RotatedBoxOf<float>{v[0], v[1], v[2], v[3], 0.0f}, sine, cosine, rule.form);
    // Where the determinant is not large beside eps (boxes of less than a pixel), distances are smaller than the formula says.
    const bool sound = box.along * box.across >= 1.0f;
    return {box, sound ? larger(box.along, box.across) : bit_cast<float>(0x7f800000u)};
  }
  FD_HD static bool near(float dx, float dy, float reach_a, float reach_b, const RotatedRule& rule) {
    return dx * dx + dy * dy <= rule.reach * (reach_a + reach_b);
  }
  FD_HD static bool above(const ReachingGaussian& a, const ReachingGaussian& b, const RotatedRule& rule) {
    return gaussian_overlap(a.box, b.box, rule.form) > rule.threshold;
  }
  FD_HD static ReachingGaussian at(const float* columns, std::int64_t pitch, std::int64_t i) {
    return {Measure<IouKind::kProb, float>::at(columns, pitch, i), columns[11 * pitch + i]};
  }
  FD_HD static void put(const ReachingGaussian& item, float* columns, std::int64_t pitch, std::int64_t i) {
    Measure<IouKind::kProb, float>::put(item.box, columns, pitch, i);
    columns[11 * pitch + i] = item.reach;
  }
  FD_HD static float reach(const ReachingGaussian& item) { return item.reach; }

  template <typename Source, typename Task>
  FD_HD ReachingGaussian load(const Source&, const Task& task, std::int64_t image, std::int64_t anchor) const {
    return task.template part<ReachingGaussian>(image, task.layout.extra_at())[anchor];
  }
  FD_HD ReachingGaussian item(const ReachingGaussian& kept) const { return kept; }
  FD_HD Box corners(const ReachingGaussian&) const { return {0.0f, 0.0f, 0.0f, 0.0f}; }
  FD_HD bool suppresses(const ReachingGaussian& a, const ReachingGaussian& b) const {
    return near(b.box.x - a.box.x, b.box.y - a.box.y, a.reach, b.reach, rule) && above(a, b, rule);
  }
};

}  // namespace fastdet
