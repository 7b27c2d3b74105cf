// SPDX-License-Identifier: Apache-2.0
// Every loop is written once over compose_math.h and compiled for the baseline, for AVX2 with FMA and for AVX-512, where the
// compiler makes vectors of it. By hand are those it cannot: two neighbouring pixels lie in eight bytes, so one 64-bit load for
// each of the two rows fetches what a pixel of the result needs; byte shuffles sort it by channel.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/platform.h"
#include "ops/compose/compose_rows.h"

#if defined(FD_X86_TARGETS)
#include <immintrin.h>
// GCC 12 sees uninitialised values inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace fastdet {
namespace {

std::atomic<ComposeIsa> isa_limit{ComposeIsa::kAvx512};

// ---- bodies ----

template <bool kProjective>
FD_HD void positions_of(const ComposeLayer& given, std::int32_t y, std::int32_t width, bool flipped,
                        const ComposePositions& out) {
  const ComposeLayer layer = given;  // a copy: stores below cannot change it
  const ComposeRow row = compose_row(layer, y);
  std::int32_t* FD_RESTRICT const xs = out.x;
  std::int32_t* FD_RESTRICT const ys = out.y;
  float* FD_RESTRICT const along = out.along;
  float* FD_RESTRICT const down = out.down;
  const std::int32_t first = flipped ? width - 1 : 0, step = flipped ? -1 : 1;
  for (std::int32_t i = 0; i < width; ++i) {
    const ComposePosition at = compose_position<kProjective>(layer, row, first + i * step);
    xs[i] = at.x;
    ys[i] = at.y;
    along[i] = at.along;
    down[i] = at.down;
  }
}

FD_HD void positions_body(const ComposeLayer& layer, std::int32_t y, std::int32_t width, bool flipped,
                          const ComposePositions& out) {
  layer.projective != 0 ? positions_of<true>(layer, y, width, flipped, out) : positions_of<false>(layer, y, width, flipped, out);
}

FD_HD bool in_run(const ComposePositions& at, std::int32_t i, const ComposeCell& cell) {
  return at.x[i] >= cell.x1 && at.x[i] <= cell.last_x && at.y[i] >= cell.y1 && at.y[i] <= cell.last_y;
}

FD_HD void sample_body(const ComposeTile* tiles, const ComposeLayer& layer, const std::uint8_t (&fill)[3],
                       const ComposePositions& at, std::int32_t begin, std::int32_t end, std::uint8_t* const (&planes)[3]) {
  for (std::int32_t i = begin; i < end; ++i) {
    std::uint8_t colour[3];
    compose_sample(tiles, layer, fill, {at.x[i], at.y[i], at.along[i], at.down[i]}, colour);
    for (std::int32_t c = 0; c < 3; ++c) planes[c][i] = colour[c];
  }
}

FD_HD void blend_body(std::uint8_t* FD_RESTRICT a, const std::uint8_t* FD_RESTRICT b, std::int32_t size, double share) {
  const double other = 1.0 - share;
  for (std::int32_t i = 0; i < size; ++i) a[i] = compose_blend(a[i], b[i], share, other);
}

constexpr std::int32_t kColours = 128;  // pixels a step: their buffers stay in the first cache

FD_HD void to_hsv_step(const std::uint8_t* FD_RESTRICT red, const std::uint8_t* FD_RESTRICT green,
                       const std::uint8_t* FD_RESTRICT blue, std::int32_t size, std::uint8_t (&FD_RESTRICT hsv)[3][kColours]) {
  for (std::int32_t i = 0; i < size; ++i) {
    const ComposeHsv at = compose_to_hsv(red[i], green[i], blue[i]);
    hsv[0][i] = static_cast<std::uint8_t>(at.hue);
    hsv[1][i] = static_cast<std::uint8_t>(at.saturation);
    hsv[2][i] = static_cast<std::uint8_t>(at.value);
  }
}

FD_HD void to_rgb_step(const std::uint8_t (&FD_RESTRICT hsv)[3][kColours], std::int32_t size, std::uint8_t* FD_RESTRICT red,
                       std::uint8_t* FD_RESTRICT green, std::uint8_t* FD_RESTRICT blue) {
  for (std::int32_t i = 0; i < size; ++i) {
    const ComposeRgb rgb = compose_to_rgb(hsv[0][i], hsv[1][i], hsv[2][i]);
    red[i] = static_cast<std::uint8_t>(rgb.red);
    green[i] = static_cast<std::uint8_t>(rgb.green);
    blue[i] = static_cast<std::uint8_t>(rgb.blue);
  }
}

FD_HD void colour_step(std::uint8_t* red, std::uint8_t* green, std::uint8_t* blue, std::int32_t size, const std::uint8_t* table) {
  std::uint8_t hsv[3][kColours];
  to_hsv_step(red, green, blue, size, hsv);
  for (std::int32_t c = 0; c < 3; ++c) {
    for (std::int32_t i = 0; i < size; ++i) hsv[c][i] = table[256 * c + hsv[c][i]];
  }
  to_rgb_step(hsv, size, red, green, blue);
}

FD_HD void colour_body(std::uint8_t* const (&planes)[3], std::int32_t size, const std::uint8_t* table) {
  std::int32_t i = 0;
  for (; i + kColours <= size; i += kColours) colour_step(planes[0] + i, planes[1] + i, planes[2] + i, kColours, table);
  if (i < size) colour_step(planes[0] + i, planes[1] + i, planes[2] + i, size - i, table);
}

FD_HD void interleave_from(const std::uint8_t* const (&planes)[3], std::int32_t begin, std::int32_t size, std::uint8_t* out) {
  for (std::int32_t i = begin; i < size; ++i) {
    for (std::int32_t c = 0; c < 3; ++c) out[3 * std::int64_t{i} + c] = planes[c][i];
  }
}

// ---- baseline ----

std::int32_t run_scalar(const ComposePositions& at, std::int32_t begin, std::int32_t end, const ComposeCell& cell) {
  std::int32_t i = begin;
  while (i < end && in_run(at, i, cell)) ++i;
  return i - begin;
}

void interleave_scalar(const std::uint8_t* const (&planes)[3], std::int32_t size, std::uint8_t* out) {
  interleave_from(planes, 0, size, out);
}

constexpr ComposeRowLoops kScalarLoops{
    positions_body, run_scalar,  compose_interpolate_each, compose_interpolate_each, sample_body,
    blend_body,     colour_body, interleave_scalar};

#if defined(FD_X86_TARGETS)

// ---- AVX2 with FMA ----

#define FD_COMPOSE_TARGET FD_TARGET("avx2,fma")

FD_COMPOSE_TARGET void positions_avx2(const ComposeLayer& layer, std::int32_t y, std::int32_t width, bool flipped,
                                      const ComposePositions& out) {
  positions_body(layer, y, width, flipped, out);
}
FD_COMPOSE_TARGET void sample_avx2(const ComposeTile* tiles, const ComposeLayer& layer, const std::uint8_t (&fill)[3],
                                   const ComposePositions& at, std::int32_t begin, std::int32_t end,
                                   std::uint8_t* const (&planes)[3]) {
  sample_body(tiles, layer, fill, at, begin, end, planes);
}
FD_COMPOSE_TARGET void blend_avx2(std::uint8_t* a, const std::uint8_t* b, std::int32_t size, double share) {
  blend_body(a, b, size, share);
}
FD_COMPOSE_TARGET void colour_avx2(std::uint8_t* const (&planes)[3], std::int32_t size, const std::uint8_t* table) {
  colour_body(planes, size, table);
}

FD_COMPOSE_TARGET std::int32_t run_avx2(const ComposePositions& at, std::int32_t begin, std::int32_t end,
                                        const ComposeCell& cell) {
  const __m256i low_x = _mm256_set1_epi32(cell.x1), high_x = _mm256_set1_epi32(cell.last_x);
  const __m256i low_y = _mm256_set1_epi32(cell.y1), high_y = _mm256_set1_epi32(cell.last_y);
  std::int32_t i = begin;
  for (; i + 8 <= end; i += 8) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at.x + i));
    const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at.y + i));
    const __m256i out_x = _mm256_or_si256(_mm256_cmpgt_epi32(low_x, x), _mm256_cmpgt_epi32(x, high_x));
    const __m256i out_y = _mm256_or_si256(_mm256_cmpgt_epi32(low_y, y), _mm256_cmpgt_epi32(y, high_y));
    const int out = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_or_si256(out_x, out_y)));
    if (out != 0) return i - begin + __builtin_ctz(static_cast<unsigned>(out));
  }
  while (i < end && in_run(at, i, cell)) ++i;
  return i - begin;
}

