// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"
#include "core/platform.h"
#include "ops/rep_conv/rep_conv_winograd.h"

#if defined(FD_X86_TARGETS)
// GCC 12 sees uninitialised values inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#define FD_WIDE FD_TARGET("avx512f,avx512dq")

namespace fastdet::rep_conv {
namespace {

template <int M>
FD_WIDE void multiply_rows(const float* a, std::int64_t a_step, const float* b, std::int64_t depth, float* sums) {
  __m512 total[M][2];
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m) total[m][0] = total[m][1] = _mm512_setzero_ps();
  constexpr int kGroups = (M + 2) / 3;  // row m is group[m / 3] + (m % 3) * a_step: five pointers address fourteen rows
  const float* group[kGroups];
#pragma GCC unroll 5
  for (int g = 0; g < kGroups; ++g) group[g] = a + 3 * g * a_step;
#pragma GCC unroll 2
  for (std::int64_t k = 0; k < depth; ++k, b += kWinogradColumns) {
    const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + kLanes);
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m) {
      const __m512 factor = _mm512_set1_ps(group[m / 3][(m % 3) * a_step]);
      total[m][0] = _mm512_fmadd_ps(factor, b0, total[m][0]);
      total[m][1] = _mm512_fmadd_ps(factor, b1, total[m][1]);
    }
#pragma GCC unroll 5
    for (int g = 0; g < kGroups; ++g) ++group[g];
  }
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m) {
    _mm512_storeu_ps(sums + m * kWinogradColumns, total[m][0]);
    _mm512_storeu_ps(sums + m * kWinogradColumns + kLanes, total[m][1]);
  }
}

using Multiply = void (*)(const float*, std::int64_t, const float*, std::int64_t, float*);
template <std::size_t... M>
constexpr std::array<Multiply, sizeof...(M)> multiplies_of(std::index_sequence<M...>) {
  return {&multiply_rows<static_cast<int>(M) + 1>...};
}
constexpr auto kMultiplies = multiplies_of(std::make_index_sequence<static_cast<std::size_t>(kWinogradRows)>{});

// Lanes whose place at + lane lies in [0, size).
FD_WIDE inline __mmask16 inside(std::int64_t at, std::int64_t size) {
  const std::int64_t begin = std::clamp<std::int64_t>(-at, 0, kLanes), end = std::clamp<std::int64_t>(size - at, 0, kLanes);
  return static_cast<__mmask16>(end > begin ? (1u << end) - (1u << begin) : 0u);
}

// B^T d of Lavin and Gray, of rows or of columns.
FD_WIDE inline void window_rows(const __m512 (&d)[4], __m512 (&w)[4]) {
  w[0] = _mm512_sub_ps(d[0], d[2]);
  w[1] = _mm512_add_ps(d[1], d[2]);
  w[2] = _mm512_sub_ps(d[2], d[1]);
  w[3] = _mm512_sub_ps(d[1], d[3]);
}

// A^T m, of rows or of columns.
FD_WIDE inline void output_rows(const __m512 (&m)[4], __m512 (&y)[2]) {
  y[0] = _mm512_add_ps(_mm512_add_ps(m[0], m[1]), m[2]);
  y[1] = _mm512_sub_ps(_mm512_sub_ps(m[1], m[2]), m[3]);
}

// G g, of rows or of columns.
FD_WIDE inline void filter_rows(const __m512 (&g)[3], __m512 (&u)[4]) {
  const __m512 half = _mm512_set1_ps(0.5f), ends = _mm512_add_ps(g[0], g[2]);
  u[0] = g[0];
  u[1] = _mm512_mul_ps(half, _mm512_add_ps(ends, g[1]));
  u[2] = _mm512_mul_ps(half, _mm512_sub_ps(ends, g[1]));
  u[3] = g[2];
}

// Sixteen tiles: 34 columns of four rows, then even and odd columns apart.
FD_WIDE inline void window_of_sixteen(const WindowPlace& p, std::int64_t x, __mmask16 tiles, float* to, std::int64_t step) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  __m512 rows[3][4];
#pragma GCC unroll 3
  for (int part = 0; part < 3; ++part) {
    const std::int64_t at = x + part * kLanes;
    const __mmask16 columns = part < 2 ? inside(at, p.width) : inside(at, std::min(p.width, at + 2));
    __m512 d[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const bool within = p.y + r >= 0 && p.y + r < p.height;
      d[r] = _mm512_maskz_loadu_ps(within ? columns : static_cast<__mmask16>(0), p.first + (p.y + r) * p.row + at);
    }
    window_rows(d, rows[part]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const __m512i last = _mm512_castps_si512(rows[2][r]);
    const __m512 e = _mm512_permutex2var_ps(rows[0][r], even, rows[1][r]),
                 o = _mm512_permutex2var_ps(rows[0][r], odd, rows[1][r]);
    const __m512i next = _mm512_alignr_epi32(last, _mm512_castps_si512(e), 1);
    const __m512i after = _mm512_alignr_epi32(_mm512_alignr_epi32(last, last, 1), _mm512_castps_si512(o), 1);
    const __m512 d[4] = {e, o, _mm512_castsi512_ps(next), _mm512_castsi512_ps(after)};
    __m512 v[4];
    window_rows(d, v);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) _mm512_mask_storeu_ps(to + (4 * r + c) * step, tiles, v[c]);
  }
}

}  // namespace

