// SPDX-License-Identifier: Apache-2.0
#include "network/tiles.h"

#include <array>
#include <utility>

#include "core/check.h"
#include "core/platform.h"

#if defined(FD_X86_TARGETS)
// GCC 12 sees uninitialised values inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#define FD_WIDE FD_TARGET("avx512f,avx512bw,avx512vl,avx512dq")
#define FD_WIDE_HALF FD_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

namespace fastdet::network {
namespace {

// Pixel m is group[m / 3] + (m % 3) * pixel, so that five pointers and one stride address fourteen pixels.
template <int M, int N, bool kHalf>
FD_WIDE_HALF void multiply_tile(const std::uint32_t* in, Index pixel, const Index* taps, Index tap_count, Index length,
                                const std::uint32_t* weight, float* sums) {
  __m512 total[M][N];
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) total[m][n] = _mm512_setzero_ps();
  constexpr int kGroups = (M + 2) / 3;
  for (Index t = 0; t < tap_count; ++t) {
    const std::uint32_t* group[kGroups];
#pragma GCC unroll 5
    for (int g = 0; g < kGroups; ++g) group[g] = in + taps[t] + 3 * g * pixel;
#pragma GCC unroll 2
    for (Index k = 0; k < length; ++k) {
      __m512 lanes[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) lanes[n] = _mm512_loadu_ps(weight + kLanes * n);
      weight += kLanes * N;
#pragma GCC unroll 14
      for (int m = 0; m < M; ++m) {
        const __m512i factor = _mm512_set1_epi32(static_cast<int>(group[m / 3][(m % 3) * pixel]));
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          if constexpr (kHalf) {
            total[m][n] = _mm512_dpbf16_ps(total[m][n], (__m512bh)factor, (__m512bh)_mm512_castps_si512(lanes[n]));
          } else {
            total[m][n] = _mm512_fmadd_ps(_mm512_castsi512_ps(factor), lanes[n], total[m][n]);
          }
        }
      }
#pragma GCC unroll 5
      for (int g = 0; g < kGroups; ++g) ++group[g];
    }
  }
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) _mm512_storeu_ps(sums + (m * N + n) * kLanes, total[m][n]);
}

template <int N, bool kHalf, std::size_t... M>
constexpr std::array<Multiply, sizeof...(M)> tiles_of(std::index_sequence<M...>) {
  return {&multiply_tile<static_cast<int>(M) + 1, N, kHalf>...};
}
using Pixels = std::make_index_sequence<static_cast<std::size_t>(kMaxPixels)>;
constexpr auto kSingle1 = tiles_of<1, false>(Pixels{}), kSingle2 = tiles_of<2, false>(Pixels{});
constexpr auto kHalf1 = tiles_of<1, true>(Pixels{}), kHalf2 = tiles_of<2, true>(Pixels{});

FD_WIDE inline __mmask16 first(Index channels) {
  return static_cast<__mmask16>(channels >= kLanes ? 0xffffu : (1u << channels) - 1u);
}

