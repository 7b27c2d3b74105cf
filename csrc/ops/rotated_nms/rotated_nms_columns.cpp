// SPDX-License-Identifier: Apache-2.0
#include "ops/rotated_nms/rotated_nms_columns.h"

namespace fastdet::rotated {
namespace {

constexpr int kBlock = 64;  // boxes asked at once whether they are near
constexpr int kLanes = 16;  // near ones compared at once
constexpr int kRoom = kBlock + kLanes;

template <typename M>
FD_HD void prepare_columns(const RotatedRule& rule, std::int64_t n, const float* FD_RESTRICT numbers, float* FD_RESTRICT columns,
                           std::int64_t pitch) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float row[5] = {numbers[i], numbers[kPrepared + i], numbers[2 * kPrepared + i], numbers[3 * kPrepared + i],
                          numbers[4 * kPrepared + i]};
    M::put(M::prepare(row, rule), columns, pitch, i);
  }
}

// Compares kLanes boxes, listed in `near`, with the candidate.
template <typename M>
FD_HD bool any_above(const RotatedRule& rule, const float* better, std::int64_t pitch, const std::int32_t* near,
                     const typename M::Item& candidate) {
  alignas(64) float lanes[M::kFields * kLanes];
  for (int f = 0; f < M::kFields; ++f) {
    for (int l = 0; l < kLanes; ++l) lanes[f * kLanes + l] = better[f * pitch + near[l]];
  }
  std::int32_t hits = 0;
  for (int l = 0; l < kLanes; ++l) hits |= M::above(M::at(lanes, kLanes, l), candidate, rule) ? 1 : 0;
  return hits != 0;
}

// Near boxes are listed first, a block at a time, and compared as soon as there are enough of them to fill a vector.
template <typename M>
FD_HD bool falls_to(const RotatedRule& rule, const float* better, std::int64_t better_pitch, std::int64_t begin, std::int64_t end,
                    const float* columns, std::int64_t pitch, std::int64_t i) {
  const typename M::Item candidate = M::at(columns, pitch, i);
  const float x = columns[i], y = columns[pitch + i], reach = M::reach(candidate);
  const float* xs = better;
  const float* ys = better + better_pitch;
  const float* reaches = better + M::kReachField * better_pitch;
  std::int32_t listed[kRoom], near[kBlock];
  int count = 0;
  for (std::int64_t start = begin; start < end; start += kBlock) {
    const int size = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    std::int32_t any = 0;
    for (int j = 0; j < size; ++j) {
      const std::int64_t at = start + j;
      near[j] = M::near(x - xs[at], y - ys[at], reaches[at], reach, rule) ? 1 : 0;
      any |= near[j];
    }
    if (any == 0) continue;
    for (int j = 0; j < size; ++j) {
      listed[count] = static_cast<std::int32_t>(start - begin) + j;
      count += near[j];
    }
    while (count >= kLanes) {
      count -= kLanes;
      if (any_above<M>(rule, better + begin, better_pitch, listed + count, candidate)) return true;
    }
  }
  if (count == 0) return false;
  for (int l = count; l < kLanes; ++l) listed[l] = listed[0];
  return any_above<M>(rule, better + begin, better_pitch, listed, candidate);
}

FD_TARGET_CLONES bool falls_to_polygon(const RotatedRule& rule, const float* better, std::int64_t better_pitch,
                                       std::int64_t begin, std::int64_t end, const float* columns, std::int64_t pitch,
                                       std::int64_t i) {
  return falls_to<PolygonMeasure>(rule, better, better_pitch, begin, end, columns, pitch, i);
}
FD_TARGET_CLONES bool falls_to_gaussian(const RotatedRule& rule, const float* better, std::int64_t better_pitch,
                                        std::int64_t begin, std::int64_t end, const float* columns, std::int64_t pitch,
                                        std::int64_t i) {
  return falls_to<GaussianMeasure>(rule, better, better_pitch, begin, end, columns, pitch, i);
}

FD_TARGET_CLONES void prepare_polygons(const RotatedRule& rule, std::int64_t n, const float* numbers, float* columns,
                                       std::int64_t pitch) {
  prepare_columns<PolygonMeasure>(rule, n, numbers, columns, pitch);
}
FD_TARGET_CLONES void prepare_gaussians(const RotatedRule& rule, std::int64_t n, const float* numbers, float* columns,
                                        std::int64_t pitch) {
  prepare_columns<GaussianMeasure>(rule, n, numbers, columns, pitch);
}

}  // namespace

void prepare(bool gaussian, const RotatedRule& rule, std::int64_t n, const float* numbers, float* columns, std::int64_t pitch) {
  (gaussian ? prepare_gaussians : prepare_polygons)(rule, n, numbers, columns, pitch);
}

bool falls(bool gaussian, const RotatedRule& rule, const float* better, std::int64_t better_pitch, std::int64_t begin,
           std::int64_t end, const float* columns, std::int64_t pitch, std::int64_t i) {
  return (gaussian ? falls_to_gaussian : falls_to_polygon)(rule, better, better_pitch, begin, end, columns, pitch, i);
}

}  // namespace fastdet::rotated
