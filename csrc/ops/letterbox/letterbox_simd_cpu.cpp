// SPDX-License-Identifier: Apache-2.0
// What the compiler does not vectorise by itself.
// The hot spot of the OpenCV mode goes from interleaved pixels to horizontal sums. The two pixels of a tap lie in eight bytes, so
// one 64-bit load fetches all their channels; byte shuffles then pair them up for a multiply-add. Columns whose load would leave
// the row, and layouts wider than eight bytes, take the scalar loop, which gives the same integers.
#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "core/platform.h"
#include "ops/letterbox/letterbox.h"
#include "ops/letterbox/letterbox_rows.h"

#if defined(FD_X86_TARGETS)
#include <immintrin.h>
// GCC 12 sees uninitialised values inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace fastdet {
namespace {

std::atomic<LetterboxIsa> isa_limit{LetterboxIsa::kAvx512};

LetterboxIsa best_isa() {
#if defined(FD_X86_TARGETS)
  if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return LetterboxIsa::kAvx512;
  if (__builtin_cpu_supports("avx2")) return LetterboxIsa::kAvx2;
#endif
  return LetterboxIsa::kScalar;
}

LetterboxIsa isa_in_use() {
  static const LetterboxIsa best = best_isa();
  return std::min(best, isa_limit.load(std::memory_order_relaxed));
}

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

// One past the last byte of a row, from its beginning.
std::int64_t row_end(const LinearColumns& columns) {
  return std::max<std::int64_t>(0, (columns.source - 1) * columns.pixel_stride) +
         std::max<std::int64_t>(0, (columns.channels - 1) * columns.channel_stride) + 1;
}

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
  const std::int64_t limit = row_end(columns) - window.low - 8;
  const auto safe = [&](std::int32_t offset) { return offset <= limit; };
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

constexpr std::int64_t kSpan = 128;  // bytes that one two-register shuffle reaches

// 128 bytes at a place in a row; those at or past its end are not touched and read as 0.
FD_TARGET("avx512f,avx512bw") void load_span(const std::uint8_t* at, std::int64_t left, __m512i (&bytes)[2]) {
  if (left >= kSpan) {
    bytes[0] = _mm512_loadu_si512(at);
    bytes[1] = _mm512_loadu_si512(at + 64);
    return;
  }
  const auto mask = [](std::int64_t count) { return count <= 0 ? 0ull : count >= 64 ? ~0ull : (1ull << count) - 1; };
  bytes[0] = _mm512_maskz_loadu_epi8(mask(left), at);
  bytes[1] = _mm512_maskz_loadu_epi8(mask(left - 64), at + 64);
}

// Reductions below 5, and enlarging: 8 neighbouring columns lie within 128 bytes. 16 columns a step; returns the first one not
// done.
FD_TARGET("avx512f,avx512bw,avx512vl,avx512vbmi")
std::int32_t near_columns_avx512(const LinearColumns& columns, const Window& window, const std::uint8_t* row, std::int16_t* sums,
                                 std::int64_t plane_stride) {
  constexpr __mmask64 kLow = 0x55555555u, kHigh = kLow << 32;  // the even bytes: pixels become 16-bit numbers
  const std::int64_t end = row_end(columns);
  const int first = columns.pixel_stride < 0 ? 7 : 0;  // of 8 columns, the one furthest to the left
  std::int32_t x = 0;
  for (; x + 16 <= columns.count; x += 16) {
    const std::int32_t* const offset = columns.offset + x;
    const std::int64_t begin0 = offset[first] + window.low, begin1 = offset[8 + first] + window.low;
    __m512i span0[2], span1[2];
    load_span(row + begin0, end - begin0, span0);
    load_span(row + begin1, end - begin1, span1);
    const __m512i base = _mm512_mask_set1_epi32(_mm512_set1_epi32(offset[first]), 0xff00, offset[8 + first]);
    const __m512i left = _mm512_sub_epi32(_mm512_loadu_si512(offset), base);
    const __m512i place = _mm512_or_si512(left, _mm512_slli_epi32(left, 16));
    const __m512i weights = _mm512_loadu_si512(columns.weights + x);
    for (int c = 0; c < columns.channels; ++c) {
      const __m512i at = _mm512_add_epi16(place, _mm512_set1_epi32(window.pair[c]));
      const __m512i pair = _mm512_or_si512(_mm512_maskz_permutex2var_epi8(kLow, span0[0], at, span0[1]),
                                           _mm512_maskz_permutex2var_epi8(kHigh, span1[0], at, span1[1]));
      const __m512i sum = _mm512_srli_epi32(_mm512_madd_epi16(pair, weights), 4);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + c * plane_stride + x), _mm512_cvtepi32_epi16(sum));
    }
  }
  return x;
}

