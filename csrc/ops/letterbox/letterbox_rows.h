// SPDX-License-Identifier: Apache-2.0
// Work on single rows for the CPU path. Intermediate rows are planar: channel c of a row begins at c * its plane stride.
#pragma once

#include <cstdint>

#include "ops/letterbox/letterbox_math.h"

namespace fastdet {

// ---- OpenCV mode ----

// Where the columns of a picture come from. Built once per picture, used by every row.
struct LinearColumns {
  const std::int32_t* offset;   // [count] byte of the left pixel's channel 0, from the row's beginning
  const std::int32_t* weights;  // [count] weight0 | weight1 << 16
  std::int32_t count;
  std::int32_t source;                        // width of the picture
  std::int32_t channels;                      // 3, or 1 where all channels are the same
  std::int64_t pixel_stride, channel_stride;  // bytes; pixel_stride 0 for a picture one pixel wide
};

// Fills offset and weights, [count] each. `area`: see linear_taps.
void linear_columns_table(std::int32_t source, std::int32_t target, bool area, std::int64_t pixel_stride, std::int32_t* offset,
                          std::int32_t* weights);

// sums[c * plane_stride + x] = linear_sum of column x, channel c.
void linear_columns(const LinearColumns& columns, const std::uint8_t* row, std::int16_t* sums, std::int64_t plane_stride);

// out[i] = linear_blend of two rows of sums. sums1 is not read where weight1 is 0.
void linear_rows(const std::int16_t* sums0, const std::int16_t* sums1, std::int32_t weight0, std::int32_t weight1,
                 std::int64_t size, std::uint8_t* out);

// ---- YUV ----

struct RgbPlanes {
  std::uint8_t *red, *green, *blue;
};

// Pairs of pixels from pairs of chroma values; returns how many were done, none where the machine has no code of its own for it.
std::int64_t convert_pairs_simd(const std::uint8_t* y, const std::uint8_t* chroma, bool v_first, std::int64_t pairs,
                                const YuvMatrix& matrix, const RgbPlanes& out);

// out[2 i] = first[i], out[2 i + 1] = second[i].
void interleave_bytes(const std::uint8_t* first, const std::uint8_t* second, std::int64_t size, std::uint8_t* out);

// ---- OpenCV's area mode ----

// The pass along rows over 16 turned lines of planes, `plane_size` pixels each: out is [channels * count, 16].
void area_columns(const AreaWindow* windows, std::int32_t count, const std::uint8_t* turned, std::int64_t plane_size,
                  std::int32_t channels, float* out);
// rows[k][i] = turned[16 i + k] for k in [0, count) and i in [0, size).
void turn_floats(const float* turned, std::int64_t size, float* const* rows, std::int32_t count);
// The pass along columns: out[i] from rows[0 .. window.size)[i].
void area_rows(const float* const* rows, const AreaWindow& window, std::int64_t size, float* sums, std::uint8_t* out);

// ---- Pillow mode ----

constexpr std::int32_t kLanes = 16;  // rows of a block that is turned

// planes[c * plane_stride + x] = the row's pixel x, channel c.
void unpack_row(const std::uint8_t* row, std::int32_t width, std::int64_t pixel_stride, std::int64_t channel_stride,
                std::int32_t channels, std::uint8_t* planes, std::int64_t plane_stride);

// turned[16 i + k] = lines[k][i] for i in [0, size); lanes k at or past `count` repeat the last line.
void turn_lines(const std::uint8_t* const* lines, std::int32_t count, std::int64_t size, std::uint8_t* turned);
// rows[k][i] = turned[16 i + k] for k in [0, count) and i in [0, size).
void turn_columns(const std::uint8_t* turned, std::int64_t size, std::uint8_t* const* rows, std::int32_t count);

// The horizontal pass over 16 turned lines, `count` columns: out is [channels, count, 16]. Strides are between pixels and
// channels of `turned`, which points to pixel 0 of channel 0.
void pillow_columns(const PillowTable& table, std::int32_t count, const std::uint8_t* turned, std::int64_t pixel_stride,
                    std::int64_t channel_stride, std::int32_t channels, std::uint8_t* out);

// The vertical pass: out[i] from rows[0 .. taps)[i].
void pillow_rows(const std::uint8_t* const* rows, const std::int32_t* weights, std::int32_t taps, std::int64_t size,
                 std::uint8_t* out);

// ---- results ----

// One channel of a row, normalised: out[i] = letterbox_value(pixels[i]).
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, std::uint8_t* out);
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, Half* out);
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, BFloat16* out);
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, float* out);

void half_row(const float* values, std::int64_t size, Half* out);

// out[channels * i + c] = planes[c * plane_stride + i]; 0 from the fourth channel on.
template <typename T>
void interleave_row(const T* planes, std::int64_t plane_stride, std::int64_t size, std::int32_t channels, T* out);

}  // namespace fastdet
