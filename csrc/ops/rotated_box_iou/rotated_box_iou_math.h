// SPDX-License-Identifier: Apache-2.0
// The overlap of one pair of rotated boxes, prepared each by itself, under one interface for both measures.
#pragma once

#include <cstdint>

#include "core/iou_measure.h"
#include "core/rotated_polygon.h"

namespace fastdet::rotated_iou {

constexpr int kNumbers = 5;  // of a box
constexpr std::int64_t kTile = 512, kRows = 64;

enum class Kind : std::uint8_t { kIou, kIof, kProb };

template <typename T>
struct Form {
  IouForm<T> iou;
  bool degrees;
};

template <typename T>
Form<T> form_of(bool degrees) {
  IouRules rules;
  rules.kind = IouKind::kProb;
  rules.format = BoxFormat::kRotated;
  rules.eps = 1e-7;  // as the reference of the probabilistic IoU has it; no floor on the variances
  return {iou_form<T>(rules), degrees};
}

// The area that rectangles have in common over that of their union or of the first. Boxes that are empty or not finite, and
// pairs whose areas leave the range of T, have 0. Which of the two is known when compiling: a choice in a loop over pairs would
// keep it from becoming vector code.
template <typename T, bool kOverFirst>
struct Polygons {
  using Item = PolygonOf<T>;
  using Number = T;
  static constexpr int kFields = kPolygonFields;
  static constexpr bool kLists = true;  // pairs that are near, before they are compared

  FD_HD static Item item(const T (&v)[kNumbers], const Form<T>& form) {
    return polygon_of(RotatedBoxOf<T>{v[0], v[1], v[2], v[3], v[4]}, form.degrees);
  }
  FD_HD static Item at(const T* columns, std::int64_t pitch, std::int64_t i) { return polygon_at(columns, pitch, i); }
  FD_HD static void put(const Item& item, T* columns, std::int64_t pitch, std::int64_t i) {
    polygon_put(item, columns, pitch, i);
  }
  // Of boxes that are near.
  FD_HD static T near_value(const Item& a, const Item& b) {
    const T common = polygon_intersection(a, b), whole = kOverFirst ? a.area : a.area + b.area - common;
    const T quotient = common / whole;
    return (common > T{0}) & is_finite(quotient) ? quotient : T{0};
  }
  FD_HD static bool near(const Item& a, const Item& b) { return circles_touch(b.x - a.x, b.y - a.y, a.radius, b.radius); }
  FD_HD static T value(const Item& a, const Item& b, const Form<T>&) { return near(a, b) ? near_value(a, b) : T{0}; }
};

// The probabilistic IoU of core/rotated_iou.h, of every pair.
template <typename T>
struct Gaussians {
  using Item = GaussianBox<T>;
  using Number = T;
  using Columns = Measure<IouKind::kProb, T>;
  static constexpr int kFields = Columns::kFields;
  static constexpr bool kLists = false;

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

inline Kind kind_of(bool gaussian, bool over_first) { return gaussian ? Kind::kProb : over_first ? Kind::kIof : Kind::kIou; }

template <Kind K, typename T>
struct MeasureOf {
  using type = Polygons<T, K == Kind::kIof>;
};
template <typename T>
struct MeasureOf<Kind::kProb, T> {
  using type = Gaussians<T>;
};

}  // namespace fastdet::rotated_iou
