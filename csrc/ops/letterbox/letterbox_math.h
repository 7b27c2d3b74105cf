// SPDX-License-Identifier: Apache-2.0
// What decides a pixel, for CPU and CUDA: YUV to RGB, taps and weights of OpenCV's 8-bit bilinear and area filters and of
// Pillow's antialiased one, their roundings, and the normalisation. Positions and weights are computed in the precision the
// libraries use.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

// ---- YUV of limited range to RGB: 2^-20, rounded half up, as OpenCV's cvtColor ----

struct YuvMatrix {
  std::int32_t luma, red_v, green_u, green_v, blue_u;
};
constexpr YuvMatrix kBt601{1220542, 1673527, -409993, -852492, 2116026};  // OpenCV's: of 1.164, 1.596, 0.391, 0.813, 2.018
constexpr YuvMatrix kBt709{1220945, 1879825, -223607, -558796, 2215014};  // of 255 / 219, and of 255 / 224 times Rec. 709's

// What a pair of chroma values adds to each channel, the half for rounding included.
struct YuvChroma {
  std::int32_t red, green, blue;
};

FD_HD YuvChroma yuv_chroma(const YuvMatrix& m, std::int32_t u, std::int32_t v) {
  constexpr std::int32_t kHalf = 1 << 19;
  u -= 128;
  v -= 128;
  return {kHalf + m.red_v * v, kHalf + m.green_v * v + m.green_u * u, kHalf + m.blue_u * u};
}
FD_HD std::int32_t yuv_luma(const YuvMatrix& m, std::int32_t y) { return (y < 16 ? 0 : y - 16) * m.luma; }
FD_HD std::int32_t yuv_value(std::int32_t luma, std::int32_t chroma) {
  const std::int32_t value = (luma + chroma) >> 20;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

// ---- OpenCV INTER_LINEAR, uint8: weights in 1/2048, rounded half to even ----

// Source pixels for a pixel of the result, with OpenCV's two roundings.
FD_HD double cv2_step(std::int32_t source, std::int32_t target) {
  return 1.0 / (static_cast<double>(target) / static_cast<double>(source));
}

struct LinearTaps {
  std::int32_t index0, index1;  // source positions, inside the picture
  std::int32_t weight0, weight1;
};

// Output position -> source position and the two weights, before the border rules. `area`: the rule of INTER_AREA where a side
// grows, by which the second pixel comes in only when the output pixel reaches into it.
FD_HD LinearTaps linear_taps(std::int32_t position, std::int32_t source, std::int32_t target, bool area) {
  const double step = cv2_step(source, target);
  std::int32_t index;
  float fraction;
  if (area) {
    const double inverse = static_cast<double>(target) / static_cast<double>(source);
    index = static_cast<std::int32_t>(floor(position * step));
    fraction = static_cast<float>((static_cast<double>(position) + 1.0) - (static_cast<double>(index) + 1.0) * inverse);
    fraction = fraction <= 0.0f ? 0.0f : fraction - floorf(fraction);
  } else {
    const float centre = static_cast<float>((static_cast<double>(position) + 0.5) * step - 0.5);
    const float whole = floorf(centre);
    fraction = centre - whole;
    index = static_cast<std::int32_t>(whole);
  }
  return {index, index + 1, static_cast<std::int32_t>(rintf((1.0f - fraction) * 2048.0f)),
          static_cast<std::int32_t>(rintf(fraction * 2048.0f))};
}

// Columns: at a border the nearest column gets all the weight.
FD_HD LinearTaps linear_column(std::int32_t x, std::int32_t source, std::int32_t target, bool area) {
  const LinearTaps taps = linear_taps(x, source, target, area);
  if (taps.index0 < 0) return {0, 0, 2048, 0};
  if (taps.index0 >= source - 1) return {source - 1, source - 1, 2048, 0};
  return taps;
}

// Rows: at a border the weights stay and the rows are clamped. Not the same after the truncations below.
FD_HD LinearTaps linear_row(std::int32_t y, std::int32_t source, std::int32_t target, bool area) {
  const auto clamp = [source](std::int32_t i) { return i < 0 ? 0 : i >= source ? source - 1 : i; };
  const LinearTaps taps = linear_taps(y, source, target, area);
  return {clamp(taps.index0), clamp(taps.index1), taps.weight0, taps.weight1};
}

// Horizontal sum of two pixels, without its low 4 bits: at most 255 * 2049 / 16, so that it fits 16 bits.
FD_HD std::int32_t linear_sum(std::int32_t pixel0, std::int32_t pixel1, const LinearTaps& column) {
  return (pixel0 * column.weight0 + pixel1 * column.weight1) >> 4;
}
FD_HD std::uint8_t linear_blend(std::int32_t sum0, std::int32_t sum1, std::int32_t weight0, std::int32_t weight1) {
  return static_cast<std::uint8_t>((((weight0 * sum0) >> 16) + ((weight1 * sum1) >> 16) + 2) >> 2);
}

// ---- OpenCV INTER_AREA, uint8, where no side grows: the mean over the part of the picture that an output pixel covers ----

// Otherwise INTER_AREA is the bilinear filter with its own positions.
FD_HD bool area_shrinks(std::int32_t height, std::int32_t width, std::int32_t new_height, std::int32_t new_width) {
  return cv2_step(height, new_height) >= 1.0 && cv2_step(width, new_width) >= 1.0;
}

// Pixels of a cell where both sides shrink by whole numbers, in OpenCV's arithmetic: the mean of integers; else rows is 0.
struct AreaCell {
  std::int32_t rows, columns;
};

FD_HD AreaCell area_cell(std::int32_t height, std::int32_t width, std::int32_t new_height, std::int32_t new_width) {
  const double down = cv2_step(height, new_height), across = cv2_step(width, new_width);
  const double rows = rint(down), columns = rint(across);
  constexpr double kEpsilon = 0x1p-52, kPixels = 1 << 23;  // for more pixels OpenCV's sum would overflow
  if (!(fabs(down - rows) < kEpsilon && fabs(across - columns) < kEpsilon && rows * columns <= kPixels)) return {0, 0};
  return {static_cast<std::int32_t>(rows), static_cast<std::int32_t>(columns)};
}

FD_HD std::uint8_t area_mean(std::int32_t sum, const AreaCell& cell) {
  if (cell.rows == 2 && cell.columns == 2) return static_cast<std::uint8_t>((sum + 2) >> 2);
  return static_cast<std::uint8_t>(rintf(static_cast<float>(sum) * (1.0f / static_cast<float>(cell.rows * cell.columns))));
}

// Otherwise: source positions [begin, begin + size) and their shares, summed as float32 in rising order, first along rows.
struct AreaWindow {
  std::int32_t begin, size;
  float first, middle, last;

  FD_HD float weight(std::int32_t i) const { return i == 0 ? first : i + 1 == size ? last : middle; }
};

FD_HD AreaWindow area_window(std::int32_t position, std::int32_t source, std::int32_t target) {
  constexpr double kLeast = 1e-3;  // a smaller part of a pixel is left out
  const double step = cv2_step(source, target);
  const double from = position * step, to = from + step;
  const double cell = step < source - from ? step : source - from;
  auto end = static_cast<std::int32_t>(floor(to));
  end = end < source - 1 ? end : source - 1;
  auto begin = static_cast<std::int32_t>(ceil(from));
  begin = begin < end ? begin : end;
  const bool before = begin - from > kLeast, after = to - end > kLeast;
  double part = to - end < 1.0 ? to - end : 1.0;
  part = part < cell ? part : cell;
  const auto middle = static_cast<float>(1.0 / cell), last = static_cast<float>(part / cell);
  const float inner = end > begin ? middle : last;
  return {before ? begin - 1 : begin, end - begin + (before ? 1 : 0) + (after ? 1 : 0),
          before ? static_cast<float>((begin - from) / cell) : inner, middle, after ? last : middle};
}

FD_HD std::uint8_t area_round(float sum) {
  const float value = rintf(sum);
  return static_cast<std::uint8_t>(value > 255.0f ? 255.0f : value);
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
