// SPDX-License-Identifier: Apache-2.0
// Which rotated box makes another fall. Both measures ask first whether two boxes are near: boxes that are not cannot suppress
// one another, and the test is part of the rule, so that rounding far away decides nothing. Everything is float32, without
// branches.
#pragma once

#include "core/iou_measure.h"
#include "core/rotated_iou.h"

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

// Sine and cosine of an angle as given, rounded once.
FD_HD void rotated_turn(float angle, bool degrees, float* sine, float* cosine) {
  double s, c;
  sin_cos_exact(degrees ? static_cast<double>(angle) * 0.017453292519943295 : static_cast<double>(angle), &s, &c);
  *sine = static_cast<float>(s);
  *cosine = static_cast<float>(c);
}

FD_HD float clamped(float value, float limit) { return value < -limit ? -limit : (value > limit ? limit : value); }
FD_HD float absolute(float value) { return value < 0.0f ? -value : value; }
FD_HD float unit(float value) { return value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f; }

struct Polygon {
  float x, y, half_w, half_h, cosine, sine, area, radius;
};

// The area under one edge inside the frame |x| <= w, |y| <= h: the integral of clamped y over clamped x. `steep` is 1 / ex.
FD_HD float area_under_edge(float x0, float y0, float x1, float y1, float ey, float steep, float w, float h) {
  const float from = clamped(x0, w), to = clamped(x1, w);
  const float first = y0 + unit((from - x0) * steep) * ey, last = y1 - unit((x1 - to) * steep) * ey;
  const float low = clamped(first, h), high = clamped(last, h);
  // Before low the edge runs outside, and after high: a constant height there, a ramp between.
  const float parts = ((low - first) * low + (high - low) * (0.5f * (low + high))) + (last - high) * high;
  const bool level = low == high;
  const float mean = level ? low : parts / (level ? 1.0f : last - first);
  return (to - from) * mean;
}

// What boxes a and b have in common, computed in the frame of a. 0 where a side of either separates them.
FD_HD float polygon_intersection(const Polygon& a, const Polygon& b) {
  const float cosine = a.cosine * b.cosine + a.sine * b.sine, sine = a.cosine * b.sine - a.sine * b.cosine;
  const float dx = b.x - a.x, dy = b.y - a.y;
  const float u = dx * a.cosine + dy * a.sine, v = dy * a.cosine - dx * a.sine;
  const float c = absolute(cosine), s = absolute(sine);
  const float across_u = u * cosine + v * sine, across_v = v * cosine - u * sine;
  const bool meet = (absolute(u) < a.half_w + (b.half_w * c + b.half_h * s)) &
                    (absolute(v) < a.half_h + (b.half_w * s + b.half_h * c)) &
                    (absolute(across_u) < b.half_w + (a.half_w * c + a.half_h * s)) &
                    (absolute(across_v) < b.half_h + (a.half_w * s + a.half_h * c));
  const float px = b.half_w * cosine, py = b.half_w * sine, qx = -(b.half_h * sine), qy = b.half_h * cosine;
  const float x0 = u + (px + qx), y0 = v + (py + qy), x1 = u - (px - qx), y1 = v - (py - qy);
  const float x2 = u - (px + qx), y2 = v - (py + qy), x3 = u + (px - qx), y3 = v + (py - qy);
  const float ex = -2.0f * px, ey = -2.0f * py, fx = -2.0f * qx, fy = -2.0f * qy;
  const float steep_e = ex == 0.0f ? 0.0f : 1.0f / ex, steep_f = fx == 0.0f ? 0.0f : 1.0f / fx;
  const float w = a.half_w, h = a.half_h;
  const float along = area_under_edge(x0, y0, x1, y1, ey, steep_e, w, h) + area_under_edge(x2, y2, x3, y3, -ey, -steep_e, w, h);
  const float across = area_under_edge(x1, y1, x2, y2, fy, steep_f, w, h) + area_under_edge(x3, y3, x0, y0, -fy, -steep_f, w, h);
  const float area = positive(-(along + across));
  return meet ? smaller(area, smaller(a.area, b.area)) : 0.0f;
}

// The IoU of the polygons. An empty box (a side not above 0) has nothing in common with any.
struct PolygonMeasure {
  using Kept = Polygon;
  using Item = Polygon;
  static constexpr int kFields = 8, kReachField = 7;
  RotatedRule rule;

  FD_HD static Polygon prepare(const float (&v)[5], const RotatedRule& rule) {
    float sine, cosine;
    rotated_turn(v[4], rule.degrees, &sine, &cosine);
    const float w = 0.5f * positive(v[2]), h = 0.5f * positive(v[3]);
    return {v[0], v[1], w, h, cosine, sine, (2.0f * w) * (2.0f * h), square_root(w * w + h * h)};
  }
  // From centres and the reach field of each.
  FD_HD static bool near(float dx, float dy, float reach_a, float reach_b, const RotatedRule&) {
    const float reach = reach_a + reach_b;
    return dx * dx + dy * dy <= reach * reach;
  }
  FD_HD static bool above(const Polygon& a, const Polygon& b, const RotatedRule& rule) {
    return iou_of(polygon_intersection(a, b), a.area, b.area) > rule.threshold;
  }
  FD_HD static Polygon at(const float* columns, std::int64_t pitch, std::int64_t i) {
    const float* c = columns + i;
    return {c[0], c[pitch], c[2 * pitch], c[3 * pitch], c[4 * pitch], c[5 * pitch], c[6 * pitch], c[7 * pitch]};
  }
  FD_HD static void put(const Polygon& item, float* columns, std::int64_t pitch, std::int64_t i) {
    float* c = columns + i;
    c[0] = item.x, c[pitch] = item.y, c[2 * pitch] = item.half_w, c[3 * pitch] = item.half_h;
    c[4 * pitch] = item.cosine, c[5 * pitch] = item.sine, c[6 * pitch] = item.area, c[7 * pitch] = item.radius;
  }
  FD_HD static float reach(const Polygon& item) { return item.radius; }

  // The walk's words, see core/suppression_kernels.cuh.
  template <typename Source, typename Task>
  FD_HD Polygon load(const Source& source, const Task&, std::int64_t, std::int64_t anchor) const {
    return source.items[anchor];
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
  FD_HD ReachingGaussian load(const Source& source, const Task&, std::int64_t, std::int64_t anchor) const {
    return source.items[anchor];
  }
  FD_HD ReachingGaussian item(const ReachingGaussian& kept) const { return kept; }
  FD_HD Box corners(const ReachingGaussian&) const { return {0.0f, 0.0f, 0.0f, 0.0f}; }
  FD_HD bool suppresses(const ReachingGaussian& a, const ReachingGaussian& b) const {
    return near(b.box.x - a.box.x, b.box.y - a.box.y, a.reach, b.reach, rule) && above(a, b, rule);
  }
};

}  // namespace fastdet