std::string winograd_missing() {
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  return wide ? "" : "the processor lacks AVX-512";
}

void winograd_multiply(const float* a, std::int64_t a_step, const float* b, std::int64_t depth, std::int64_t rows, float* sums) {
  kMultiplies[static_cast<std::size_t>(rows - 1)](a, a_step, b, depth, sums);
}

FD_WIDE void winograd_window_of_planes(const WindowPlace& place, std::int64_t count, float* to, std::int64_t step) {
  for (std::int64_t tile = 0; tile < count; tile += kLanes) {
    window_of_sixteen(place, place.x + 2 * tile, inside(tile, count), to + tile, step);
  }
}

FD_WIDE void winograd_window_of_pixels(const WindowPlace& p, std::int64_t pixel, std::int64_t channels, float* to,
                                       std::int64_t step) {
  for (std::int64_t channel = 0; channel < channels; channel += kLanes) {
    const __mmask16 lanes = inside(channel, channels);
    __m512 rows[4][4];  // [column][row]
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      __m512 d[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const bool within = p.y + r >= 0 && p.y + r < p.height && p.x + c >= 0 && p.x + c < p.width;
        const float* from = p.first + (p.y + r) * p.row + (p.x + c) * pixel + channel;
        d[r] = _mm512_maskz_loadu_ps(within ? lanes : static_cast<__mmask16>(0), from);
      }
      window_rows(d, rows[c]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m512 d[4] = {rows[0][r], rows[1][r], rows[2][r], rows[3][r]};
      __m512 v[4];
      window_rows(d, v);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) _mm512_mask_storeu_ps(to + (4 * r + c) * step + channel, lanes, v[c]);
    }
  }
}

FD_WIDE bool winograd_outputs(const float* sums, std::int64_t step, const float* bias, float* out) {
  __mmask16 lost = 0;
  for (std::int64_t lane = 0; lane < kWinogradColumns; lane += kLanes) {
    const __m512 added = bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + lane);
    __m512 rows[2][4];  // [row][column]
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      __m512 m[4], y[2];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) m[r] = _mm512_loadu_ps(sums + (4 * r + c) * step + lane);
      output_rows(m, y);
      rows[0][c] = y[0], rows[1][c] = y[1];
    }
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      __m512 y[2];
      output_rows(rows[r], y);
      constexpr int kNotFinite = 0x99;  // NaN of both kinds, both infinities
      lost = _kor_mask16(lost, _kor_mask16(_mm512_fpclass_ps_mask(y[0], kNotFinite), _mm512_fpclass_ps_mask(y[1], kNotFinite)));
      _mm512_storeu_ps(out + 2 * r * kWinogradColumns + lane, _mm512_add_ps(y[0], added));
      _mm512_storeu_ps(out + (2 * r + 1) * kWinogradColumns + lane, _mm512_add_ps(y[1], added));
    }
  }
  return lost == 0;
}

FD_WIDE void winograd_interleave(const float* a, const float* b, float* to) {
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
#pragma GCC unroll 2
  for (std::int64_t lane = 0; lane < kWinogradColumns; lane += kLanes) {
    const __m512 left = _mm512_loadu_ps(a + lane), right = _mm512_loadu_ps(b + lane);
    _mm512_storeu_ps(to + 2 * lane, _mm512_permutex2var_ps(left, low, right));
    _mm512_storeu_ps(to + 2 * lane + kLanes, _mm512_permutex2var_ps(left, high, right));
  }
}

FD_WIDE void winograd_filters(const float* taps, std::int64_t tap, std::int64_t count, float* to, std::int64_t step) {
  const __mmask16 lanes = inside(0, count);
  __m512 rows[3][4];  // [column][row]
#pragma GCC unroll 3
  for (int c = 0; c < 3; ++c) {
    __m512 g[3];
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r) g[r] = _mm512_loadu_ps(taps + (3 * r + c) * tap);
    filter_rows(g, rows[c]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const __m512 g[3] = {rows[0][r], rows[1][r], rows[2][r]};
    __m512 u[4];
    filter_rows(g, u);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) _mm512_mask_storeu_ps(to + (4 * r + c) * step, lanes, u[c]);
  }
}

}  // namespace fastdet::rep_conv

#else

namespace fastdet::rep_conv {

std::string winograd_missing() { return "this build is not for x86-64"; }
void winograd_multiply(const float*, std::int64_t, const float*, std::int64_t, std::int64_t, float*) {
  throw RuntimeError(winograd_missing());
}
void winograd_window_of_planes(const WindowPlace&, std::int64_t, float*, std::int64_t) { throw RuntimeError(winograd_missing()); }
void winograd_window_of_pixels(const WindowPlace&, std::int64_t, std::int64_t, float*, std::int64_t) {
  throw RuntimeError(winograd_missing());
}
bool winograd_outputs(const float*, std::int64_t, const float*, float*) { throw RuntimeError(winograd_missing()); }
void winograd_interleave(const float*, const float*, float*) { throw RuntimeError(winograd_missing()); }
void winograd_filters(const float*, std::int64_t, std::int64_t, float*, std::int64_t) { throw RuntimeError(winograd_missing()); }

}  // namespace fastdet::rep_conv

#endif
