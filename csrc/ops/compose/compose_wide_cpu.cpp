// SPDX-License-Identifier: Apache-2.0
// Loops over rows for AVX-512 with VBMI, whose shuffles pick any byte of two registers: pixels are sorted by channel in one step,
// and a row of the canvas that an upright map walks along is read 64 bytes at a time.
#include "core/platform.h"
#include "ops/compose/compose_rows.h"

#if defined(FD_X86_TARGETS)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
// GCC 12 sees uninitialised values inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace fastdet {
namespace {

#define FD_COMPOSE_WIDE FD_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx2,fma")
#define FD_COMPOSE_WIDE_INLINE FD_COMPOSE_WIDE FD_HD

constexpr __mmask64 kWordBytes = 0x5555555555555555u;  // the lower byte of every 16-bit word

// Dwords of (left, right) bytes, as words, to floats between them.
FD_COMPOSE_WIDE_INLINE __m512 between_columns(__m512i pair, __m512 along) {
  const __m512i left = _mm512_and_si512(pair, _mm512_set1_epi32(0xffff));
  const __m512i step = _mm512_madd_epi16(pair, _mm512_set1_epi32(0x0001ffff));  // right - left
  return _mm512_fmadd_ps(along, _mm512_cvtepi32_ps(step), _mm512_cvtepi32_ps(left));
}

// ---- any map ----

// Eight bytes of a pixel and of that below it, for eight pixels in the order of their offsets.
struct PixelPairs {
  __m512i upper, lower;
};
FD_COMPOSE_WIDE_INLINE __m128i load_two(const std::uint8_t* first, const std::uint8_t* second) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
  return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(second)));
}
FD_COMPOSE_WIDE_INLINE __m512i join(const __m128i (&part)[4]) {
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part[0]), part[1], 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part[2]), part[3], 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
FD_COMPOSE_WIDE_INLINE PixelPairs load_pixels(const std::uint8_t* origin, std::int64_t stride, const std::int32_t* offset) {
  __m128i upper[4], lower[4];
  for (int k = 0; k < 4; ++k) {
    const std::uint8_t* const first = origin + offset[2 * k];
    const std::uint8_t* const second = origin + offset[2 * k + 1];
    upper[k] = load_two(first, second);
    lower[k] = load_two(first + stride, second + stride);
  }
  return {join(upper), join(lower)};
}

constexpr std::int32_t kOffsets = 128;  // pixels whose offsets are found in one go

// Offset of each of `size` pixels in the picture.
FD_COMPOSE_WIDE void find_offsets(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t size,
                                  std::int32_t (&offset)[kOffsets]) {
  const auto stride = static_cast<std::int32_t>(tile.row_stride);
  const std::int32_t left = tile.left, top = tile.top;
  const std::int32_t* FD_RESTRICT const x = at.x + begin;
  const std::int32_t* FD_RESTRICT const y = at.y + begin;
  for (std::int32_t i = 0; i < size; ++i) offset[i] = (y[i] - top) * stride + 3 * (x[i] - left);
}

// Steps of 8 pixels, the last of which overlaps the one before; size in [8, kOffsets].
FD_COMPOSE_WIDE void interpolate_chunk(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t size,
                                       std::int64_t ahead, std::uint8_t* const (&out)[3]) {
  const std::uint8_t* const origin = compose_dense_tile(tile).origin;
  alignas(64) std::int32_t offset[kOffsets];
  find_offsets(tile, at, begin, size, offset);
  // Dwords 0 to 7 are the upper pixels, of which the first register has eight bytes each, 8 to 15 the lower ones.
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i first = _mm512_mullo_epi32(lane, _mm512_set1_epi32(0x00080008));
  __m512i place[3];
  for (int c = 0; c < 3; ++c) place[c] = _mm512_add_epi32(first, _mm512_set1_epi32(c | (c + 3) << 16));
  for (std::int32_t next = 0; next < size; next += 8) {
    const std::int32_t j = std::min(next, size - 8), i = begin + j;
    _mm_prefetch(reinterpret_cast<const char*>(origin + offset[j] + ahead), _MM_HINT_T0);
    const PixelPairs pixels = load_pixels(origin, tile.row_stride, offset + j);
    const __m512 along = _mm512_broadcast_f32x8(_mm256_loadu_ps(at.along + i));
    const __m256 down = _mm256_loadu_ps(at.down + i);
    for (int c = 0; c < 3; ++c) {
      const __m512i pair = _mm512_maskz_permutex2var_epi8(kWordBytes, pixels.upper, place[c], pixels.lower);
      const __m512 rows = between_columns(pair, along);
      const __m256 above = _mm512_castps512_ps256(rows), below = _mm512_extractf32x8_ps(rows, 1);
      const __m256i value = _mm256_cvtps_epi32(_mm256_fmadd_ps(down, _mm256_sub_ps(below, above), above));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out[c] + i), _mm256_cvtepi32_epi8(value));
    }
  }
}

