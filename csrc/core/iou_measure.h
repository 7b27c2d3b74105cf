// SPDX-License-Identifier: Apache-2.0
// One interface over the IoU family, so that each loop and kernel is written once: Measure<kind, T> prepares a row of numbers as
// an Item, compares two Items, and keeps Items as columns of arrays for loops that vectorise.
#pragma once

#include "core/iou.h"
#include "core/rotated_iou.h"
#include "core/tensor_load.h"

namespace fastdet {

template <IouKind K, typename T>
struct Measure {
  static constexpr int kNumbers = 4, kFields = 6;
  using Item = OverlapBox<T>;

  FD_HD static Item item(BoxFormat format, const T (&v)[kNumbers], const IouForm<T>& form) {
    return overlap_box<K>(corners_of(format, v[0], v[1], v[2], v[3]), form);
  }
  FD_HD static T value(const Item& a, const Item& b, const IouForm<T>& form) { return overlap<K>(a, b, form); }
  FD_HD static T gradient(BoxFormat format, const Item& a, const Item& b, const IouForm<T>& form, T (&grad_a)[kNumbers],
                          T (&grad_b)[kNumbers]) {
    BoxOf<T> ga, gb;
    const T value = overlap_gradient<K>(a, b, form, &ga, &gb);
    spread(gradient_in_format(format, ga), grad_a);
    spread(gradient_in_format(format, gb), grad_b);
    return value;
  }
  // Column f of item i stands at columns[f * pitch + i].
  FD_HD static Item at(const T* columns, std::int64_t pitch, std::int64_t i) {
    const T* c = columns + i;
    return {c[0], c[pitch], c[2 * pitch], c[3 * pitch], c[4 * pitch], c[5 * pitch]};
  }
  FD_HD static void put(const Item& item, T* columns, std::int64_t pitch, std::int64_t i) {
    T* c = columns + i;
    c[0] = item.x1, c[pitch] = item.y1, c[2 * pitch] = item.x2, c[3 * pitch] = item.y2;
    c[4 * pitch] = item.area, c[5 * pitch] = item.aspect;
  }

 private:
  FD_HD static void spread(const BoxOf<T>& g, T (&out)[kNumbers]) { out[0] = g.x1, out[1] = g.y1, out[2] = g.x2, out[3] = g.y2; }
};

template <typename T>
struct Measure<IouKind::kProb, T> {
  static constexpr int kNumbers = 5, kFields = 11;
  using Item = GaussianBox<T>;

  FD_HD static Item item(BoxFormat, const T (&v)[kNumbers], const IouForm<T>& form) {
    return gaussian_box(RotatedBoxOf<T>{v[0], v[1], v[2], v[3], v[4]}, form);
  }
  FD_HD static T value(const Item& a, const Item& b, const IouForm<T>& form) { return gaussian_overlap(a, b, form); }
  FD_HD static T gradient(BoxFormat, const Item& a, const Item& b, const IouForm<T>& form, T (&grad_a)[kNumbers],
                          T (&grad_b)[kNumbers]) {
    RotatedBoxOf<T> ga, gb;
    const T value = gaussian_gradient(a, b, form, &ga, &gb);
    spread(ga, grad_a);
    spread(gb, grad_b);
    return value;
  }
  FD_HD static Item at(const T* columns, std::int64_t pitch, std::int64_t i) {
    const T* c = columns + i;
    return {c[0],         c[pitch],     c[2 * pitch], c[3 * pitch], c[4 * pitch], c[5 * pitch],
            c[6 * pitch], c[7 * pitch], c[8 * pitch], c[9 * pitch], c[10 * pitch]};
  }
  FD_HD static void put(const Item& item, T* columns, std::int64_t pitch, std::int64_t i) {
    T* c = columns + i;
    c[0] = item.x, c[pitch] = item.y, c[2 * pitch] = item.along, c[3 * pitch] = item.across;
    c[4 * pitch] = item.cosine, c[5 * pitch] = item.sine, c[6 * pitch] = item.a, c[7 * pitch] = item.b;
    c[8 * pitch] = item.c, c[9 * pitch] = item.w, c[10 * pitch] = item.h;
  }

 private:
  FD_HD static void spread(const RotatedBoxOf<T>& g, T (&out)[kNumbers]) {
    out[0] = g.x, out[1] = g.y, out[2] = g.w, out[3] = g.h, out[4] = g.angle;
  }
};

template <IouKind K>
struct KindTag {
  static constexpr IouKind kind = K;
};

// Calls visit(KindTag<kind>{}).
template <typename Visit>
decltype(auto) dispatch_iou(IouKind kind, Visit&& visit) {
  switch (kind) {
    case IouKind::kIou: return visit(KindTag<IouKind::kIou>{});
    case IouKind::kGiou: return visit(KindTag<IouKind::kGiou>{});
    case IouKind::kDiou: return visit(KindTag<IouKind::kDiou>{});
    case IouKind::kCiou: return visit(KindTag<IouKind::kCiou>{});
    default: return visit(KindTag<IouKind::kProb>{});
  }
}

}  // namespace fastdet
