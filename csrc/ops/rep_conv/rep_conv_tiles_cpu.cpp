// SPDX-License-Identifier: Apache-2.0
// Accumulators of a whole tile stay in registers while k runs: 8 x 2 of AVX-512, 6 x 2 of AVX2, 4 x 2 of SSE2 by the compiler.
#include "ops/rep_conv/rep_conv_tiles.h"

#include <atomic>

#include "core/platform.h"

#if defined(FD_X86_TARGETS)
#include <immintrin.h>
#endif

namespace fastdet::rep_conv {
namespace {

std::atomic<int> tile_limit{2};

void multiply_plain(const float* a, const float* b, float* c, std::int64_t depth) {
  constexpr int rows = 4, columns = 8;
  float sums[rows][columns];
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < columns; ++n) sums[m][n] = c[m * columns + n];
  for (std::int64_t k = 0; k < depth; ++k, a += rows, b += columns)
    for (int m = 0; m < rows; ++m)
      for (int n = 0; n < columns; ++n) sums[m][n] = sums[m][n] + a[m] * b[n];
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < columns; ++n) c[m * columns + n] = sums[m][n];
}
constexpr Tile kPlain{4, 8, multiply_plain};

#if defined(FD_X86_TARGETS)

FD_TARGET("avx2") void multiply_avx2(const float* a, const float* b, float* c, std::int64_t depth) {
  constexpr int rows = 6, columns = 16;
  __m256 sums[rows][2];
#pragma GCC unroll 6
  for (int m = 0; m < rows; ++m) {
    sums[m][0] = _mm256_loadu_ps(c + m * columns);
    sums[m][1] = _mm256_loadu_ps(c + m * columns + 8);
  }
  for (std::int64_t k = 0; k < depth; ++k, a += rows, b += columns) {
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int m = 0; m < rows; ++m) {
      const __m256 factor = _mm256_broadcast_ss(a + m);
      sums[m][0] = _mm256_add_ps(sums[m][0], _mm256_mul_ps(factor, b0));
      sums[m][1] = _mm256_add_ps(sums[m][1], _mm256_mul_ps(factor, b1));
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < rows; ++m) {
    _mm256_storeu_ps(c + m * columns, sums[m][0]);
    _mm256_storeu_ps(c + m * columns + 8, sums[m][1]);
  }
}
constexpr Tile kAvx2{6, 16, multiply_avx2};

FD_TARGET("avx512f") void multiply_avx512(const float* a, const float* b, float* c, std::int64_t depth) {
  constexpr int rows = 8, columns = 32;
  __m512 sums[rows][2];
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
    sums[m][0] = _mm512_loadu_ps(c + m * columns);
    sums[m][1] = _mm512_loadu_ps(c + m * columns + 16);
  }
  for (std::int64_t k = 0; k < depth; ++k, a += rows, b += columns) {
    const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const __m512 factor = _mm512_set1_ps(a[m]);
      sums[m][0] = _mm512_add_ps(sums[m][0], _mm512_mul_ps(factor, b0));
      sums[m][1] = _mm512_add_ps(sums[m][1], _mm512_mul_ps(factor, b1));
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
    _mm512_storeu_ps(c + m * columns, sums[m][0]);
    _mm512_storeu_ps(c + m * columns + 16, sums[m][1]);
  }
}
constexpr Tile kAvx512{8, 32, multiply_avx512};

int best_level() { return __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx2") ? 1 : 0; }

#endif

}  // namespace

const Tile& best_tile() {
#if defined(FD_X86_TARGETS)
  static const int best = best_level();
  const int limit = tile_limit.load(std::memory_order_relaxed);
  const int level = best < limit ? best : limit;
  if (level >= 2) return kAvx512;
  if (level == 1) return kAvx2;
#endif
  return kPlain;
}

void set_tile_limit(int limit) { tile_limit.store(limit, std::memory_order_relaxed); }

}  // namespace fastdet::rep_conv