FD_WIDE inline __m512 load(const char* from, bool half, __mmask16 mask) {
  if (!half) return _mm512_maskz_loadu_ps(mask, from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

// Rounds to nearest even; NaN stays one.
FD_WIDE inline void store(char* to, bool half, __mmask16 mask, __m512 value) {
  if (!half) {
    _mm512_mask_storeu_ps(to, mask, value);
    return;
  }
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
  _mm256_mask_storeu_epi16(to, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

// e^x with a relative error below 1e-6 for |x| < 16; x is kept within +-80, where e^x and its inverse are normal numbers. NaN
// stays NaN.
FD_WIDE inline __m512 exponential(__m512 x) {
  const __m512 kept = _mm512_min_ps(_mm512_set1_ps(80.0f), _mm512_max_ps(_mm512_set1_ps(-80.0f), x));
  const __m512 power = _mm512_mul_ps(kept, _mm512_set1_ps(1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(power, whole);
  __m512 value = _mm512_set1_ps(1.5403530e-4f);  // Taylor's coefficients of 2^part, |part| <= 1/2
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(1.3333558e-3f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(9.6181291e-3f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(5.5504109e-2f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(2.4022651e-1f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(6.9314718e-1f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(value, whole);
}

// x / (1 + e^-x). The remainder to a whole power of two is 0 for infinities, and scalef takes the rest, so nothing has to be cut
// off. Coefficients: least largest relative error of 2^part on [0, 1]: 7.5e-8 and, where bfloat16 is all that is kept, 7.5e-5.
template <bool kHalf>
FD_WIDE inline __m512 silu(__m512 x) {
  const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
  const __m512 part = _mm512_reduce_ps(power, _MM_FROUND_TO_NEG_INF);
  if constexpr (kHalf) {
    __m512 value = _mm512_set1_ps(7.80245108e-2f);
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(2.26067172e-1f));
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(6.95833535e-1f));
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(9.99925219e-1f));
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(_mm512_scalef_ps(value, power), _mm512_set1_ps(1.0f))));
  } else {
    __m512 value = _mm512_set1_ps(1.87757654e-3f);
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(8.98934042e-3f));
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(5.58263178e-2f));
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(2.40153617e-1f));
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(6.93153073e-1f));
    value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(9.99999925e-1f));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_scalef_ps(value, power), _mm512_set1_ps(1.0f)));
  }
}

template <bool kHalf, Activation kActivation>
FD_WIDE inline __m512 activate(__m512 x) {
  const __m512 zero = _mm512_setzero_ps();
  switch (kActivation) {
    case Activation::kSilu: return silu<kHalf>(x);
    case Activation::kRelu: return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, zero, _CMP_LT_OQ), zero);
    case Activation::kLeakyRelu: return _mm512_mask_mul_ps(x, _mm512_cmp_ps_mask(x, zero, _CMP_LT_OQ), x, _mm512_set1_ps(0.1f));
    case Activation::kNone: break;
  }
  return x;
}

inline Index size_of(bool half) { return half ? 2 : 4; }

template <bool kHalf, Activation kActivation>
FD_WIDE inline __m512 finished(const Finish& to, const float* sums, const char* residual, Index c, __mmask16 mask) {
  __m512 value = _mm512_loadu_ps(sums + c);
  if (to.bias != nullptr) value = _mm512_add_ps(value, _mm512_loadu_ps(to.bias + c));
  value = activate<kHalf, kActivation>(value);
  if (residual == nullptr) return value;
  return _mm512_add_ps(value, load(residual + c * size_of(to.residual_half), to.residual_half, mask));
}

template <bool kHalf, Activation kActivation>
FD_WIDE_HALF void finish_as(const Finish& to, const float* sums, Index pixels, Index lanes, Index channels) {
  const Index whole = channels / kLanes * kLanes;
  const __mmask16 rest = first(channels - whole);
  for (Index m = 0; m < pixels; ++m, sums += lanes) {
    char* out = to.out + m * to.out_pixel * size_of(kHalf);
    const char* residual = to.residual == nullptr ? nullptr : to.residual + m * to.residual_pixel * size_of(to.residual_half);
    for (Index c = 0; c < whole; c += kLanes) {
      const __m512 value = finished<kHalf, kActivation>(to, sums, residual, c, static_cast<__mmask16>(0xffff));
      if constexpr (kHalf) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c * 2), (__m256i)_mm512_cvtneps_pbh(value));
      } else {
        _mm512_storeu_ps(out + c * 4, value);
      }
    }
    if (whole < channels) {
      const __m512 value = finished<kHalf, kActivation>(to, sums, residual, whole, rest);
      if constexpr (kHalf) {
        _mm256_mask_storeu_epi16(out + whole * 2, rest, (__m256i)_mm512_cvtneps_pbh(value));
      } else {
        _mm512_mask_storeu_ps(out + whole * 4, rest, value);
      }
    }
  }
}