// Whether every 8 neighbouring columns do.
bool are_near(const LinearColumns& columns) {
  const std::int64_t reach = 8 * std::abs(columns.pixel_stride) * (columns.source / columns.count + 1);
  return reach + 8 <= kSpan;
}

// Any reduction. 16 columns a step. Returns the first column not done.
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

// 32 pixels a step: bytes of a pair lie in one 16-bit word, which widens to 32 bits. Returns how many pairs were done.
FD_TARGET("avx512f,avx512bw,avx512vl")
std::int64_t convert_pairs_avx512(const std::uint8_t* y, const std::uint8_t* chroma, bool v_first, std::int64_t pairs,
                                  const YuvMatrix& m, const RgbPlanes& out) {
  const __m512i byte = _mm512_set1_epi32(255), low = _mm512_set1_epi32(16), zero = _mm512_setzero_si512();
  const __m512i centre = _mm512_set1_epi32(128), half = _mm512_set1_epi32(1 << 19), luma = _mm512_set1_epi32(m.luma);
  const __m512i red_v = _mm512_set1_epi32(m.red_v), green_u = _mm512_set1_epi32(m.green_u),
                green_v = _mm512_set1_epi32(m.green_v), blue_u = _mm512_set1_epi32(m.blue_u);
  const auto words = [&](const std::uint8_t* at) FD_TARGET("avx512f,avx512bw,avx512vl") {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  };
  const auto bright = [&](__m512i value) FD_TARGET("avx512f,avx512bw,avx512vl") {
    return _mm512_mullo_epi32(_mm512_sub_epi32(_mm512_max_epi32(value, low), low), luma);
  };
  std::int64_t i = 0;
  for (; i + 16 <= pairs; i += 16) {
    const __m512i lumas = words(y + 2 * i), chromas = words(chroma + 2 * i);
    const __m512i luma0 = bright(_mm512_and_si512(lumas, byte)), luma1 = bright(_mm512_srli_epi32(lumas, 8));
    const __m512i first = _mm512_sub_epi32(_mm512_and_si512(chromas, byte), centre);
    const __m512i second = _mm512_sub_epi32(_mm512_srli_epi32(chromas, 8), centre);
    const __m512i u = v_first ? second : first, v = v_first ? first : second;
    const auto store = [&](__m512i added, std::uint8_t* at) FD_TARGET("avx512f,avx512bw,avx512vl") {
      const __m512i left = _mm512_srai_epi32(_mm512_add_epi32(luma0, added), 20);
      const __m512i right = _mm512_srai_epi32(_mm512_add_epi32(luma1, added), 20);
      // Both fit 16 bits: side by side in one word, then clamped to bytes.
      const __m512i both = _mm512_mask_blend_epi16(0xaaaaaaaau, left, _mm512_slli_epi32(right, 16));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm512_cvtusepi16_epi8(_mm512_max_epi16(both, zero)));
    };
    store(_mm512_add_epi32(_mm512_mullo_epi32(v, red_v), half), out.red + 2 * i);
    const __m512i green = _mm512_add_epi32(_mm512_mullo_epi32(v, green_v), _mm512_mullo_epi32(u, green_u));
    store(_mm512_add_epi32(green, half), out.green + 2 * i);
    store(_mm512_add_epi32(_mm512_mullo_epi32(u, blue_u), half), out.blue + 2 * i);
  }
  return i;
}

// One column of the area mode's pass along rows: 16 turned rows, the shares of whole pixels in the middle.
FD_TARGET("avx512f") void area_column_avx512(const AreaWindow& window, const std::uint8_t* tap, float* out) {
  const auto product = [&tap](float weight) FD_TARGET("avx512f") {
    const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tap));
    tap += kLanes;
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(pixels)), _mm512_set1_ps(weight));
  };
  __m512 sum = product(window.first);
  for (std::int32_t i = 2; i < window.size; ++i) sum = _mm512_add_ps(sum, product(window.middle));
  if (window.size > 1) sum = _mm512_add_ps(sum, product(window.last));
  _mm512_storeu_ps(out, sum);
}