// Eight bytes of each of four pixels: 0 and 1 in the lower half of the register, 2 and 3 in the upper one.
FD_COMPOSE_TARGET inline __m256i load_pixels(const std::uint8_t* at0, const std::uint8_t* at1, const std::uint8_t* at2,
                                             const std::uint8_t* at3) {
  const auto load = [](const std::uint8_t* at)
                        FD_TARGET("avx2,fma") { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)); };
  const auto pair = [](__m128i low, const std::uint8_t* at) FD_TARGET("avx2,fma") {
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(at)));
  };
  return _mm256_inserti128_si256(_mm256_castsi128_si256(pair(load(at0), at1)), pair(load(at2), at3), 1);
}

// Eight pixels of one row, between left and right neighbour; shuffles bring (left, right) of a channel side by side.
FD_COMPOSE_TARGET inline __m256 between_columns(__m256i first, __m256i second, __m256i place_first, __m256i place_second,
                                                __m256 along) {
  const __m256i pair = _mm256_or_si256(_mm256_shuffle_epi8(first, place_first), _mm256_shuffle_epi8(second, place_second));
  const __m256i left = _mm256_and_si256(pair, _mm256_set1_epi32(0xffff));
  const __m256i step = _mm256_madd_epi16(pair, _mm256_set1_epi32(0x0001ffff));  // right - left
  return _mm256_fmadd_ps(along, _mm256_cvtepi32_ps(step), _mm256_cvtepi32_ps(left));
}