FD_COMPOSE_WIDE void interpolate_wide(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t end,
                                      std::int64_t ahead, std::uint8_t* const (&planes)[3]) {
  if (end - begin < 8) {
    compose_interpolate_each(tile, at, begin, end, ahead, planes);
    return;
  }
  const bool reversed = compose_dense_tile(tile).reversed;
  std::uint8_t* const out[3] = {planes[reversed ? 2 : 0], planes[1], planes[reversed ? 0 : 2]};
  for (std::int32_t next = begin; next < end; next += kOffsets) {
    const std::int32_t i = std::min(next, std::max(begin, end - kOffsets));
    interpolate_chunk(tile, at, i, std::min(end - i, kOffsets), ahead, out);
  }
}

// ---- along a row of the canvas ----

// The first `count` of 128 bytes, in two registers; what lies behind is not touched.
struct RowBytes {
  __m512i low, high;
};
FD_COMPOSE_WIDE_INLINE RowBytes load_row(const std::uint8_t* at, std::int32_t count) {
  const __mmask64 all = ~__mmask64{0};
  const __mmask64 low = count < 64 ? all >> (64 - count) : all, high = count > 64 ? all >> (128 - count) : 0;
  return {_mm512_maskz_loadu_epi8(low, at), _mm512_maskz_loadu_epi8(high, at + 64)};
}

constexpr std::int32_t kRowSpan = 128;  // bytes that a step of 16 pixels may lie apart

FD_COMPOSE_WIDE void interpolate_row_wide(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin,
                                          std::int32_t end, std::int64_t ahead, std::uint8_t* const (&planes)[3]) {
  if (end - begin < 16) {
    interpolate_wide(tile, at, begin, end, ahead, planes);
    return;
  }
  const ComposeDenseTile dense = compose_dense_tile(tile);
  const std::uint8_t* const row = dense.origin + (at.y[begin] - tile.top) * tile.row_stride;
  const __m512 down = _mm512_set1_ps(at.down[begin]);
  const __m512i next_channel = _mm512_set1_epi32(0x00010001);
  std::uint8_t* const out[3] = {planes[dense.reversed ? 2 : 0], planes[1], planes[dense.reversed ? 0 : 2]};
  for (std::int32_t next = begin; next < end; next += 16) {
    const std::int32_t i = std::min(next, end - 16);  // the last step overlaps the one before
    const std::int32_t first = std::min(at.x[i], at.x[i + 15]), last = std::max(at.x[i], at.x[i + 15]);
    const std::int32_t span = 3 * (last - first + 2);
    if (span > kRowSpan) {
      interpolate_wide(tile, at, i, i + 16, ahead, planes);
      continue;
    }
    const std::uint8_t* const from = row + 3 * std::int64_t{first - tile.left};
    _mm_prefetch(reinterpret_cast<const char*>(from + ahead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(from + ahead + 64), _MM_HINT_T0);
    const RowBytes upper = load_row(from, span), lower = load_row(from + tile.row_stride, span);
    const __m512i x = _mm512_sub_epi32(_mm512_loadu_si512(at.x + i), _mm512_set1_epi32(first));
    const __m512 along = _mm512_loadu_ps(at.along + i);
    // Byte 3 x in the lower word, 3 x + 3 in the upper one.
    __m512i place = _mm512_add_epi32(_mm512_mullo_epi32(x, _mm512_set1_epi32(0x00030003)), _mm512_set1_epi32(0x00030000));
    for (int c = 0; c < 3; ++c) {
      const __m512i pair = _mm512_maskz_permutex2var_epi8(kWordBytes, upper.low, place, upper.high);
      const __m512i pair_below = _mm512_maskz_permutex2var_epi8(kWordBytes, lower.low, place, lower.high);
      const __m512 above = between_columns(pair, along), below = between_columns(pair_below, along);
      const __m512i value = _mm512_cvtps_epi32(_mm512_fmadd_ps(down, _mm512_sub_ps(below, above), above));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out[c] + i), _mm512_cvtepi32_epi8(value));
      place = _mm512_add_epi32(place, next_channel);
    }
  }
}