FD_TARGET("avx2") void area_column_avx2(const AreaWindow& window, const std::uint8_t* tap, float* out) {
  __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  const auto add = [&](float weight) FD_TARGET("avx2") {
    for (int half = 0; half < 2; ++half) {
      const __m128i pixels = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(tap + 8 * half));
      const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(pixels));
      sum[half] = _mm256_add_ps(sum[half], _mm256_mul_ps(values, _mm256_set1_ps(weight)));
    }
    tap += kLanes;
  };
  add(window.first);
  for (std::int32_t i = 2; i < window.size; ++i) add(window.middle);
  if (window.size > 1) add(window.last);
  _mm256_storeu_ps(out, sum[0]);
  _mm256_storeu_ps(out + 8, sum[1]);
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

// Columns that the vector code of this machine takes: [begin, end).
struct Range {
  std::int32_t begin, end;
};

Range columns_simd(LetterboxIsa isa, const LinearColumns& columns, const Window& window, const std::uint8_t* row,
                   std::int16_t* sums, std::int64_t plane_stride) {
  if (isa == LetterboxIsa::kAvx512 && are_near(columns)) {
    return {0, near_columns_avx512(columns, window, row, sums, plane_stride)};
  }
  Range range{0, 0};
  range.end = safe_end(columns, window, &range.begin);
  const auto run = isa == LetterboxIsa::kAvx512 ? columns_avx512 : columns_avx2;
  range.end = run(columns, window, row, range.begin, range.end, sums, plane_stride);
  return range;
}

#endif

}  // namespace

void letterbox_limit_isa(LetterboxIsa limit) { isa_limit.store(limit, std::memory_order_relaxed); }

void linear_columns_table(std::int32_t source, std::int32_t target, bool area, std::int64_t pixel_stride, std::int32_t* offset,
                          std::int32_t* weights) {
  for (std::int32_t x = 0; x < target; ++x) {
    LinearTaps taps = linear_column(x, source, target, area);
    // The right pixel always lies inside the row: on the last column the left one moves back and gives it the weight.
    if (taps.index0 == source - 1 && source > 1) taps = {source - 2, source - 1, 0, taps.weight0};
    offset[x] = static_cast<std::int32_t>(taps.index0 * pixel_stride);
    weights[x] = taps.weight0 | taps.weight1 << 16;
  }
}