template <bool kHalf>
FD_WIDE void multiply_depthwise_as(const char* in, Index pixel, const Index* taps, Index tap_count, const float* weight,
                                   Index pixels, __mmask16 mask, float* sums) {
  for (Index m = 0; m < pixels; ++m) {
    const char* at = in + m * pixel * size_of(kHalf);
    __m512 total = _mm512_setzero_ps();
    for (Index t = 0; t < tap_count; ++t) {
      const __m512 value = load(at + taps[t] * size_of(kHalf), kHalf, mask);
      total = _mm512_fmadd_ps(value, _mm512_loadu_ps(weight + t * kLanes), total);
    }
    _mm512_storeu_ps(sums + m * kLanes, total);
  }
}

// Nine weights stay in registers.
template <bool kHalf>
FD_WIDE void multiply_depthwise_nine(const char* in, Index pixel, const Index* taps, const float* weight, Index pixels,
                                     __mmask16 mask, float* sums) {
  __m512 factor[9];
#pragma GCC unroll 9
  for (int t = 0; t < 9; ++t) factor[t] = _mm512_loadu_ps(weight + t * kLanes);
  const char* rows[3] = {in + taps[0] * size_of(kHalf), in + taps[3] * size_of(kHalf), in + taps[6] * size_of(kHalf)};
  const Index step = (taps[1] - taps[0]) * size_of(kHalf);
  for (Index m = 0; m < pixels; ++m) {
    __m512 total[3];
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r) {
      const char* at = rows[r] + m * pixel * size_of(kHalf);
      total[r] = _mm512_mul_ps(load(at, kHalf, mask), factor[3 * r]);
      total[r] = _mm512_fmadd_ps(load(at + step, kHalf, mask), factor[3 * r + 1], total[r]);
      total[r] = _mm512_fmadd_ps(load(at + 2 * step, kHalf, mask), factor[3 * r + 2], total[r]);
    }
    _mm512_storeu_ps(sums + m * kLanes, _mm512_add_ps(_mm512_add_ps(total[0], total[1]), total[2]));
  }
}

template <bool kHalf, bool kAverage>
FD_WIDE void reduce_as(const char* in, char* out, const Index* taps, Index tap_count, Index channels, float factor) {
  constexpr Index kSize = kHalf ? 2 : 4;
  for (Index c = 0; c < channels; c += kLanes) {
    const __mmask16 mask = first(channels - c);
    __m512 value = load(in + (taps[0] + c) * kSize, kHalf, mask);
    for (Index t = 1; t < tap_count; ++t) {
      const __m512 other = load(in + (taps[t] + c) * kSize, kHalf, mask);
      if constexpr (kAverage) {
        value = _mm512_add_ps(value, other);
      } else {
        // The second operand passes where either is NaN, so a NaN in `other` passes, as max_pool2d lets it, and one in `value` is
        // kept.
        value = _mm512_mask_mov_ps(_mm512_max_ps(value, other), _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), value);
      }
    }
    store(out + c * kSize, kHalf, mask, kAverage ? _mm512_mul_ps(value, _mm512_set1_ps(factor)) : value);
  }
}

}  // namespace

Multiply multiply(Index pixels, Index blocks, bool half) {
  const std::size_t i = static_cast<std::size_t>(pixels - 1);
  return half ? (blocks == 2 ? kHalf2[i] : kHalf1[i]) : (blocks == 2 ? kSingle2[i] : kSingle1[i]);
}

