// SPDX-License-Identifier: Apache-2.0
// The IoU family with gradients, for host and device: IoU, GIoU, DIoU and CIoU of boxes, one pair at a time, without branches
// over values so that loops over it vectorise. Formulas and sources: docs/ops/box_iou.md. T is float or double.
//
// What each box contributes alone is computed once, in an OverlapBox; a box that is not finite becomes one of NaN, which ends as
// similarity 0 and gradient 0. Gradients follow the plain rule where two coordinates are equal: each owns half of the corner.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/iou_rules.h"
#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

// IouRules as the formulas use them: added, and a lower limit; nothing is chosen at run time.
template <typename T>
struct IouForm {
  T union_add, union_min;          // on the area of the union
  T enclosing_add, enclosing_min;  // on the enclosing area (GIoU) or squared diagonal (DIoU, CIoU)
  T width_add, height_add;         // on the sides, for areas and aspect
  T eps;                           // in CIoU's alpha; everywhere in the probabilistic IoU
  T variance_add;                  // on both variances of the probabilistic IoU
  T alpha_moves;                   // 0: alpha is a constant; 1: it has a gradient too
};

template <typename T>
IouForm<T> iou_form(const IouRules& rules) {
  const T eps = static_cast<T>(rules.eps);
  const auto add = [&](EpsUse use) { return use == EpsUse::kAdd ? eps : T{0}; };
  const auto min = [&](EpsUse use) { return use == EpsUse::kClamp ? eps : T{0}; };
  const T height = rules.eps_sides != EpsSides::kNone ? eps : T{0}, width = rules.eps_sides == EpsSides::kBoth ? eps : T{0};
  return {add(rules.eps_union),
          min(rules.eps_union),
          add(rules.eps_enclosing),
          min(rules.eps_enclosing),
          width,
          height,
          eps,
          static_cast<T>(rules.variance_eps),
          rules.detach_alpha ? T{0} : T{1}};
}

template <typename T>
FD_HD T not_a_number() {
  return static_cast<T>(bit_cast<float>(0x7fc00000u));
}

// Four numbers of a row in one of the formats, as corners; and the way back for a gradient.
template <typename T>
FD_HD BoxOf<T> corners_of(BoxFormat format, T a, T b, T c, T d) {
  const bool corner = format == BoxFormat::kXywh, centre = format == BoxFormat::kCxcywh;
  const T half_w = c * T{0.5}, half_h = d * T{0.5};
  const T right = centre ? a + half_w : a + c, bottom = centre ? b + half_h : b + d;
  return {centre ? a - half_w : a, centre ? b - half_h : b, corner | centre ? right : c, corner | centre ? bottom : d};
}
template <typename T>
FD_HD BoxOf<T> gradient_in_format(BoxFormat format, const BoxOf<T>& g) {
  const bool corner = format == BoxFormat::kXywh, centre = format == BoxFormat::kCxcywh;
  const T half_x = (g.x2 - g.x1) * T{0.5}, half_y = (g.y2 - g.y1) * T{0.5};
  return {corner | centre ? g.x1 + g.x2 : g.x1, corner | centre ? g.y1 + g.y2 : g.y1, centre ? half_x : g.x2,
          centre ? half_y : g.y2};
}

template <typename T>
struct OverlapBox {
  T x1, y1, x2, y2;
  T area;
  T aspect;  // atan(w / h), for CIoU
};

template <IouKind K, typename T>
FD_HD OverlapBox<T> overlap_box(const BoxOf<T>& given, const IouForm<T>& form) {
  // An axis that is inverted counts as its middle, so that the enclosing box holds the centre.
  const T middle_x = (given.x1 + given.x2) * T{0.5}, middle_y = (given.y1 + given.y2) * T{0.5};
  const bool turned_x = given.x2 < given.x1, turned_y = given.y2 < given.y1;
  const BoxOf<T> box = {turned_x ? middle_x : given.x1, turned_y ? middle_y : given.y1, turned_x ? middle_x : given.x2,
                        turned_y ? middle_y : given.y2};
  const T w = positive(box.x2 - box.x1) + form.width_add, h = positive(box.y2 - box.y1) + form.height_add;
  const T aspect = K == IouKind::kCiou ? atan_of_ratio(w, h) : T{0};
  const T none = not_a_number<T>();
  const bool finite = box_finite(given);
  return {finite ? box.x1 : none, finite ? box.y1 : none, finite ? box.x2 : none,
          finite ? box.y2 : none, finite ? w * h : none,  finite ? aspect : none};
}

