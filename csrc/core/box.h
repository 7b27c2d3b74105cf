// SPDX-License-Identifier: Apache-2.0
// Boxes and the one IoU of the project, for host and device. Corners x1, y1, x2, y2 in float32; a pixel covers [x, x + 1), so
// no +1 anywhere. Inverted boxes count as empty; the IoU with an empty box is 0.
#pragma once

#include <cstdint>

#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

template <typename T>
struct BoxOf {
  T x1, y1, x2, y2;
};
using Box = BoxOf<float>;

// A row of four corners `stride` elements apart, widened to float32.
template <typename T>
FD_HD Box load_box(const T* corners, std::int64_t stride) {
  return {to_float(corners[0]), to_float(corners[stride]), to_float(corners[2 * stride]), to_float(corners[3 * stride])};
}

template <typename T>
FD_HD T positive(T value) {
  return value > T{0} ? value : T{0};
}
template <typename T>
FD_HD T smaller(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
FD_HD T larger(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
FD_HD bool box_finite(const BoxOf<T>& box) {
  return is_finite(box.x1) & is_finite(box.y1) & is_finite(box.x2) & is_finite(box.y2);
}

FD_HD float box_area(const Box& box) { return positive(box.x2 - box.x1) * positive(box.y2 - box.y1); }

FD_HD float box_intersection(const Box& a, const Box& b) {
  return positive(smaller(a.x2, b.x2) - larger(a.x1, b.x1)) * positive(smaller(a.y2, b.y2) - larger(a.y1, b.y1));
}

// intersection / union by division, in this order of operations: the quotient is compared as it is, never rearranged into a
// product, because the two forms round differently. NaN (0 / 0) compares false with every threshold.
FD_HD float iou_of(float intersection, float area_a, float area_b) { return intersection / (area_a + area_b - intersection); }

FD_HD float box_iou(const Box& a, const Box& b) {
  const float intersection = box_intersection(a, b);
  return intersection > 0.0f ? iou_of(intersection, box_area(a), box_area(b)) : 0.0f;
}

}  // namespace fastdet
