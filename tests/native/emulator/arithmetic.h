// SPDX-License-Identifier: Apache-2.0
// Device arithmetic that plain C++ lacks. The rounded forms are single operations: build with -ffp-contract=off.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <limits>

namespace fastdet::emulator {

template <typename To, typename From>
inline To bit_copy(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// CUDA's conversions saturate and send NaN to 0.
template <typename Int>
inline Int saturating_cast(double value) {
  if (value != value) return 0;
  if (value <= static_cast<double>(std::numeric_limits<Int>::min())) return std::numeric_limits<Int>::min();
  if (value >= static_cast<double>(std::numeric_limits<Int>::max())) return std::numeric_limits<Int>::max();
  return static_cast<Int>(value);
}

}  // namespace fastdet::emulator

#define FD_EMULATED_MIN_MAX(T)                     \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
FD_EMULATED_MIN_MAX(int)
FD_EMULATED_MIN_MAX(unsigned)
FD_EMULATED_MIN_MAX(long)
FD_EMULATED_MIN_MAX(unsigned long)
FD_EMULATED_MIN_MAX(long long)
FD_EMULATED_MIN_MAX(unsigned long long)
#undef FD_EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
// Approximations on the device; a kernel whose result must not depend on the machine does not use them.
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }

inline unsigned __float_as_uint(float a) { return fastdet::emulator::bit_copy<unsigned>(a); }
inline int __float_as_int(float a) { return fastdet::emulator::bit_copy<int>(a); }
inline float __uint_as_float(unsigned a) { return fastdet::emulator::bit_copy<float>(a); }
inline float __int_as_float(int a) { return fastdet::emulator::bit_copy<float>(a); }
inline long long __double_as_longlong(double a) { return fastdet::emulator::bit_copy<long long>(a); }
inline double __longlong_as_double(long long a) { return fastdet::emulator::bit_copy<double>(a); }

inline int __float2int_rn(float a) { return fastdet::emulator::saturating_cast<int>(nearbyintf(a)); }
inline int __float2int_rz(float a) { return fastdet::emulator::saturating_cast<int>(truncf(a)); }
inline int __float2int_rd(float a) { return fastdet::emulator::saturating_cast<int>(floorf(a)); }
inline int __float2int_ru(float a) { return fastdet::emulator::saturating_cast<int>(ceilf(a)); }
inline unsigned __float2uint_rn(float a) { return fastdet::emulator::saturating_cast<unsigned>(nearbyintf(a)); }
inline unsigned __float2uint_rz(float a) { return fastdet::emulator::saturating_cast<unsigned>(truncf(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
inline int __clzll(long long a) { return a == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(a)); }

inline unsigned __brev(unsigned a) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= ((a >> bit) & 1u) << (31 - bit);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long a) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(a))) << 32 | __brev(static_cast<unsigned>(a >> 32));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned select = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (select & 7u))) & 0xFFu;
    if (select & 8u) byte = (byte & 0x80u) != 0 ? 0xFFu : 0u;  // replicate the sign
    result |= byte << (8 * i);
  }
  return result;
}

// Cache hints have no meaning here; the value does.
template <typename T>
inline T __ldg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcs(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcg(const T* address) {
  return *address;
}
template <typename T>
inline void __stcs(T* address, T value) {
  *address = value;
}
template <typename T>
inline void __stcg(T* address, T value) {
  *address = value;
}