FD_COMPOSE_TARGET void interpolate_avx2(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t end,
                                        std::int64_t ahead, std::uint8_t* const (&planes)[3]) {
  if (end - begin < 8) {
    compose_interpolate_each(tile, at, begin, end, ahead, planes);
    return;
  }
  const ComposeDenseTile dense = compose_dense_tile(tile);
  const std::int64_t stride = tile.row_stride;
  const __m256i row_stride = _mm256_set1_epi32(static_cast<std::int32_t>(stride));
  const __m256i left = _mm256_set1_epi32(tile.left), top = _mm256_set1_epi32(tile.top);
  // Columns 0 1 4 5 lie in one register and 2 3 6 7 in the other; each fills its half of every 128-bit lane.
  __m256i place0[3], place1[3];
  for (int c = 0; c < 3; ++c) {
    const int none = static_cast<int>(0x80808080u), own = static_cast<int>(0x80008000u) | c | (c + 3) << 16,
              next = own + 0x00080008;
    place0[c] = _mm256_set_epi32(none, none, next, own, none, none, next, own);
    place1[c] = _mm256_set_epi32(next, own, none, none, next, own, none, none);
  }
  std::uint8_t* const out0 = planes[dense.reversed ? 2 : 0];
  std::uint8_t* const out1 = planes[1];
  std::uint8_t* const out2 = planes[dense.reversed ? 0 : 2];
  alignas(32) std::int32_t offset[8];
  for (std::int32_t next = begin; next < end; next += 8) {
    const std::int32_t i = std::min(next, end - 8);  // the last step overlaps the one before
    const __m256i x = _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at.x + i)), left);
    const __m256i y = _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at.y + i)), top);
    const __m256i in_row = _mm256_add_epi32(x, _mm256_add_epi32(x, x));
    _mm256_store_si256(reinterpret_cast<__m256i*>(offset), _mm256_add_epi32(_mm256_mullo_epi32(y, row_stride), in_row));
    const __m256 along = _mm256_loadu_ps(at.along + i), down = _mm256_loadu_ps(at.down + i);
    const std::uint8_t* p[8];
    for (int k = 0; k < 8; ++k) p[k] = dense.origin + offset[k];
    _mm_prefetch(reinterpret_cast<const char*>(p[0] + ahead), _MM_HINT_T0);
    const __m256i upper0 = load_pixels(p[0], p[1], p[4], p[5]), upper1 = load_pixels(p[2], p[3], p[6], p[7]);
    const __m256i lower0 = load_pixels(p[0] + stride, p[1] + stride, p[4] + stride, p[5] + stride);
    const __m256i lower1 = load_pixels(p[2] + stride, p[3] + stride, p[6] + stride, p[7] + stride);
    __m256i value[3];
    for (int c = 0; c < 3; ++c) {
      const __m256 above = between_columns(upper0, upper1, place0[c], place1[c], along);
      const __m256 below = between_columns(lower0, lower1, place0[c], place1[c], along);
      value[c] = _mm256_cvtps_epi32(_mm256_fmadd_ps(down, _mm256_sub_ps(below, above), above));
    }
    const __m256i words01 = _mm256_packus_epi32(value[0], value[1]), words2 = _mm256_packus_epi32(value[2], value[2]);
    const __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words01, words2), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m128i low = _mm256_castsi256_si128(bytes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out0 + i), low);
    _mm_storeh_pi(reinterpret_cast<__m64*>(out1 + i), _mm_castsi128_ps(low));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out2 + i), _mm256_extracti128_si256(bytes, 1));
  }
}

