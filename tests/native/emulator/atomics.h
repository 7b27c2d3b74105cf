// SPDX-License-Identifier: Apache-2.0
// CUDA's atomics for CUDA's types (uint64_t is not one of them on Linux: cast to unsigned long long, as for nvcc).
// Relaxed, as on the device: they order nothing else. Instrumented builds see them as atomic accesses.
#pragma once

#include <type_traits>

#include "arithmetic.h"

namespace fastdet::emulator {

template <typename T, typename... Allowed>
constexpr bool is_one_of = (std::is_same_v<T, Allowed> || ...);

template <typename T>
constexpr bool is_atomic_integer = is_one_of<T, int, unsigned, long long, unsigned long long>;

template <typename T>
using Argument = std::common_type_t<T>;  // keeps the value out of deduction: atomicAdd(unsigned*, 1) works

// Replaces the value by change(value); returns the value before. Floats go through their bits.
template <typename T, typename Change>
inline T atomic_change(T* address, Change change) {
  using Bits = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;
  Bits* const bits = reinterpret_cast<Bits*>(address);
  Bits seen = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &seen, bit_copy<Bits>(static_cast<T>(change(bit_copy<T>(seen)))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return bit_copy<T>(seen);
}

}  // namespace fastdet::emulator

template <typename T>
inline T atomicAdd(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_one_of<T, int, unsigned, unsigned long long, float, double>, "no atomicAdd of it");
  if constexpr (std::is_integral_v<T>) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  } else {
    return fastdet::emulator::atomic_change(address, [value](T old) { return old + value; });
  }
}
template <typename T>
inline T atomicSub(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_one_of<T, int, unsigned>, "no atomicSub of it");
  return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicMin(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_atomic_integer<T>, "no atomicMin of it");
  return fastdet::emulator::atomic_change(address, [value](T old) { return value < old ? value : old; });
}
template <typename T>
inline T atomicMax(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_atomic_integer<T>, "no atomicMax of it");
  return fastdet::emulator::atomic_change(address, [value](T old) { return old < value ? value : old; });
}
template <typename T>
inline T atomicAnd(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_atomic_integer<T>, "no atomicAnd of it");
  return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicOr(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_atomic_integer<T>, "no atomicOr of it");
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicXor(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_atomic_integer<T>, "no atomicXor of it");
  return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicExch(T* address, fastdet::emulator::Argument<T> value) {
  static_assert(fastdet::emulator::is_one_of<T, int, unsigned, unsigned long long, float>, "no atomicExch of it");
  return fastdet::emulator::atomic_change(address, [value](T) { return value; });
}
template <typename T>
inline T atomicCAS(T* address, fastdet::emulator::Argument<T> expected, fastdet::emulator::Argument<T> desired) {
  static_assert(fastdet::emulator::is_one_of<T, int, unsigned, unsigned long long, unsigned short>, "no atomicCAS of it");
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
// Counts up to limit, then starts at 0 again.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return fastdet::emulator::atomic_change(address, [limit](unsigned old) { return old >= limit ? 0u : old + 1u; });
}
