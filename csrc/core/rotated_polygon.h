// SPDX-License-Identifier: Apache-2.0
// Rotated boxes as rectangles, for host and device: the area that two have in common. T is float or double, no branches, so that
// loops vectorise. Formula and source: docs/ops/rotated_nms.md.
#pragma once

#include "core/box.h"
#include "core/numeric.h"
#include "core/platform.h"
#include "core/rotated_iou.h"

namespace fastdet {

// Sine and cosine of an angle as given, rounded once.
template <typename T>
FD_HD void rotated_turn(T angle, bool degrees, T* sine, T* cosine) {
  double s, c;
  sin_cos_exact(degrees ? static_cast<double>(angle) * 0.017453292519943295 : static_cast<double>(angle), &s, &c);
  *sine = static_cast<T>(s);
  *cosine = static_cast<T>(c);
}

template <typename T>
FD_HD T clamped(T value, T limit) {
  return value < -limit ? -limit : (value > limit ? limit : value);
}
template <typename T>
FD_HD T absolute(T value) {
  return value < T{0} ? -value : value;
}
template <typename T>
FD_HD T unit(T value) {
  return value > T{0} ? (value < T{1} ? value : T{1}) : T{0};
}

template <typename T>
struct PolygonOf {
  T x, y, half_w, half_h, cosine, sine, area, radius;
};
constexpr int kPolygonFields = 8, kPolygonRadius = 7;

// A side not above 0 counts as 0. A box that is not finite gets x = NaN: it is near to nothing.
template <typename T>
FD_HD PolygonOf<T> polygon_of(const RotatedBoxOf<T>& box, bool degrees) {
  const bool finite = box_finite(box);
  T sine, cosine;
  rotated_turn(finite ? box.angle : T{0}, degrees, &sine, &cosine);
  const T w = T{0.5} * positive(box.w), h = T{0.5} * positive(box.h);
  return {finite ? box.x : not_a_number<T>(), box.y, w, h, cosine, sine, (T{2} * w) * (T{2} * h), square_root(w * w + h * h)};
}

// Column f of polygon i stands at columns[f * pitch + i].
template <typename T>
FD_HD PolygonOf<T> polygon_at(const T* columns, std::int64_t pitch, std::int64_t i) {
  const T* c = columns + i;
  return {c[0], c[pitch], c[2 * pitch], c[3 * pitch], c[4 * pitch], c[5 * pitch], c[6 * pitch], c[7 * pitch]};
}
template <typename T>
FD_HD void polygon_put(const PolygonOf<T>& item, T* columns, std::int64_t pitch, std::int64_t i) {
  T* c = columns + i;
  c[0] = item.x, c[pitch] = item.y, c[2 * pitch] = item.half_w, c[3 * pitch] = item.half_h;
  c[4 * pitch] = item.cosine, c[5 * pitch] = item.sine, c[6 * pitch] = item.area, c[7 * pitch] = item.radius;
}

// Whether the circumscribed circles touch, from the distance of their centres. Part of every rule, so that rounding far away
// decides nothing.
template <typename T>
FD_HD bool circles_touch(T dx, T dy, T radius_a, T radius_b) {
  const T reach = radius_a + radius_b;
  return dx * dx + dy * dy <= reach * reach;
}

// The area under one edge inside the frame |x| <= w, |y| <= h: the integral of clamped y over clamped x. `steep` is 1 / ex.
template <typename T>
FD_HD T area_under_edge(T x0, T y0, T x1, T y1, T ey, T steep, T w, T h) {
  const T from = clamped(x0, w), to = clamped(x1, w);
  const T first = y0 + unit((from - x0) * steep) * ey, last = y1 - unit((x1 - to) * steep) * ey;
  const T low = clamped(first, h), high = clamped(last, h);
  // Before low the edge runs outside, and after high: a constant height there, a ramp between.
  const T parts = ((low - first) * low + (high - low) * (T{0.5} * (low + high))) + (last - high) * high;
  const bool level = low == high;
  const T mean = level ? low : parts / (level ? T{1} : last - first);
  return (to - from) * mean;
}

// What polygons a and b have in common, computed in the frame of a. 0 where a side of either separates them.
template <typename T>
FD_HD T polygon_intersection(const PolygonOf<T>& a, const PolygonOf<T>& b) {
  const T cosine = a.cosine * b.cosine + a.sine * b.sine, sine = a.cosine * b.sine - a.sine * b.cosine;
  const T dx = b.x - a.x, dy = b.y - a.y;
  const T u = dx * a.cosine + dy * a.sine, v = dy * a.cosine - dx * a.sine;
  const T c = absolute(cosine), s = absolute(sine);
  const T across_u = u * cosine + v * sine, across_v = v * cosine - u * sine;
  const bool meet = (absolute(u) < a.half_w + (b.half_w * c + b.half_h * s)) &
                    (absolute(v) < a.half_h + (b.half_w * s + b.half_h * c)) &
                    (absolute(across_u) < b.half_w + (a.half_w * c + a.half_h * s)) &
                    (absolute(across_v) < b.half_h + (a.half_w * s + a.half_h * c));
  const T px = b.half_w * cosine, py = b.half_w * sine, qx = -(b.half_h * sine), qy = b.half_h * cosine;
  const T x0 = u + (px + qx), y0 = v + (py + qy), x1 = u - (px - qx), y1 = v - (py - qy);
  const T x2 = u - (px + qx), y2 = v - (py + qy), x3 = u + (px - qx), y3 = v + (py - qy);
  const T ex = T{-2} * px, ey = T{-2} * py, fx = T{-2} * qx, fy = T{-2} * qy;
  const T steep_e = ex == T{0} ? T{0} : T{1} / ex, steep_f = fx == T{0} ? T{0} : T{1} / fx;
  const T w = a.half_w, h = a.half_h;
  const T along = area_under_edge(x0, y0, x1, y1, ey, steep_e, w, h) + area_under_edge(x2, y2, x3, y3, -ey, -steep_e, w, h);
  const T across = area_under_edge(x1, y1, x2, y2, fy, steep_f, w, h) + area_under_edge(x3, y3, x0, y0, -fy, -steep_f, w, h);
  const T area = positive(-(along + across));
  return meet ? smaller(area, smaller(a.area, b.area)) : T{0};
}

}  // namespace fastdet
