// SPDX-License-Identifier: Apache-2.0
// Row loops that the compiler vectorises by itself, once per instruction set.
#include <algorithm>
#include <cstring>

#include "core/platform.h"
#include "ops/letterbox/letterbox_rows.h"

namespace fastdet {

FD_TARGET_CLONES void linear_rows(const std::int16_t* FD_RESTRICT sums0, const std::int16_t* FD_RESTRICT sums1,
                                  std::int32_t weight0, std::int32_t weight1, std::int64_t size, std::uint8_t* FD_RESTRICT out) {
  const auto w0 = static_cast<std::int16_t>(weight0), w1 = static_cast<std::int16_t>(weight1);
  if (w1 == 0) {
    for (std::int64_t i = 0; i < size; ++i) out[i] = linear_blend(sums0[i], 0, w0, 0);
    return;
  }
  for (std::int64_t i = 0; i < size; ++i) out[i] = linear_blend(sums0[i], sums1[i], w0, w1);
}

// Packed RGB: all channels in one loop, whose loads vectorise.
FD_TARGET_CLONES static void unpack_rgb(const std::uint8_t* FD_RESTRICT row, std::int32_t width, std::uint8_t* FD_RESTRICT red,
                                        std::uint8_t* FD_RESTRICT green, std::uint8_t* FD_RESTRICT blue) {
  for (std::int32_t x = 0; x < width; ++x) {
    red[x] = row[3 * x];
    green[x] = row[3 * x + 1];
    blue[x] = row[3 * x + 2];
  }
}

void unpack_row(const std::uint8_t* row, std::int32_t width, std::int64_t pixel_stride, std::int64_t channel_stride,
                std::int32_t channels, std::uint8_t* planes, std::int64_t plane_stride) {
  if (channels == 3 && pixel_stride == 3 && (channel_stride == 1 || channel_stride == -1)) {
    // From the first byte on; reversed channels go to the planes in reverse.
    std::uint8_t* const first = channel_stride == 1 ? planes : planes + 2 * plane_stride;
    std::uint8_t* const third = channel_stride == 1 ? planes + 2 * plane_stride : planes;
    unpack_rgb(channel_stride == 1 ? row : row - 2, width, first, planes + plane_stride, third);
    return;
  }
  for (std::int32_t c = 0; c < channels; ++c) {
    const std::uint8_t* const pixels = row + c * channel_stride;
    std::uint8_t* const out = planes + c * plane_stride;
    if (pixel_stride == 1) {
      std::memcpy(out, pixels, static_cast<std::size_t>(width));
      continue;
    }
    for (std::int32_t x = 0; x < width; ++x) out[x] = pixels[x * pixel_stride];
  }
}

// Sums of one vector of pixels over the taps of a window, in registers. 16 pixels: for more, GCC joins two taps into a scalar
// loop.
template <int kSize, typename Pixels>
FD_HD void weighted_sum(const Pixels& pixels, const std::int32_t* FD_RESTRICT weights, std::int32_t taps,
                        std::uint8_t* FD_RESTRICT out) {
  std::int32_t sums[kSize] = {};
  for (std::int32_t i = 0; i < taps; ++i) {
    const std::uint8_t* FD_RESTRICT tap = pixels(i);
    const std::int32_t weight = weights[i];
    for (int k = 0; k < kSize; ++k) sums[k] += tap[k] * weight;
  }
  for (int k = 0; k < kSize; ++k) out[k] = pillow_round(sums[k]);
}

FD_TARGET_CLONES void pillow_columns(const PillowTable& table, std::int32_t count, const std::uint8_t* turned,
                                     std::int64_t pixel_stride, std::int64_t channel_stride, std::int32_t channels,
                                     std::uint8_t* out) {
  for (std::int32_t c = 0; c < channels; ++c) {
    for (std::int32_t x = 0; x < count; ++x, out += 16) {
      const PillowWindow window = table.windows[x];
      const std::uint8_t* const first = turned + c * channel_stride + window.begin * pixel_stride;
      const auto pixels = [=](std::int32_t i) { return first + i * pixel_stride; };
      weighted_sum<16>(pixels, table.weights + static_cast<std::int64_t>(x) * table.taps, window.size, out);
    }
  }
}

FD_TARGET_CLONES void pillow_rows(const std::uint8_t* const* rows, const std::int32_t* weights, std::int32_t taps,
                                  std::int64_t size, std::uint8_t* FD_RESTRICT out) {
  std::int64_t begin = 0;
  for (; begin + 16 <= size; begin += 16) {
    const auto pixels = [=](std::int32_t i) { return rows[i] + begin; };
    weighted_sum<16>(pixels, weights, taps, out + begin);
  }
  for (; begin < size; ++begin) {
    const auto pixels = [=](std::int32_t i) { return rows[i] + begin; };
    weighted_sum<1>(pixels, weights, taps, out + begin);
  }
}

// ---- results ----

FD_TARGET_CLONES static void normalise_floats(const std::uint8_t* FD_RESTRICT pixels, std::int64_t size,
                                              const Normalisation& normalisation, float* FD_RESTRICT out) {
  Normalisation n = normalisation;
  if (n.affine) {
    for (std::int64_t i = 0; i < size; ++i) out[i] = n(pixels[i]);
    return;
  }
  n.affine = false;  // said again, so that each loop is free of the question
  for (std::int64_t i = 0; i < size; ++i) out[i] = n(pixels[i]);
}

FD_TARGET_CLONES static void bfloat16_row(const float* FD_RESTRICT values, std::int64_t size, BFloat16* FD_RESTRICT out) {
  for (std::int64_t i = 0; i < size; ++i) out[i] = to_bfloat16(values[i]);
}

template <typename T, typename Round>
static void normalise_short(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, const Round& round,
                            T* out) {
  constexpr std::int64_t kBlock = 1024;
  float values[kBlock];
  for (std::int64_t begin = 0; begin < size; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, size - begin);
    normalise_floats(pixels + begin, count, normalisation, values);
    round(values, count, out + begin);
  }
}

