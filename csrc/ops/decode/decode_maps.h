// SPDX-License-Identifier: Apache-2.0
// The raw maps of a head: where an anchor's numbers lie, and its box. Anchors are numbered level, prior, row, column.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "ops/decode/decode_math.h"

namespace fastdet {

enum class BoxCode : std::uint8_t { kDfl, kDistance, kAnchors, kCxcywh };

constexpr int kMaxLevels = 8;
constexpr int kMaxPriors = 9;  // anchors of one cell

// One level: logits [B, P, C, H, W] and codes [B, P, K, H, W], any strides (in elements).
struct HeadLevel {
  const void* logits;
  const void* codes;
  std::int64_t logits_stride[5], codes_stride[5];
  std::int64_t priors, height, width;
  std::int64_t first;                // number of its first anchor
  double stride;                     // pixels per cell
  double prior_size[kMaxPriors][2];  // width, height in pixels

  FD_HD std::int64_t anchors() const { return priors * height * width; }
};

struct HeadMaps {
  HeadLevel level[kMaxLevels];
  int levels = 0;
  BoxCode code = BoxCode::kDfl;
  DType dtype = DType::kFloat32;
  bool objectness = false;  // codes hold a fifth number, whose sigmoid multiplies every score
  std::int64_t images = 0, classes = 0, anchors = 0;
  std::int64_t bins = 0;  // of kDfl
  double offset = 0.5;    // of a cell's point, in cells
  double picture_height = 1.0, picture_width = 1.0;

  FD_HD std::int64_t codes_per_anchor() const { return code == BoxCode::kDfl ? 4 * bins : objectness ? 5 : 4; }
};

// Where an anchor lies.
struct AnchorPlace {
  int level;
  std::int64_t prior, y, x;
};

FD_HD AnchorPlace place_of(const HeadMaps& maps, std::int64_t anchor) {
  int level = 0;
  while (level + 1 < maps.levels && anchor >= maps.level[level + 1].first) ++level;
  const HeadLevel& in = maps.level[level];
  const std::int64_t local = anchor - in.first, row = local / in.width;
  return {level, row / in.height, row % in.height, local - row * in.width};
}

template <typename T>
FD_HD const T* logits_at(const HeadLevel& in, std::int64_t image, std::int64_t prior, std::int64_t y, std::int64_t x) {
  const std::int64_t* s = in.logits_stride;
  return static_cast<const T*>(in.logits) + image * s[0] + prior * s[1] + y * s[3] + x * s[4];
}
template <typename T>
FD_HD const T* codes_at(const HeadLevel& in, std::int64_t image, std::int64_t prior, std::int64_t y, std::int64_t x) {
  const std::int64_t* s = in.codes_stride;
  return static_cast<const T*>(in.codes) + image * s[0] + prior * s[1] + y * s[3] + x * s[4];
}

// Images [first, first + count) of a batch.
inline HeadMaps images_of(HeadMaps maps, std::int64_t first, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(item_size(maps.dtype));
  for (int i = 0; i < maps.levels; ++i) {
    HeadLevel& in = maps.level[i];
    in.logits = static_cast<const char*>(in.logits) + first * in.logits_stride[0] * size;
    in.codes = static_cast<const char*>(in.codes) + first * in.codes_stride[0] * size;
  }
  maps.images = count;
  return maps;
}

// The corners of one anchor; codes points at its first number.
template <typename T>
FD_HD Corners<ArithmeticOf<T>> corners_at(const HeadMaps& maps, const HeadLevel& in, const T* codes, std::int64_t prior,
                                          std::int64_t y, std::int64_t x) {
  using R = ArithmeticOf<T>;
  const std::int64_t step = in.codes_stride[2];
  const R stride = static_cast<R>(in.stride), offset = static_cast<R>(maps.offset);
  const R px = static_cast<R>(x) + offset, py = static_cast<R>(y) + offset;
  if (maps.code == BoxCode::kDfl) {
    const Expected<R> e = expected_bins<T>(codes, step, maps.bins);
    const R* d = e.value;
    return distance_corners<R>(px, py, d[0], d[1], d[2], d[3], stride);
  }
  const R a = widen<T>(codes[0]), b = widen<T>(codes[step]), c = widen<T>(codes[2 * step]), d = widen<T>(codes[3 * step]);
  if (maps.code == BoxCode::kDistance) return distance_corners<R>(px, py, a, b, c, d, stride);
  if (maps.code == BoxCode::kCxcywh) {
    return picture_corners<R>(a, b, c, d, static_cast<R>(maps.picture_width), static_cast<R>(maps.picture_height));
  }
  return anchor_corners<R>(sigmoid_exact(a), sigmoid_exact(b), sigmoid_exact(c), sigmoid_exact(d), static_cast<R>(x),
                           static_cast<R>(y), stride, static_cast<R>(in.prior_size[prior][0]),
                           static_cast<R>(in.prior_size[prior][1]));
}

}  // namespace fastdet
