// SPDX-License-Identifier: Apache-2.0
#include "ops/rotated_box_iou/rotated_box_iou_columns.h"

namespace fastdet::rotated_iou {
namespace {

constexpr int kBlock = 64;  // boxes asked at once whether they are near
constexpr int kLanes = 16;  // near ones compared at once

// Loops as types, so that one switch over kinds serves all of them; everything is inlined into the callers, which are clones.
struct Prepare {
  template <typename M, typename T>
  FD_HD static void run(const Form<T>& form, std::int64_t n, const T* FD_RESTRICT numbers, T* FD_RESTRICT columns) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T row[kNumbers] = {numbers[i], numbers[kTile + i], numbers[2 * kTile + i], numbers[3 * kTile + i],
                               numbers[4 * kTile + i]};
      M::put(M::item(row, form), columns, kTile, i);
    }
  }
};

struct Aligned {
  template <typename M, typename T>
  FD_HD static void run(const Form<T>& form, std::int64_t n, const T* FD_RESTRICT rows, const T* FD_RESTRICT columns,
                        T* FD_RESTRICT out) {
    for (std::int64_t j = 0; j < n; ++j) out[j] = M::value(M::at(rows, kTile, j), M::at(columns, kTile, j), form);
  }
};

// Lists the boxes that are near, a block at a time; returns how many.
template <typename T>
FD_HD int list_near(const PolygonOf<T>& item, std::int64_t n, const T* FD_RESTRICT columns, std::int32_t* FD_RESTRICT listed) {
  const T* xs = columns;
  const T* ys = columns + kTile;
  const T* radii = columns + kPolygonRadius * kTile;
  std::int32_t near[kBlock];
  int count = 0;
  for (std::int64_t start = 0; start < n; start += kBlock) {
    const int size = static_cast<int>(n - start < kBlock ? n - start : kBlock);
    std::int32_t any = 0;
    for (int j = 0; j < size; ++j) {
      const std::int64_t at = start + j;
      near[j] = circles_touch(xs[at] - item.x, ys[at] - item.y, item.radius, radii[at]) ? 1 : 0;
      any |= near[j];
    }
    if (any == 0) continue;
    for (int j = 0; j < size; ++j) {
      listed[count] = static_cast<std::int32_t>(start) + j;
      count += near[j];
    }
  }
  return count;
}

// Rectangles are cut only where they are near, kLanes at a time.
template <typename M, typename T>
FD_HD void near_values(const PolygonOf<T>& item, std::int64_t n, const T* FD_RESTRICT columns, T* FD_RESTRICT out) {
  std::int32_t listed[kTile + kLanes];
  const int count = list_near(item, n, columns, listed);
  for (std::int64_t j = 0; j < n; ++j) out[j] = T{0};
  for (int l = count; l < count + kLanes; ++l) listed[l] = count > 0 ? listed[0] : 0;
  for (int first = 0; first < count; first += kLanes) {
    alignas(64) T lanes[M::kFields * kLanes], found[kLanes];
    for (int f = 0; f < M::kFields; ++f) {
      for (int l = 0; l < kLanes; ++l) lanes[f * kLanes + l] = columns[f * kTile + listed[first + l]];
    }
    for (int l = 0; l < kLanes; ++l) found[l] = M::near_value(item, M::at(lanes, kLanes, l));
    for (int l = 0; l < kLanes; ++l) out[listed[first + l]] = found[l];
  }
}

struct Values {
  template <typename M, typename T>
  FD_HD static void run(const Form<T>& form, const T* rows, std::int64_t row, std::int64_t n, const T* FD_RESTRICT columns,
                        T* FD_RESTRICT out) {
    const typename M::Item item = M::at(rows, kTile, row);
    if constexpr (M::kLists) {
      near_values<M>(item, n, columns, out);
    } else {
      for (std::int64_t j = 0; j < n; ++j) out[j] = M::value(item, M::at(columns, kTile, j), form);
    }
  }
};

template <typename Loop, typename T, typename... Rest>
FD_HD void for_kind(Kind kind, const Form<T>& form, const Rest&... rest) {
  switch (kind) {
    case Kind::kIou: return Loop::template run<typename MeasureOf<Kind::kIou, T>::type>(form, rest...);
    case Kind::kIof: return Loop::template run<typename MeasureOf<Kind::kIof, T>::type>(form, rest...);
    case Kind::kProb: return Loop::template run<typename MeasureOf<Kind::kProb, T>::type>(form, rest...);
  }
}

}  // namespace

FD_TARGET_CLONES
void prepare(Kind kind, const Form<float>& form, std::int64_t n, const float* numbers, float* columns) {
  for_kind<Prepare>(kind, form, n, numbers, columns);
}
void prepare(Kind kind, const Form<double>& form, std::int64_t n, const double* numbers, double* columns) {
  for_kind<Prepare>(kind, form, n, numbers, columns);
}

FD_TARGET_CLONES
void values(Kind kind, const Form<float>& form, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
            float* out) {
  for_kind<Values>(kind, form, rows, row, n, columns, out);
}
void values(Kind kind, const Form<double>& form, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
            double* out) {
  for_kind<Values>(kind, form, rows, row, n, columns, out);
}

FD_TARGET_CLONES
void aligned_values(Kind kind, const Form<float>& form, std::int64_t n, const float* rows, const float* columns, float* out) {
  for_kind<Aligned>(kind, form, n, rows, columns, out);
}
void aligned_values(Kind kind, const Form<double>& form, std::int64_t n, const double* rows, const double* columns, double* out) {
  for_kind<Aligned>(kind, form, n, rows, columns, out);
}

}  // namespace fastdet::rotated_iou