void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation&, std::uint8_t* out) {
  std::memcpy(out, pixels, static_cast<std::size_t>(size));
}
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, Half* out) {
  normalise_short(pixels, size, normalisation, half_row, out);
}
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, BFloat16* out) {
  normalise_short(pixels, size, normalisation, bfloat16_row, out);
}
void normalise_row(const std::uint8_t* pixels, std::int64_t size, const Normalisation& normalisation, float* out) {
  normalise_floats(pixels, size, normalisation, out);
}

template <int kChannels, typename Word>
FD_HD void interleave(const Word* FD_RESTRICT planes, std::int64_t plane_stride, std::int64_t size, Word* FD_RESTRICT out) {
  const Word* const second = planes + plane_stride;
  const Word* const third = second + plane_stride;
  for (std::int64_t i = 0; i < size; ++i) {
    Word* const pixel = out + kChannels * i;
    pixel[0] = planes[i];
    pixel[1] = second[i];
    pixel[2] = third[i];
    for (int c = 3; c < kChannels; ++c) pixel[c] = 0;
  }
}

template <typename Word>
FD_HD void interleave_any(const Word* planes, std::int64_t plane_stride, std::int64_t size, std::int32_t channels, Word* out) {
  if (channels == 3) return interleave<3>(planes, plane_stride, size, out);
  if (channels == 4) return interleave<4>(planes, plane_stride, size, out);
  if (channels == 8) return interleave<8>(planes, plane_stride, size, out);
  for (std::int64_t i = 0; i < size; ++i, out += channels) {
    for (int c = 0; c < 3; ++c) out[c] = planes[c * plane_stride + i];
    for (std::int32_t c = 3; c < channels; ++c) out[c] = 0;
  }
}

FD_TARGET_CLONES static void interleave_words(const std::uint8_t* planes, std::int64_t plane_stride, std::int64_t size,
                                              std::int32_t channels, std::uint8_t* out) {
  interleave_any(planes, plane_stride, size, channels, out);
}
FD_TARGET_CLONES static void interleave_words(const std::uint16_t* planes, std::int64_t plane_stride, std::int64_t size,
                                              std::int32_t channels, std::uint16_t* out) {
  interleave_any(planes, plane_stride, size, channels, out);
}
FD_TARGET_CLONES static void interleave_words(const float* planes, std::int64_t plane_stride, std::int64_t size,
                                              std::int32_t channels, float* out) {
  interleave_any(planes, plane_stride, size, channels, out);
}

template <>
void interleave_row(const std::uint8_t* planes, std::int64_t plane_stride, std::int64_t size, std::int32_t channels,
                    std::uint8_t* out) {
  interleave_words(planes, plane_stride, size, channels, out);
}
template <>
void interleave_row(const float* planes, std::int64_t plane_stride, std::int64_t size, std::int32_t channels, float* out) {
  interleave_words(planes, plane_stride, size, channels, out);
}
template <>
void interleave_row(const Half* planes, std::int64_t plane_stride, std::int64_t size, std::int32_t channels, Half* out) {
  interleave_words(&planes->bits, plane_stride, size, channels, &out->bits);
}
template <>
void interleave_row(const BFloat16* planes, std::int64_t plane_stride, std::int64_t size, std::int32_t channels, BFloat16* out) {
  interleave_words(&planes->bits, plane_stride, size, channels, &out->bits);
}

}  // namespace fastdet
