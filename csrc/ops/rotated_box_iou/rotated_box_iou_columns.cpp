// SPDX-License-Identifier: Apache-2.0
#include "ops/rotated_box_iou/rotated_box_iou_columns.h"

namespace fastdet::rotated_iou {
namespace {

constexpr int kBlock = 64;  // boxes asked at once whether they are near
constexpr int kLanes = 16;  // near ones compared at once

template <typename M, typename T>
FD_HD void prepare_loop(const Form<T>& form, std::int64_t n, const T* FD_RESTRICT numbers, T* FD_RESTRICT columns) {
  for (std::int64_t i = 0; i < n; ++i) {
    const T row[kNumbers] = {numbers[i], numbers[kTile + i], numbers[2 * kTile + i], numbers[3 * kTile + i],
                             numbers[4 * kTile + i]};
    M::put(M::item(row, form), columns, kTile, i);
  }
}

template <typename M, typename T>
FD_HD void aligned_loop(const Form<T>& form, std::int64_t n, const T* FD_RESTRICT rows, const T* FD_RESTRICT columns,
                        T* FD_RESTRICT out) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = M::value(M::at(rows, kTile, j), M::at(columns, kTile, j), form);
}

template <typename T>
FD_HD void gaussian_loop(const Form<T>& form, const T* rows, std::int64_t row, std::int64_t n, const T* FD_RESTRICT columns,
                         T* FD_RESTRICT out) {
  using M = Gaussians<T>;
  const typename M::Item item = M::at(rows, kTile, row);
  for (std::int64_t j = 0; j < n; ++j) out[j] = M::value(item, M::at(columns, kTile, j), form);
}

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
template <typename T>
FD_HD void polygon_loop(const Form<T>& form, const T* rows, std::int64_t row, std::int64_t n, const T* FD_RESTRICT columns,
                        T* FD_RESTRICT out) {
  using M = Polygons<T>;
  const PolygonOf<T> item = M::at(rows, kTile, row);
  std::int32_t listed[kTile + kLanes];
  const int count = list_near(item, n, columns, listed);
  for (std::int64_t j = 0; j < n; ++j) out[j] = T{0};
  for (int l = count; l < count + kLanes; ++l) listed[l] = count > 0 ? listed[0] : 0;
  for (int first = 0; first < count; first += kLanes) {
    alignas(64) T lanes[M::kFields * kLanes], found[kLanes];
    for (int f = 0; f < M::kFields; ++f) {
      for (int l = 0; l < kLanes; ++l) lanes[f * kLanes + l] = columns[f * kTile + listed[first + l]];
    }
    for (int l = 0; l < kLanes; ++l) found[l] = M::near_value(item, M::at(lanes, kLanes, l), form);
    for (int l = 0; l < kLanes; ++l) out[listed[first + l]] = found[l];
  }
}

}  // namespace

FD_TARGET_CLONES
void prepare(bool gaussian, const Form<float>& form, std::int64_t n, const float* numbers, float* columns) {
  if (gaussian) return prepare_loop<Gaussians<float>>(form, n, numbers, columns);
  prepare_loop<Polygons<float>>(form, n, numbers, columns);
}
void prepare(bool gaussian, const Form<double>& form, std::int64_t n, const double* numbers, double* columns) {
  if (gaussian) return prepare_loop<Gaussians<double>>(form, n, numbers, columns);
  prepare_loop<Polygons<double>>(form, n, numbers, columns);
}

FD_TARGET_CLONES
void values(bool gaussian, const Form<float>& form, const float* rows, std::int64_t row, std::int64_t n, const float* columns,
            float* out) {
  if (gaussian) return gaussian_loop(form, rows, row, n, columns, out);
  polygon_loop(form, rows, row, n, columns, out);
}
void values(bool gaussian, const Form<double>& form, const double* rows, std::int64_t row, std::int64_t n, const double* columns,
            double* out) {
  if (gaussian) return gaussian_loop(form, rows, row, n, columns, out);
  polygon_loop(form, rows, row, n, columns, out);
}

FD_TARGET_CLONES
void aligned_values(bool gaussian, const Form<float>& form, std::int64_t n, const float* rows, const float* columns, float* out) {
  if (gaussian) return aligned_loop<Gaussians<float>>(form, n, rows, columns, out);
  aligned_loop<Polygons<float>>(form, n, rows, columns, out);
}
void aligned_values(bool gaussian, const Form<double>& form, std::int64_t n, const double* rows, const double* columns,
                    double* out) {
  if (gaussian) return aligned_loop<Gaussians<double>>(form, n, rows, columns, out);
  aligned_loop<Polygons<double>>(form, n, rows, columns, out);
}

}  // namespace fastdet::rotated_iou