// ---- colours ----

// 256 entries, 64 bytes at a time: two shuffles of two registers, chosen by the highest bit.
FD_COMPOSE_WIDE_INLINE __m512i look_up(const std::uint8_t* table, __m512i at) {
  __m512i entries[4];
  for (int k = 0; k < 4; ++k) entries[k] = _mm512_loadu_si512(table + 64 * k);
  const __m512i low = _mm512_permutex2var_epi8(entries[0], at, entries[1]);
  const __m512i high = _mm512_permutex2var_epi8(entries[2], at, entries[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high);
}

// Registers of 64 bytes or floats of 16 pixels; the four parts of 64 pixels, and back from the lowest bytes of four.
struct Widths {
  FD_COMPOSE_WIDE Widths() {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int k = 0; k < 4; ++k) part[k] = _mm512_add_epi32(lane, _mm512_set1_epi32(16 * k));
    const __m512i eighth = _mm512_and_si512(lane, _mm512_set1_epi32(7));
    whole = _mm512_add_epi32(_mm512_mullo_epi32(eighth, _mm512_set1_epi32(0x10101010)), _mm512_set1_epi32(0x0c080400));
  }
  FD_COMPOSE_WIDE_INLINE __m512i widen(__m512i bytes, int k) const {
    return _mm512_maskz_permutexvar_epi8(0x1111111111111111u, part[k], bytes);
  }
  // Byte c of every dword.
  FD_COMPOSE_WIDE_INLINE __m512i narrow(const __m512i (&dwords)[4], int c) const {
    const __m512i from = _mm512_add_epi8(whole, _mm512_set1_epi8(static_cast<char>(c)));
    const __m512i low = _mm512_permutex2var_epi8(dwords[0], from, dwords[1]);
    return _mm512_mask_blend_epi8(0xffffffff00000000u, low, _mm512_permutex2var_epi8(dwords[2], from, dwords[3]));
  }

  __m512i part[4];  // dword j: byte 16 k + j
  __m512i whole;    // bytes j and 32 + j: byte 4 j of two registers
};

struct Colours {
  __m512i hue, saturation, value;  // bytes
};

