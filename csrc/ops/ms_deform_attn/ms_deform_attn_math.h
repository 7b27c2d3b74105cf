// SPDX-License-Identifier: Apache-2.0
// One sample: where it lies, what it weighs, its gradients. A is float, or double for double values. No branch, so that loops
// over samples become vector code.
#pragma once

#include <cstdint>

#include "core/numeric.h"

namespace fastdet::ms_deform_attn {

constexpr int kSums = 4;       // sample t is added to partial sum t % 4; the sums are added as (0 + 2) + (1 + 3)
constexpr int kDotWidth = 32;  // product d of a dot over channels is added to partial sum d % 32; those are halved 16, 8, ...

// 1 / x within 2 units for x in [1, 2^20], NaN for NaN, by Newton's iteration, which is less than a division costs on the device,
// where that is a call. The first guess mirrors the exponent (relative error below 0.13).
FD_HD float reciprocal(float x) {
  float r = bit_cast<float>(0x7ef311c7u - bit_cast<std::uint32_t>(x));
  for (int i = 0; i < 4; ++i) r = r + r * (1.0f - x * r);
  return r;
}
FD_HD double reciprocal(double x) {
  double r = bit_cast<double>(0x7fde623822fc16e6u - bit_cast<std::uint64_t>(x));
  for (int i = 0; i < 5; ++i) r = r + r * (1.0 - x * r);
  return r;
}

// Size of a level's map and its first token. A level that does not fit has no pixels.
struct Level {
  std::int32_t width, height, start;
};

FD_HD Level checked_level(std::int64_t height, std::int64_t width, std::int64_t start, std::int64_t tokens) {
  const bool fits = height > 0 && width > 0 && start >= 0 && height <= tokens && width <= tokens && start <= tokens &&
                    height * width <= tokens - start;
  if (!fits) return {0, 0, 0};
  return {static_cast<std::int32_t>(width), static_cast<std::int32_t>(height), static_cast<std::int32_t>(start)};
}

// What samples of a level have in common; computed once.
template <typename A>
struct LevelNumbers {
  Level level;
  A width, height;
  A pixel_x, pixel_y;  // one pixel as a part of the map
  A share;             // one over the number of points of the level: a float32, as detectors keep it, in float64 too
};
template <typename A>
FD_HD LevelNumbers<A> level_numbers(const Level& level, int points) {
  LevelNumbers<A> numbers;
  numbers.level = level;
  numbers.width = static_cast<A>(level.width), numbers.height = static_cast<A>(level.height);
  numbers.pixel_x = level.width > 0 ? A(1) / numbers.width : A(0);
  numbers.pixel_y = level.height > 0 ? A(1) / numbers.height : A(0);
  numbers.share = points > 0 ? static_cast<A>(1.0f / static_cast<float>(points)) : A(0);
  return numbers;
}

// Pixel (x, y) left above the sample, and how far right and down of its centre the sample lies. A sample that does not count
// (out of reach of every pixel, or not a number) has `counts` 0 and lies at (0, 0).
template <typename A>
struct Place {
  std::int32_t x, y, counts;
  A fx, fy;
};

// Bilinear: pixel centres lie at 0.5, 1.5, ...; the range is tested before anything becomes an integer.
template <typename A>
FD_HD Place<A> place_bilinear(A location_x, A location_y, A width, A height) {
  const A x = location_x * width - A(0.5), y = location_y * height - A(0.5);
  const bool counts = (x > A(-1)) & (x < width) & (y > A(-1)) & (y < height) & (width > A(0));
  const A used_x = counts ? x : A(0), used_y = counts ? y : A(0);
  Place<A> place;
  place.x = static_cast<std::int32_t>(used_x);  // towards zero: one too high for a negative fraction
  place.y = static_cast<std::int32_t>(used_y);
  place.x -= static_cast<A>(place.x) > used_x ? 1 : 0;
  place.y -= static_cast<A>(place.y) > used_y ? 1 : 0;
  place.counts = counts ? 1 : 0;
  place.fx = used_x - static_cast<A>(place.x);
  place.fy = used_y - static_cast<A>(place.y);
  return place;
}

// Discrete: the pixel the sample lies in, or the nearest of the map. Only NaN does not count.
template <typename A>
FD_HD Place<A> place_discrete(A location_x, A location_y, A width, A height) {
  const A x = location_x * width + A(0.5), y = location_y * height + A(0.5);
  const bool counts = (x == x) & (y == y) & (width > A(0)) & (height > A(0));
  const A last_x = width - A(1), last_y = height - A(1);
  const A low_x = x > A(0) ? x : A(0), low_y = y > A(0) ? y : A(0);
  const A used_x = low_x < last_x ? low_x : last_x, used_y = low_y < last_y ? low_y : last_y;
  Place<A> place;
  place.x = static_cast<std::int32_t>(counts ? used_x : A(0));
  place.y = static_cast<std::int32_t>(counts ? used_y : A(0));
  place.counts = counts ? 1 : 0;
  place.fx = A(0);
  place.fy = A(0);
  return place;
}

// Corner c = 2 j + i is the pixel i to the right and j below. Its token, or -1 where it is outside the map, left out by a
// sample that does not count, or not used by discrete sampling (all but corner 0).
template <int kCorner, typename A>
FD_HD std::int32_t corner_token(const Place<A>& place, bool discrete, std::int32_t width, std::int32_t height,
                                std::int32_t start) {
  const std::int32_t x = place.x + (kCorner & 1), y = place.y + (kCorner >> 1);
  const bool inside = (place.counts != 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height) & (kCorner == 0 || !discrete);
  const std::uint32_t token = static_cast<std::uint32_t>(start) +
                              static_cast<std::uint32_t>(y) * static_cast<std::uint32_t>(width) +
                              static_cast<std::uint32_t>(x);  // unsigned: not used where it would overflow
  return inside ? static_cast<std::int32_t>(token) : -1;
}

template <int kCorner, typename A>
FD_HD A corner_share(A fx, A fy) {
  return ((kCorner >> 1) != 0 ? fy : A(1) - fy) * ((kCorner & 1) != 0 ? fx : A(1) - fx);
}

// What four pixels add to a sum, each weighed with the sample's weight times its share.
template <typename A>
FD_HD A mix(A w0, A v0, A w1, A v1, A w2, A v2, A w3, A v3) {
  return (w0 * v0 + w1 * v1) + (w2 * v2 + w3 * v3);
}

// Gradients of one sample from the dots of the result's gradient with its four pixels (0 where there is none). `moves`: the
// result depends on the place, as it does for a bilinear sample that counts.
template <typename A>
struct SampleGradient {
  A x, y, weight;
};

template <typename A>
FD_HD SampleGradient<A> sample_gradient(A weight, A fx, A fy, A width, A height, A d0, A d1, A d2, A d3, bool moves) {
  SampleGradient<A> gradient;
  gradient.weight =
      mix(corner_share<0>(fx, fy), d0, corner_share<1>(fx, fy), d1, corner_share<2>(fx, fy), d2, corner_share<3>(fx, fy), d3);
  const A right = (A(1) - fy) * (d1 - d0) + fy * (d3 - d2);
  const A down = (A(1) - fx) * (d2 - d0) + fx * (d3 - d1);
  gradient.x = moves ? width * weight * right : A(0);
  gradient.y = moves ? height * weight * down : A(0);
  return gradient;
}

// Fused: where an offset leads from its reference. Four numbers: centre and size, the offset in sizes divided by the points of
// the level; two numbers: a point, the offset in pixels.
template <typename A>
FD_HD A location_from_box(A center, A size, A offset, A share, A scale) {
  return center + offset * share * size * scale;
}
template <typename A>
FD_HD A location_from_point(A point, A offset, A pixel) {
  return point + offset * pixel;
}
template <typename A>
FD_HD A offset_gradient_of_box(A size, A share, A scale, A gradient) {
  return gradient * share * size * scale;
}
template <typename A>
FD_HD A offset_gradient_of_point(A pixel, A gradient) {
  return gradient * pixel;
}

// Samples are sorted by the pixel left above them; columns and rows of such pixels start at -1. Cells of all levels lie one
// after another; (H + 1) (W + 1) <= 2 H W + 2 bounds their number without looking at the sizes.
FD_HD std::int64_t level_cells(const Level& level) {
  return level.width == 0 ? 0 : (static_cast<std::int64_t>(level.width) + 1) * (static_cast<std::int64_t>(level.height) + 1);
}
FD_HD std::int64_t max_cells(std::int64_t tokens, int levels) { return 2 * tokens + 2 * static_cast<std::int64_t>(levels); }
FD_HD std::int64_t cell_of(const Level& level, std::int32_t x, std::int32_t y) {
  return (static_cast<std::int64_t>(y) + 1) * (static_cast<std::int64_t>(level.width) + 1) + (static_cast<std::int64_t>(x) + 1);
}

}  // namespace fastdet::ms_deform_attn