// 16 pixels a step: of each third of their 48 bytes, what every plane has to give.
FD_COMPOSE_TARGET void interleave_avx2(const std::uint8_t* const (&planes)[3], std::int32_t size, std::uint8_t* out) {
  alignas(16) std::int8_t from[3][3][16];  // [third, plane, byte]
  for (int third = 0; third < 3; ++third) {
    for (int byte = 0; byte < 16; ++byte) {
      const int place = 16 * third + byte;
      for (int c = 0; c < 3; ++c) from[third][c][byte] = static_cast<std::int8_t>(place % 3 == c ? place / 3 : -1);
    }
  }
  std::int32_t i = 0;
  for (; i + 16 <= size; i += 16) {
    __m128i plane[3];
    for (int c = 0; c < 3; ++c) plane[c] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(planes[c] + i));
    for (int third = 0; third < 3; ++third) {
      __m128i part[3];
      for (int c = 0; c < 3; ++c) {
        part[c] = _mm_shuffle_epi8(plane[c], _mm_load_si128(reinterpret_cast<const __m128i*>(from[third][c])));
      }
      const __m128i bytes = _mm_or_si128(_mm_or_si128(part[0], part[1]), part[2]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * std::int64_t{i} + 16 * third), bytes);
    }
  }
  interleave_from(planes, i, size, out);
}

constexpr ComposeRowLoops kAvx2Loops{positions_avx2, run_avx2,   interpolate_avx2, interpolate_avx2,
                                     sample_avx2,    blend_avx2, colour_avx2,      interleave_avx2};

// ---- AVX-512 with VBMI; more in compose_wide_cpu.cpp ----

#define FD_COMPOSE_TARGET_512 FD_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx2,fma")

FD_COMPOSE_TARGET_512 void positions_avx512(const ComposeLayer& layer, std::int32_t y, std::int32_t width, bool flipped,
                                            const ComposePositions& out) {
  positions_body(layer, y, width, flipped, out);
}

#endif

ComposeIsa best_isa() {
#if defined(FD_X86_TARGETS)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return ComposeIsa::kScalar;
  const bool wide = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return wide ? ComposeIsa::kAvx512 : ComposeIsa::kAvx2;
#endif
  return ComposeIsa::kScalar;
}

}  // namespace

void compose_limit_isa(ComposeIsa limit) { isa_limit.store(limit, std::memory_order_relaxed); }

const ComposeRowLoops& compose_row_loops() {
  static const ComposeIsa best = best_isa();
#if defined(FD_X86_TARGETS)
  const ComposeIsa isa = std::min(best, isa_limit.load(std::memory_order_relaxed));
  static const ComposeRowLoops wide = [] {
    ComposeRowLoops loops = compose_wide_loops(kAvx2Loops);
    loops.positions = positions_avx512;
    return loops;
  }();
  if (isa != ComposeIsa::kScalar) return isa == ComposeIsa::kAvx512 ? wide : kAvx2Loops;
#endif
  return kScalarLoops;
}

}  // namespace fastdet