FD_WIDE void finish(const Finish& to, const float* sums, Index pixels, Index lanes, Index channels) {
  switch (to.activation) {
    case Activation::kSilu:
      return (to.out_half ? finish_as<true, Activation::kSilu> : finish_as<false, Activation::kSilu>)(to, sums, pixels, lanes,
                                                                                                      channels);
    case Activation::kRelu:
      return (to.out_half ? finish_as<true, Activation::kRelu> : finish_as<false, Activation::kRelu>)(to, sums, pixels, lanes,
                                                                                                      channels);
    case Activation::kLeakyRelu:
      return (to.out_half ? finish_as<true, Activation::kLeakyRelu> : finish_as<false, Activation::kLeakyRelu>)(to, sums, pixels,
                                                                                                                lanes, channels);
    case Activation::kNone:
      return (to.out_half ? finish_as<true, Activation::kNone> : finish_as<false, Activation::kNone>)(to, sums, pixels, lanes,
                                                                                                      channels);
  }
}

FD_WIDE void multiply_depthwise(const char* in, bool half, Index pixel, const Index* taps, Index tap_count, const float* weight,
                                Index pixels, Index channels, float* sums) {
  const __mmask16 mask = first(channels);
  if (tap_count == 9) {
    (half ? multiply_depthwise_nine<true> : multiply_depthwise_nine<false>)(in, pixel, taps, weight, pixels, mask, sums);
  } else {
    (half ? multiply_depthwise_as<true> : multiply_depthwise_as<false>)(in, pixel, taps, tap_count, weight, pixels, mask, sums);
  }
}

FD_WIDE void softmax(float* values, Index count, Index padded) {
  __m512 best = _mm512_set1_ps(-__builtin_inff()), total = _mm512_setzero_ps();
  for (Index i = 0; i < count; i += kLanes) {
    best = _mm512_mask_max_ps(best, first(count - i), best, _mm512_loadu_ps(values + i));
  }
  const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(best));
  for (Index i = 0; i < padded; i += kLanes) {
    const __mmask16 mask = i >= count ? static_cast<__mmask16>(0) : first(count - i);
    const __m512 value = _mm512_maskz_mov_ps(mask, exponential(_mm512_sub_ps(_mm512_loadu_ps(values + i), largest)));
    total = _mm512_add_ps(total, value);
    _mm512_storeu_ps(values + i, value);
  }
  const __m512 factor = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
  for (Index i = 0; i < padded; i += kLanes) _mm512_storeu_ps(values + i, _mm512_mul_ps(_mm512_loadu_ps(values + i), factor));
}

FD_WIDE void reduce(const char* in, char* out, bool half, const Index* taps, Index tap_count, Index channels, bool average,
                    float factor) {
  const auto run = half ? (average ? reduce_as<true, true> : reduce_as<true, false>)
                        : (average ? reduce_as<false, true> : reduce_as<false, false>);
  run(in, out, taps, tap_count, channels, factor);
}

FD_WIDE void add_channels(const char* a, const char* b, char* out, bool half, Index channels) {
  const Index size = size_of(half);
  for (Index c = 0; c < channels; c += kLanes) {
    const __mmask16 mask = first(channels - c);
    store(out + c * size, half, mask, _mm512_add_ps(load(a + c * size, half, mask), load(b + c * size, half, mask)));
  }
}

std::string unsupported(bool half) {
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!wide) return "the processor lacks AVX-512";
  return half && !__builtin_cpu_supports("avx512bf16") ? "the processor lacks AVX512-BF16" : "";
}

}  // namespace fastdet::network

#else

namespace fastdet::network {

std::string unsupported(bool) { return "this build is not for x86-64"; }
Multiply multiply(Index, Index, bool) { throw RuntimeError(unsupported(false)); }
void finish(const Finish&, const float*, Index, Index, Index) { throw RuntimeError(unsupported(false)); }
void multiply_depthwise(const char*, bool, Index, const Index*, Index, const float*, Index, Index, float*) {
  throw RuntimeError(unsupported(false));
}
void softmax(float*, Index, Index) { throw RuntimeError(unsupported(false)); }
void reduce(const char*, char*, bool, const Index*, Index, Index, bool, float) { throw RuntimeError(unsupported(false)); }
void add_channels(const char*, const char*, char*, bool, Index) { throw RuntimeError(unsupported(false)); }

}  // namespace fastdet::network

#endif