// Where a divisor is 0, so is what it divides: the quotient is then 0 too.
template <typename T>
FD_HD T divided(T value, T divisor) {
  return value / (divisor == T{0} ? T{1} : divisor);
}

// Terms that the value and its gradient share.
template <typename T>
struct OverlapTerms {
  T iw, ih, inter, whole, iou;   // intersection, union with its eps
  T cw, ch, outer;               // enclosing box; its area or squared diagonal with its eps
  T dx, dy, apart;               // between centres; squared distance / squared diagonal
  T turn, aspect, alpha, value;  // CIoU: difference of angles, v, alpha; the similarity
};

template <IouKind K, typename T>
FD_HD OverlapTerms<T> overlap_terms(const OverlapBox<T>& a, const OverlapBox<T>& b, const IouForm<T>& form) {
  OverlapTerms<T> t = {};
  t.iw = positive(smaller(a.x2, b.x2) - larger(a.x1, b.x1));
  t.ih = positive(smaller(a.y2, b.y2) - larger(a.y1, b.y1));
  t.inter = t.iw * t.ih;
  t.whole = larger(a.area + b.area - t.inter + form.union_add, form.union_min);
  t.iou = divided(t.inter, t.whole);
  t.value = t.iou;
  if (K == IouKind::kIou) return t;
  t.cw = positive(larger(a.x2, b.x2) - smaller(a.x1, b.x1));
  t.ch = positive(larger(a.y2, b.y2) - smaller(a.y1, b.y1));
  const T extent = K == IouKind::kGiou ? t.cw * t.ch : t.cw * t.cw + t.ch * t.ch;
  t.outer = larger(extent + form.enclosing_add, form.enclosing_min);
  if (K != IouKind::kGiou) {
    t.dx = ((b.x1 + b.x2) - (a.x1 + a.x2)) * T{0.5};
    t.dy = ((b.y1 + b.y2) - (a.y1 + a.y2)) * T{0.5};
  }
  const T excess = K == IouKind::kGiou ? t.outer - t.whole : t.dx * t.dx + t.dy * t.dy;
  t.apart = divided(excess, t.outer);
  t.value = t.iou - t.apart;
  if (K != IouKind::kCiou) return t;
  t.turn = b.aspect - a.aspect;
  t.aspect = static_cast<T>(0.40528473456935109) * (t.turn * t.turn);  // 4 / pi^2
  t.alpha = divided(t.aspect, T{1} - t.iou + t.aspect + form.eps);
  t.value = t.value - t.alpha * t.aspect;
  return t;
}

// The similarity; 0 where it is no finite number.
template <IouKind K, typename T>
FD_HD T overlap(const OverlapBox<T>& a, const OverlapBox<T>& b, const IouForm<T>& form) {
  const T value = overlap_terms<K>(a, b, form).value;
  return is_finite(value) ? value : T{0};
}

// Share of a coordinate that the first of two boxes has in their maximum: 1, 0, or 1/2 where they are equal.
template <typename T>
FD_HD T share_of_maximum(T a, T b) {
  return a > b ? T{1} : (a == b ? T{0.5} : T{0});
}

// How the similarity changes with what it is made of.
template <typename T>
struct OverlapSlopes {
  T inter, area;           // intersection; area of either box
  T cw, ch, dx, dy, turn;  // enclosing sides, distance of centres, difference of angles
};

