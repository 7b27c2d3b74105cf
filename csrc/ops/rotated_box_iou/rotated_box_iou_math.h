// SPDX-License-Identifier: Apache-2.0
// The overlap of one pair of rotated boxes, prepared each by itself, under one interface for both measures.
#pragma once

#include <cstdint>

#include "core/iou_measure.h"
#include "core/rotated_polygon.h"

namespace fastdet::rotated_iou {

constexpr int kNumbers = 5;  // of a box
constexpr std::int64_t kTile = 512, kRows = 64;

template <typename T>
struct Form {
  IouForm<T> iou;
  bool degrees, over_first;
};

template <typename T>
Form<T> form_of(bool degrees, bool over_first) {
  IouRules rules;
  rules.kind = IouKind::kProb;
  rules.format = BoxFormat::kRotated;
  rules.eps = 1e-7;  // as the reference of the probabilistic IoU has it; no floor on the variances
  return {iou_form<T>(rules), degrees, over_first};
}

// The area that rectangles have in common over that of their union or of the first. Boxes that are empty or not finite, and
// pairs whose areas leave the range of T, have 0.
template <typename T>
struct Polygons {
  using Item = PolygonOf<T>;
  using Number = T;
  static constexpr int kFields = kPolygonFields;

  FD_HD static Item item(const T (&v)[kNumbers], const Form<T>& form) {
    return polygon_of(RotatedBoxOf<T>{v[0], v[1], v[2], v[3], v[4]}, form.degrees);
  }
  FD_HD static Item at(const T* columns, std::int64_t pitch, std::int64_t i) { return polygon_at(columns, pitch, i); }
  FD_HD static void put(const Item& item, T* columns, std::int64_t pitch, std::int64_t i) {
    polygon_put(item, columns, pitch, i);
  }
  // Of boxes that are near.
  FD_HD static T near_value(const Item& a, const Item& b, const Form<T>& form) {
    const T common = polygon_intersection(a, b), whole = form.over_first ? a.area : a.area + b.area - common;
    const T quotient = common / whole;
    return (common > T{0}) & is_finite(quotient) ? quotient : T{0};
  }
  FD_HD static bool near(const Item& a, const Item& b) { return circles_touch(b.x - a.x, b.y - a.y, a.radius, b.radius); }
  FD_HD static T value(const Item& a, const Item& b, const Form<T>& form) { return near(a, b) ? near_value(a, b, form) : T{0}; }
};

// The probabilistic IoU of core/rotated_iou.h, of every pair.
template <typename T>
struct Gaussians {
  using Item = GaussianBox<T>;
  using Number = T;
  using Columns = Measure<IouKind::kProb, T>;
  static constexpr int kFields = Columns::kFields;

  FD_HD static Item item(const T (&v)[kNumbers], const Form<T>& form) {
    const RotatedBoxOf<T> box{v[0], v[1], v[2], v[3], v[4]};
    T sine, cosine;
    rotated_turn(box_finite(box) ? box.angle : T{0}, form.degrees, &sine, &cosine);
    return gaussian_box_turned(box, sine, cosine, form.iou);
  }
  FD_HD static Item at(const T* columns, std::int64_t pitch, std::int64_t i) { return Columns::at(columns, pitch, i); }
  FD_HD static void put(const Item& item, T* columns, std::int64_t pitch, std::int64_t i) {
    Columns::put(item, columns, pitch, i);
  }
  FD_HD static T value(const Item& a, const Item& b, const Form<T>& form) { return gaussian_overlap(a, b, form.iou); }
};

}  // namespace fastdet::rotated_iou