// compose_to_hsv in floats: products of integers and of quotients in 2^-12 stay below 2^24 units and so are exact.
FD_COMPOSE_WIDE_INLINE Colours to_hsv(const Widths& widths, __m512i red, __m512i green, __m512i blue) {
  constexpr int kToTwelveBits = 12 << 4 | _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f), circle = _mm512_set1_ps(180.0f);
  const __m512i value = _mm512_max_epu8(red, _mm512_max_epu8(green, blue));
  const __m512i span = _mm512_sub_epi8(value, _mm512_min_epu8(red, _mm512_min_epu8(green, blue)));
  const __mmask64 is_red = _mm512_cmpeq_epi8_mask(value, red), is_green = _mm512_cmpeq_epi8_mask(value, green) & ~is_red;
  // The angle is plus - minus + turn * span: g - b, b - r + 2 span or r - g + 4 span.
  const __m512i plus = _mm512_mask_blend_epi8(is_red, _mm512_mask_blend_epi8(is_green, red, blue), green);
  const __m512i minus = _mm512_mask_blend_epi8(is_red, _mm512_mask_blend_epi8(is_green, green, red), blue);
  __m512i hues[4], saturations[4];
  for (int k = 0; k < 4; ++k) {
    const __m512 v = _mm512_cvtepi32_ps(widths.widen(value, k)), s = _mm512_cvtepi32_ps(widths.widen(span, k));
    const __m512 per_value = _mm512_roundscale_ps(_mm512_div_ps(_mm512_set1_ps(255.0f), _mm512_max_ps(v, one)), kToTwelveBits);
    const __m512 per_span = _mm512_roundscale_ps(_mm512_div_ps(_mm512_set1_ps(30.0f), _mm512_max_ps(s, one)), kToTwelveBits);
    saturations[k] = _mm512_cvttps_epi32(_mm512_fmadd_ps(s, per_value, half));
    const auto red_here = static_cast<__mmask16>(is_red >> (16 * k)), green_here = static_cast<__mmask16>(is_green >> (16 * k));
    const __m512 turn = _mm512_maskz_mov_ps(static_cast<__mmask16>(~red_here),
                                            _mm512_mask_mov_ps(_mm512_set1_ps(4.0f), green_here, _mm512_set1_ps(2.0f)));
    const __m512 difference = _mm512_cvtepi32_ps(_mm512_sub_epi32(widths.widen(plus, k), widths.widen(minus, k)));
    const __m512 hue = _mm512_fmadd_ps(_mm512_fmadd_ps(turn, s, difference), per_span, half);
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(hue));
    hues[k] = _mm512_cvttps_epi32(_mm512_mask_add_ps(hue, negative, hue, circle));
  }
  return {widths.narrow(hues, 0), widths.narrow(saturations, 0), value};
}

// compose_to_rgb for part k. The four shades of a pixel lie in one dword, from which a shuffle by the sector takes three.
FD_COMPOSE_WIDE_INLINE __m512i to_rgb(const Widths& widths, const Colours& hsv, int k) {
  constexpr int kValue = 0, kLow = 1, kFalling = 2, kRising = 3;
  constexpr auto pick = [](int red, int green, int blue) { return red | green << 8 | blue << 16; };
  constexpr int first = pick(kValue, kRising, kLow), second = pick(kFalling, kValue, kLow), third = pick(kLow, kValue, kRising);
  const __m512i picks = _mm512_setr_epi32(first, second, third, pick(kLow, kFalling, kValue), pick(kRising, kLow, kValue),
                                          pick(kValue, kLow, kFalling), first, second, third, 0, 0, 0, 0, 0, 0, 0);
  const __m512i lanes = _mm512_set4_epi32(0x0c0c0c, 0x080808, 0x040404, 0);
  const __m512 one = _mm512_set1_ps(1.0f), unit = _mm512_set1_ps(1.0f / 255.0f), most = _mm512_set1_ps(255.0f);
  const __m512 sixths = _mm512_mul_ps(_mm512_cvtepi32_ps(widths.widen(hsv.hue, k)), _mm512_set1_ps(6.0f / 180.0f));
  const __m512 s = _mm512_mul_ps(_mm512_cvtepi32_ps(widths.widen(hsv.saturation, k)), unit);
  const __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(widths.widen(hsv.value, k)), unit);
  const __m512i sector = _mm512_cvttps_epi32(sixths);
  const __m512 part = _mm512_sub_ps(sixths, _mm512_cvtepi32_ps(sector));
  const __m512 low = _mm512_mul_ps(v, _mm512_sub_ps(one, s)), falling = _mm512_mul_ps(v, _mm512_fnmadd_ps(s, part, one));
  const __m512 rising = _mm512_mul_ps(v, _mm512_fnmadd_ps(s, _mm512_sub_ps(one, part), one));
  const __m512i v8 = _mm512_cvttps_epi32(_mm512_mul_ps(v, most)), low8 = _mm512_cvttps_epi32(_mm512_mul_ps(low, most));
  const __m512i falling8 = _mm512_cvttps_epi32(_mm512_mul_ps(falling, most));
  const __m512i rising8 = _mm512_cvttps_epi32(_mm512_mul_ps(rising, most));
  const __m512i pair = _mm512_or_si512(v8, _mm512_slli_epi32(low8, 8));
  const __m512i shades = _mm512_ternarylogic_epi32(pair, _mm512_slli_epi32(falling8, 16), _mm512_slli_epi32(rising8, 24), 0xfe);
  return _mm512_shuffle_epi8(shades, _mm512_add_epi32(_mm512_permutexvar_epi32(sector, picks), lanes));
}