template <IouKind K, typename T>
FD_HD OverlapSlopes<T> overlap_slopes(const OverlapTerms<T>& t, const IouForm<T>& form) {
  OverlapSlopes<T> s = {};
  // Where a lower limit holds, nothing passes.
  const T whole_passes = (t.whole > form.union_min) | (form.union_min == T{0}) ? T{1} : T{0};
  const T outer_passes = (t.outer > form.enclosing_min) | (form.enclosing_min == T{0}) ? T{1} : T{0};
  const T through_alpha = K == IouKind::kCiou ? T{1} - form.alpha_moves * (t.alpha * t.alpha) : T{1};
  const T by_whole = through_alpha / t.whole;
  s.area = -(t.iou * whole_passes) * by_whole;
  s.inter = by_whole - s.area;
  if (K == IouKind::kIou) return s;
  const T by_outer = T{1} / t.outer;
  if (K == IouKind::kGiou) {  // iou - 1 + whole / outer
    const T per_whole = whole_passes * by_outer, per_outer = -(t.whole * by_outer) * by_outer * outer_passes;
    s.inter -= per_whole;
    s.area += per_whole;
    s.cw = per_outer * t.ch;
    s.ch = per_outer * t.cw;
    return s;
  }
  const T per_outer = T{2} * (t.apart * by_outer) * outer_passes;
  s.cw = per_outer * t.cw;
  s.ch = per_outer * t.ch;
  s.dx = T{-2} * (t.dx * by_outer);
  s.dy = T{-2} * (t.dy * by_outer);
  if (K == IouKind::kCiou) {
    const T per_aspect = t.alpha + form.alpha_moves * (t.alpha * (T{1} - t.alpha));
    s.turn = per_aspect * (static_cast<T>(-0.81056946913870217) * t.turn);  // -8 / pi^2
  }
  return s;
}

// The similarity of a and b, and its gradient for the corners of both: 0 for both where a box has no area or is not finite, or
// where a component leaves the range of T.
template <IouKind K, typename T>
FD_HD T overlap_gradient(const OverlapBox<T>& a, const OverlapBox<T>& b, const IouForm<T>& form, BoxOf<T>* grad_a,
                         BoxOf<T>* grad_b) {
  const OverlapTerms<T> t = overlap_terms<K>(a, b, form);
  const OverlapSlopes<T> s = overlap_slopes<K>(t, form);
  const T meets = t.inter > T{0} ? T{1} : T{0};
  const T by_iw = (s.inter * t.ih) * meets, by_ih = (s.inter * t.iw) * meets;
  // The inner of two coordinates bounds the intersection, the outer one the enclosing box.
  const T left = share_of_maximum(a.x1, b.x1), top = share_of_maximum(a.y1, b.y1);
  const T right = share_of_maximum(b.x2, a.x2), bottom = share_of_maximum(b.y2, a.y2);
  const T half_dx = s.dx * T{0.5}, half_dy = s.dy * T{0.5};
  const auto side = [&](const OverlapBox<T>& box, T l, T o, T r, T u, T sign) {
    const T w = positive(box.x2 - box.x1) + form.width_add, h = positive(box.y2 - box.y1) + form.height_add;
    T by_w = s.area * h, by_h = s.area * w;
    if (K == IouKind::kCiou) {
      const T per_side = sign * s.turn / (w * w + h * h);
      by_w = by_w + per_side * h;
      by_h = by_h - per_side * w;
    }
    const T mx = sign * half_dx, my = sign * half_dy;
    return BoxOf<T>{mx - by_w - by_iw * l - s.cw * (T{1} - l), my - by_h - by_ih * o - s.ch * (T{1} - o),
                    mx + by_w + by_iw * r + s.cw * (T{1} - r), my + by_h + by_ih * u + s.ch * (T{1} - u)};
  };
  const BoxOf<T> ga = side(a, left, top, right, bottom, T{-1});
  const BoxOf<T> gb = side(b, T{1} - left, T{1} - top, T{1} - right, T{1} - bottom, T{1});
  const T all = (ga.x1 + ga.y1) + (ga.x2 + ga.y2) + ((gb.x1 + gb.y1) + (gb.x2 + gb.y2));
  const bool sound = (a.x2 > a.x1) & (a.y2 > a.y1) & (b.x2 > b.x1) & (b.y2 > b.y1) & is_finite(all) & is_finite(t.value);
  const auto kept = [sound](T value) { return sound ? value : T{0}; };
  *grad_a = {kept(ga.x1), kept(ga.y1), kept(ga.x2), kept(ga.y2)};
  *grad_b = {kept(gb.x1), kept(gb.y1), kept(gb.x2), kept(gb.y2)};
  return is_finite(t.value) ? t.value : T{0};
}

}  // namespace fastdet