void linear_columns(const LinearColumns& columns, const std::uint8_t* row, std::int16_t* sums, std::int64_t plane_stride) {
#if defined(FD_X86_TARGETS)
  const LetterboxIsa isa = isa_in_use();
  if (isa != LetterboxIsa::kScalar) {
    const Window window = window_of(columns);
    if (window.fits) {
      const Range done = columns_simd(isa, columns, window, row, sums, plane_stride);
      columns_scalar(columns, row, 0, done.begin, sums, plane_stride);
      columns_scalar(columns, row, done.end, columns.count, sums, plane_stride);
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

namespace {

#if defined(FD_X86_TARGETS)

// Turns a tile of 16 x 16 bytes: four rounds of interleaving the halves of the list.
void turn_tile(__m128i (&rows)[16]) {
  for (int round = 0; round < 4; ++round) {
    __m128i mixed[16];
    for (int k = 0; k < 8; ++k) {
      mixed[2 * k] = _mm_unpacklo_epi8(rows[k], rows[k + 8]);
      mixed[2 * k + 1] = _mm_unpackhi_epi8(rows[k], rows[k + 8]);
    }
    for (int k = 0; k < 16; ++k) rows[k] = mixed[k];
  }
}

#endif

}  // namespace

void turn_lines(const std::uint8_t* const* lines, std::int32_t count, std::int64_t size, std::uint8_t* turned) {
  const auto line = [&](std::int32_t k) { return lines[std::min(k, count - 1)]; };
  std::int64_t i = 0;
#if defined(FD_X86_TARGETS)
  for (; i + 16 <= size; i += 16) {
    __m128i tile[16];
    for (std::int32_t k = 0; k < 16; ++k) tile[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line(k) + i));
    turn_tile(tile);
    for (int k = 0; k < 16; ++k) _mm_storeu_si128(reinterpret_cast<__m128i*>(turned + 16 * (i + k)), tile[k]);
  }
#endif
  for (; i < size; ++i) {
    for (std::int32_t k = 0; k < 16; ++k) turned[16 * i + k] = line(k)[i];
  }
}

void turn_columns(const std::uint8_t* turned, std::int64_t size, std::uint8_t* const* rows, std::int32_t count) {
  std::int64_t i = 0;
#if defined(FD_X86_TARGETS)
  for (; i + 16 <= size; i += 16) {
    __m128i tile[16];
    for (int k = 0; k < 16; ++k) tile[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(turned + 16 * (i + k)));
    turn_tile(tile);
    for (std::int32_t k = 0; k < count; ++k) _mm_storeu_si128(reinterpret_cast<__m128i*>(rows[k] + i), tile[k]);
  }
#endif
  for (; i < size; ++i) {
    for (std::int32_t k = 0; k < count; ++k) rows[k][i] = turned[16 * i + k];
  }
}

namespace {

void area_column_scalar(const AreaWindow& window, const std::uint8_t* tap, float* out) {
  std::fill(out, out + kLanes, 0.0f);
  for (std::int32_t i = 0; i < window.size; ++i, tap += kLanes) {
    for (int k = 0; k < kLanes; ++k) out[k] += static_cast<float>(tap[k]) * window.weight(i);
  }
}

}  // namespace

void area_columns(const AreaWindow* windows, std::int32_t count, const std::uint8_t* turned, std::int64_t plane_size,
                  std::int32_t channels, float* out) {
  auto* column = area_column_scalar;
#if defined(FD_X86_TARGETS)
  const LetterboxIsa isa = isa_in_use();
  if (isa != LetterboxIsa::kScalar) column = isa == LetterboxIsa::kAvx512 ? area_column_avx512 : area_column_avx2;
#endif
  for (std::int32_t c = 0; c < channels; ++c) {
    const std::uint8_t* const plane = turned + c * plane_size * kLanes;
    for (std::int32_t x = 0; x < count; ++x, out += kLanes) {
      column(windows[x], plane + std::int64_t{windows[x].begin} * kLanes, out);
    }
  }
}

std::int64_t convert_pairs_simd(const std::uint8_t* y, const std::uint8_t* chroma, bool v_first, std::int64_t pairs,
                                const YuvMatrix& matrix, const RgbPlanes& out) {
#if defined(FD_X86_TARGETS)
  if (isa_in_use() == LetterboxIsa::kAvx512) return convert_pairs_avx512(y, chroma, v_first, pairs, matrix, out);
#endif
  return 0;
}

void interleave_bytes(const std::uint8_t* first, const std::uint8_t* second, std::int64_t size, std::uint8_t* out) {
  std::int64_t i = 0;
#if defined(FD_X86_TARGETS)
  for (; i + 16 <= size; i += 16) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + i));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), _mm_unpacklo_epi8(a, b));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i + 16), _mm_unpackhi_epi8(a, b));
  }
#endif
  for (; i < size; ++i) {
    out[2 * i] = first[i];
    out[2 * i + 1] = second[i];
  }
}

void turn_floats(const float* turned, std::int64_t size, float* const* rows, std::int32_t count) {
  std::int64_t i = 0;
#if defined(FD_X86_TARGETS)
  for (; i + 4 <= size; i += 4) {
    for (std::int32_t k = 0; k < count; k += 4) {
      const float* const first = turned + kLanes * i + k;
      __m128 lane[4] = {_mm_loadu_ps(first), _mm_loadu_ps(first + kLanes), _mm_loadu_ps(first + 2 * kLanes),
                        _mm_loadu_ps(first + 3 * kLanes)};
      _MM_TRANSPOSE4_PS(lane[0], lane[1], lane[2], lane[3]);
      for (std::int32_t j = 0; j < 4 && k + j < count; ++j) _mm_storeu_ps(rows[k + j] + i, lane[j]);
    }
  }
#endif
  for (; i < size; ++i) {
    for (std::int32_t k = 0; k < count; ++k) rows[k][i] = turned[kLanes * i + k];
  }
}

void half_row(const float* values, std::int64_t size, Half* out) {
  std::int64_t done = 0;
#if defined(FD_X86_TARGETS)
  static const bool has_f16c = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");
  if (has_f16c && isa_in_use() != LetterboxIsa::kScalar) done = half_f16c(values, size, out);
#endif
  for (std::int64_t i = done; i < size; ++i) out[i] = to_half(values[i]);
}

}  // namespace fastdet
