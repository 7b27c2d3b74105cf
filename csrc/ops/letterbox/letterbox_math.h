// SPDX-License-Identifier: Apache-2.0
// What decides a pixel, for CPU and CUDA: taps and weights of OpenCV's 8-bit bilinear filter and of Pillow's antialiased one,
// their roundings, and the normalisation. Positions and weights are computed in the precision the libraries use.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

// ---- OpenCV INTER_LINEAR, uint8: weights in 1/2048, rounded half to even ----

struct LinearTaps {
  std::int32_t index0, index1;  // source positions, inside the picture
  std::int32_t weight0, weight1;
};

// Output position -> source position and the two weights, before the border rules.
FD_HD LinearTaps linear_taps(std::int32_t position, std::int32_t source, std::int32_t target) {
  const double step = 1.0 / (static_cast<double>(target) / static_cast<double>(source));
  const float centre = static_cast<float>((static_cast<double>(position) + 0.5) * step - 0.5);
  const float whole = floorf(centre);
  const float fraction = centre - whole;
  const auto index = static_cast<std::int32_t>(whole);
  return {index, index + 1, static_cast<std::int32_t>(rintf((1.0f - fraction) * 2048.0f)),
          static_cast<std::int32_t>(rintf(fraction * 2048.0f))};
}

// Columns: at a border the nearest column gets all the weight.
FD_HD LinearTaps linear_column(std::int32_t x, std::int32_t source, std::int32_t target) {
  const LinearTaps taps = linear_taps(x, source, target);
  if (taps.index0 < 0) return {0, 0, 2048, 0};
  if (taps.index0 >= source - 1) return {source - 1, source - 1, 2048, 0};
  return taps;
}

// Rows: at a border the weights stay and the rows are clamped. Not the same after the truncations below.
FD_HD LinearTaps linear_row(std::int32_t y, std::int32_t source, std::int32_t target) {
  const auto clamp = [source](std::int32_t i) { return i < 0 ? 0 : i >= source ? source - 1 : i; };
  const LinearTaps taps = linear_taps(y, source, target);
  return {clamp(taps.index0), clamp(taps.index1), taps.weight0, taps.weight1};
}

// Horizontal sum of two pixels, without its low 4 bits: at most 255 * 2049 / 16, so that it fits 16 bits.
FD_HD std::int32_t linear_sum(std::int32_t pixel0, std::int32_t pixel1, const LinearTaps& column) {
  return (pixel0 * column.weight0 + pixel1 * column.weight1) >> 4;
}
FD_HD std::uint8_t linear_blend(std::int32_t sum0, std::int32_t sum1, std::int32_t weight0, std::int32_t weight1) {
  return static_cast<std::uint8_t>((((weight0 * sum0) >> 16) + ((weight1 * sum1) >> 16) + 2) >> 2);
}

// ---- Pillow BILINEAR: triangle filter whose support grows with the reduction; weights in 2^-22, uint8 after each pass ----

constexpr int kPillowBits = 22;

struct PillowWindow {
  std::int32_t begin, size;  // source positions [begin, begin + size)
};

FD_HD double pillow_support(std::int32_t source, std::int32_t target) {
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  return scale < 1.0 ? 1.0 : scale;
}

// Upper bound of PillowWindow::size.
FD_HD std::int32_t pillow_max_taps(std::int32_t source, std::int32_t target) {
  return static_cast<std::int32_t>(ceil(pillow_support(source, target))) * 2 + 1;
}

// Fills weights[0 .. size).
FD_HD PillowWindow pillow_window(std::int32_t position, std::int32_t source, std::int32_t target, std::int32_t* weights) {
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  const double support = pillow_support(source, target);
  const double centre = (position + 0.5) * scale;
  const double inverse = 1.0 / support;
  auto begin = static_cast<std::int32_t>(centre - support + 0.5);
  auto end = static_cast<std::int32_t>(centre + support + 0.5);
  begin = begin < 0 ? 0 : begin;
  end = end > source ? source : end;
  const auto weight = [=](std::int32_t i) {
    const double distance = fabs((i - centre + 0.5) * inverse);
    return distance < 1.0 ? 1.0 - distance : 0.0;
  };
  double total = 0.0;
  for (std::int32_t i = begin; i < end; ++i) total += weight(i);
  for (std::int32_t i = begin; i < end; ++i) {
    const double share = total == 0.0 ? 0.0 : weight(i) / total;
    weights[i - begin] = static_cast<std::int32_t>(0.5 + share * (1 << kPillowBits));
  }
  return {begin, end - begin};
}

// Windows and weights of one axis, laid out in a piece of memory of pillow_entries(source, target) words.
struct PillowTable {
  PillowWindow* windows;  // [target]
  std::int32_t* weights;  // [target, taps]
  std::int32_t taps;
};

FD_HD std::int64_t pillow_entries(std::int32_t source, std::int32_t target) {
  return (2 + std::int64_t{pillow_max_taps(source, target)}) * target;
}
FD_HD PillowTable pillow_table(std::int32_t* memory, std::int32_t source, std::int32_t target) {
  return {reinterpret_cast<PillowWindow*>(memory), memory + 2 * std::int64_t{target}, pillow_max_taps(source, target)};
}

FD_HD std::uint8_t pillow_round(std::int32_t sum) {
  const std::int32_t value = (sum + (1 << (kPillowBits - 1))) >> kPillowBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Order of the two passes in Pillow 13, found by comparing results: it matters, because the first pass rounds to uint8.
FD_HD bool pillow_vertical_first(std::int32_t height, std::int32_t width, std::int32_t new_height, std::int32_t new_width) {
  const std::int64_t rows_less = static_cast<std::int64_t>(height) - new_height;
  const std::int64_t columns_less = static_cast<std::int64_t>(width) - new_width;
  return rows_less > 0 && rows_less > 2 * columns_less;
}

// ---- normalisation: float32, (value / 255 - mean) / std, every operation rounded once ----

// value / 255 without a division: 1/255 split so that value * kUnitHigh is exact and only the sum rounds.
constexpr float kUnitHigh = 0x1.01p-8f;
constexpr float kUnitLow = 0x1.010102p-24f;

FD_HD constexpr float unit_value(float value) { return value * kUnitHigh + value * kUnitLow; }

constexpr bool unit_value_is_division() {
  for (int value = 0; value < 256; ++value) {
    if (unit_value(static_cast<float>(value)) != static_cast<float>(value) / 255.0f) return false;
  }
  return true;
}
static_assert(unit_value_is_division(), "unit_value must equal the float32 quotient for every uint8");

// Coefficients of one channel: value * high + value * low, then (x - mean) / std.
struct Normalisation {
  float high, low, mean, std;
  bool affine;

  FD_HD float operator()(std::uint8_t pixel) const {
    const auto value = static_cast<float>(pixel);
    const float x = value * high + value * low;
    return affine ? (x - mean) / std : x;
  }
};

inline Normalisation letterbox_normalisation(bool scale, bool affine, float mean, float std) {
  return {scale ? kUnitHigh : 1.0f, scale ? kUnitLow : 0.0f, mean, std, affine};
}

template <typename T>
FD_HD T letterbox_value(std::uint8_t pixel, const Normalisation& normalisation) {
  return from_float<T>(normalisation(pixel));
}
template <>
FD_HD std::uint8_t letterbox_value<std::uint8_t>(std::uint8_t pixel, const Normalisation&) {
  return pixel;
}

}  // namespace fastdet
