// SPDX-License-Identifier: Apache-2.0
// What the compiler does not vectorise by itself.
// The hot spot of the OpenCV mode goes from interleaved pixels to horizontal sums. The two pixels of a tap lie in eight bytes, so
// one 64-bit load fetches all their channels; byte shuffles then pair them up for a multiply-add. Columns whose load would leave
// the row, and layouts wider than eight bytes, take the scalar loop, which gives the same integers.
#include <algorithm>

#include "core/platform.h"
#include "ops/letterbox/letterbox_rows.h"

#if defined(FD_X86_TARGETS)
#include <immintrin.h>
// GCC 12 sees uninitialised values inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fastdet {
namespace {

void columns_scalar(const LinearColumns& columns, const std::uint8_t* row, std::int32_t begin, std::int32_t end,
                    std::int16_t* sums, std::int64_t plane_stride) {
  for (std::int32_t c = 0; c < columns.channels; ++c) {
    const std::uint8_t* const pixels = row + c * columns.channel_stride;
    std::int16_t* const out = sums + c * plane_stride;
    for (std::int32_t x = begin; x < end; ++x) {
      const std::uint8_t* const pixel = pixels + columns.offset[x];
      const LinearTaps taps{0, 0, columns.weights[x] & 0xffff, columns.weights[x] >> 16};
      out[x] = static_cast<std::int16_t>(linear_sum(pixel[0], pixel[columns.pixel_stride], taps));
    }
  }
}

#if defined(FD_X86_TARGETS)

// Bytes of one tap inside its 64-bit load.
struct Window {
  std::int64_t low;      // of the load, from the left pixel's channel 0
  std::int32_t pair[3];  // per channel: place of the left pixel | place of the right pixel << 16
  bool fits;
};

Window window_of(const LinearColumns& columns) {
  const std::int64_t last = (columns.channels - 1) * columns.channel_stride;
  const std::int64_t low = std::min<std::int64_t>(0, columns.pixel_stride) + std::min<std::int64_t>(0, last);
  const std::int64_t high = std::max<std::int64_t>(0, columns.pixel_stride) + std::max<std::int64_t>(0, last);
  Window window{low, {0, 0, 0}, high - low < 8};
  for (std::int32_t c = 0; c < columns.channels && window.fits; ++c) {
    const std::int64_t left = c * columns.channel_stride - low;
    window.pair[c] = static_cast<std::int32_t>(left | (left + columns.pixel_stride) << 16);
  }
  return window;
}

// Offsets rise or fall with x, so the columns whose load stays inside the row are a range; it begins at `begin`.
std::int32_t safe_end(const LinearColumns& columns, const Window& window, std::int32_t* begin) {
  const std::int64_t row_end = std::max<std::int64_t>(0, (columns.source - 1) * columns.pixel_stride) +
                               std::max<std::int64_t>(0, (columns.channels - 1) * columns.channel_stride) + 1;
  const auto safe = [&](std::int32_t offset) { return offset + window.low + 8 <= row_end; };
  const std::int32_t* const first = columns.offset;
  const std::int32_t* const last = first + columns.count;
  if (columns.pixel_stride < 0) {
    const auto* edge = std::partition_point(first, last, [&](std::int32_t offset) { return !safe(offset); });
    *begin = static_cast<std::int32_t>(edge - first);
    return columns.count;
  }
  *begin = 0;
  return static_cast<std::int32_t>(std::partition_point(first, last, safe) - first);
}

// 16 columns a step. Returns the first column not done.
FD_TARGET("avx512f,avx512bw,avx512vl,avx512vbmi")
std::int32_t columns_avx512(const LinearColumns& columns, const Window& window, const std::uint8_t* row, std::int32_t begin,
                            std::int32_t end, std::int16_t* sums, std::int64_t plane_stride) {
  const auto load2 = [](const std::uint8_t* base, const std::int32_t* at) FD_TARGET("avx512f,avx512bw,avx512vl,avx512vbmi") {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(base + at[0]));
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(base + at[1])));
  };
  const auto load8 = [&](const std::uint8_t* base, const std::int32_t* at) FD_TARGET("avx512f,avx512bw,avx512vl,avx512vbmi") {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load2(base, at)), load2(base, at + 2), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load2(base, at + 4)), load2(base, at + 6), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  };
  const __m512i lane =
      _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(0x00080008));
  __m512i place[3];
  for (int c = 0; c < 3; ++c) place[c] = _mm512_add_epi32(lane, _mm512_set1_epi32(window.pair[c]));
  const std::uint8_t* const base = row + window.low;
  std::int32_t x = begin;
  for (; x + 16 <= end; x += 16) {
    const __m512i pixels0 = load8(base, columns.offset + x);
    const __m512i pixels1 = load8(base, columns.offset + x + 8);
    const __m512i weights = _mm512_loadu_si512(columns.weights + x);
    for (int c = 0; c < columns.channels; ++c) {
      const __m512i pair = _mm512_maskz_permutex2var_epi8(0x5555555555555555u, pixels0, place[c], pixels1);
      const __m512i sum = _mm512_srli_epi32(_mm512_madd_epi16(pair, weights), 4);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + c * plane_stride + x), _mm512_cvtepi32_epi16(sum));
    }
  }
  return x;
}