FD_COMPOSE_WIDE void colour_wide(std::uint8_t* const (&planes)[3], std::int32_t size, const std::uint8_t* table) {
  const Widths widths;
  alignas(64) std::uint8_t rest[3][64] = {};
  for (std::int32_t i = 0; i < size; i += 64) {
    const bool is_whole = size - i >= 64;
    const auto count = static_cast<std::size_t>(std::min(size - i, 64));
    std::uint8_t* plane[3];
    for (int c = 0; c < 3; ++c) {
      plane[c] = is_whole ? planes[c] + i : rest[c];
      if (!is_whole) std::memcpy(rest[c], planes[c] + i, count);
    }
    Colours hsv = to_hsv(widths, _mm512_loadu_si512(plane[0]), _mm512_loadu_si512(plane[1]), _mm512_loadu_si512(plane[2]));
    hsv.hue = look_up(table, hsv.hue);
    hsv.saturation = look_up(table + 256, hsv.saturation);
    hsv.value = look_up(table + 512, hsv.value);
    __m512i rgb[4];
    for (int k = 0; k < 4; ++k) rgb[k] = to_rgb(widths, hsv, k);
    for (int c = 0; c < 3; ++c) _mm512_storeu_si512(plane[c], widths.narrow(rgb, c));
    for (int c = 0; c < 3 && !is_whole; ++c) std::memcpy(planes[c] + i, rest[c], count);
  }
}

// ---- planes to pixels ----

// Of each third of 192 bytes: the pixel and the plane that a byte comes from.
struct Thirds {
  alignas(64) std::array<std::array<std::uint8_t, 64>, 3> place{};  // the pixel, 64 more in the second plane
  std::array<std::uint64_t, 3> last{};                              // bits of bytes of the third plane
};
constexpr Thirds thirds() {
  Thirds made;
  for (unsigned byte = 0; byte < 192; ++byte) {
    const unsigned pixel = byte / 3, plane = byte % 3;
    made.place[byte / 64][byte % 64] = static_cast<std::uint8_t>(pixel + (plane == 1 ? 64 : 0));
    if (plane == 2) made.last[byte / 64] |= std::uint64_t{1} << byte % 64;
  }
  return made;
}
constexpr Thirds kThirds = thirds();

FD_COMPOSE_WIDE_INLINE __mmask64 first_bytes(std::int32_t count) {
  return count >= 64 ? ~__mmask64{0} : ~(~__mmask64{0} << std::max(count, 0));
}

FD_COMPOSE_WIDE void interleave_wide(const std::uint8_t* const (&planes)[3], std::int32_t size, std::uint8_t* out) {
  for (std::int32_t i = 0; i < size; i += 64) {
    const __mmask64 present = first_bytes(size - i);
    __m512i plane[3];
    for (int c = 0; c < 3; ++c) plane[c] = _mm512_maskz_loadu_epi8(present, planes[c] + i);
    for (int third = 0; third < 3; ++third) {
      const auto part = static_cast<std::size_t>(third);
      const __m512i from = _mm512_load_si512(kThirds.place[part].data());
      const __m512i two = _mm512_permutex2var_epi8(plane[0], from, plane[1]);
      const __m512i bytes = _mm512_mask_permutexvar_epi8(two, kThirds.last[part], from, plane[2]);
      _mm512_mask_storeu_epi8(out + 3 * std::int64_t{i} + 64 * third, first_bytes(3 * (size - i) - 64 * third), bytes);
    }
  }
}

}  // namespace

ComposeRowLoops compose_wide_loops(const ComposeRowLoops& narrow) {
  ComposeRowLoops loops = narrow;
  loops.interpolate = interpolate_wide;
  loops.interpolate_row = interpolate_row_wide;
  loops.colour = colour_wide;
  loops.interleave = interleave_wide;
  return loops;
}

}  // namespace fastdet

#endif