// 8 columns a step. Returns the first column not done.
FD_TARGET("avx2")
std::int32_t columns_avx2(const LinearColumns& columns, const Window& window, const std::uint8_t* row, std::int32_t begin,
                          std::int32_t end, std::int16_t* sums, std::int64_t plane_stride) {
  const auto load2 = [](const std::uint8_t* base, const std::int32_t* at) FD_TARGET("avx2") {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(base + at[0]));
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(base + at[1])));
  };
  const auto load4 = [&](const std::uint8_t* base, const std::int32_t* at0, const std::int32_t* at1) FD_TARGET("avx2") {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load2(base, at0)), load2(base, at1), 1);
  };
  // Columns 0 1 4 5 lie in one register and 2 3 6 7 in the other; each fills its half of every 128-bit lane.
  __m256i place0[3], place1[3];
  for (int c = 0; c < 3; ++c) {
    const int none = static_cast<int>(0x80808080u), own = window.pair[c] | static_cast<int>(0x80008000u), next = own + 0x00080008;
    place0[c] = _mm256_set_epi32(none, none, next, own, none, none, next, own);
    place1[c] = _mm256_set_epi32(next, own, none, none, next, own, none, none);
  }
  const std::uint8_t* const base = row + window.low;
  std::int32_t x = begin;
  for (; x + 8 <= end; x += 8) {
    const std::int32_t* const at = columns.offset + x;
    const __m256i pixels0 = load4(base, at, at + 4);
    const __m256i pixels1 = load4(base, at + 2, at + 6);
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns.weights + x));
    for (int c = 0; c < columns.channels; ++c) {
      const __m256i pair = _mm256_or_si256(_mm256_shuffle_epi8(pixels0, place0[c]), _mm256_shuffle_epi8(pixels1, place1[c]));
      const __m256i sum = _mm256_srli_epi32(_mm256_madd_epi16(pair, weights), 4);
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(sum, sum), 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + c * plane_stride + x), _mm256_castsi256_si128(packed));
    }
  }
  return x;
}

// Whole vectors of 8; returns how many values were done.
FD_TARGET("avx,f16c") std::int64_t half_f16c(const float* values, std::int64_t size, Half* out) {
  std::int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bits);
  }
  return i;
}

using ColumnsSimd = std::int32_t (*)(const LinearColumns&, const Window&, const std::uint8_t*, std::int32_t, std::int32_t,
                                     std::int16_t*, std::int64_t);

ColumnsSimd choose_columns() {
  if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return columns_avx512;
  return __builtin_cpu_supports("avx2") ? columns_avx2 : nullptr;
}

#endif

}  // namespace

void linear_columns_table(std::int32_t source, std::int32_t target, std::int64_t pixel_stride, std::int32_t* offset,
                          std::int32_t* weights) {
  for (std::int32_t x = 0; x < target; ++x) {
    LinearTaps taps = linear_column(x, source, target);
    // The right pixel always lies inside the row: on the last column the left one moves back and gives it the weight.
    if (taps.index0 == source - 1 && source > 1) taps = {source - 2, source - 1, 0, taps.weight0};
    offset[x] = static_cast<std::int32_t>(taps.index0 * pixel_stride);
    weights[x] = taps.weight0 | taps.weight1 << 16;
  }
}

void linear_columns(const LinearColumns& columns, const std::uint8_t* row, std::int16_t* sums, std::int64_t plane_stride) {
#if defined(FD_X86_TARGETS)
  static const ColumnsSimd simd = choose_columns();
  if (simd != nullptr) {
    const Window window = window_of(columns);
    if (window.fits) {
      std::int32_t begin = 0;
      const std::int32_t end = safe_end(columns, window, &begin);
      const std::int32_t done = simd(columns, window, row, begin, end, sums, plane_stride);
      columns_scalar(columns, row, 0, begin, sums, plane_stride);
      columns_scalar(columns, row, done, columns.count, sums, plane_stride);
      return;
    }
    if (columns.channels > 1) {
      // Planar pictures: each channel by itself is narrow enough.
      LinearColumns plane = columns;
      plane.channels = 1;
      for (std::int32_t c = 0; c < columns.channels; ++c) {
        const std::uint8_t* const first = row + c * columns.channel_stride;
        linear_columns(plane, first, sums + c * plane_stride, plane_stride);
      }
      return;
    }
  }
#endif
  columns_scalar(columns, row, 0, columns.count, sums, plane_stride);
}

void half_row(const float* values, std::int64_t size, Half* out) {
  std::int64_t done = 0;
#if defined(FD_X86_TARGETS)
  static const bool has_f16c = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");
  if (has_f16c) done = half_f16c(values, size, out);
#endif
  for (std::int64_t i = done; i < size; ++i) out[i] = to_half(values[i]);
}

}  // namespace fastdet
