// SPDX-License-Identifier: Apache-2.0
// The only place that asks which compiler runs. Three kinds of translation unit exist:
//   host      plain C++: bindings, CPU paths.
//   device    nvcc, both of its passes.
//   emulated  plain C++ with FASTDET_EMULATED defined and the emulator of tests/native in front: kernels run on the CPU.
#pragma once

#include <climits>  // pulls in the C library's own macros, which FD_TARGET_CLONES asks for

#if defined(__CUDACC__) && defined(FASTDET_EMULATED)
#error "FASTDET_EMULATED is for a host compiler, not for nvcc"
#endif

// FD_HD: inline function of host and device: what decides (comparisons, keys, rounding) is written once with it.
// FD_D:  inline function of the device only. Undefined in host files, which have no business calling one.
#if defined(__CUDACC__)
#define FD_HD __host__ __device__ inline
#define FD_D __device__ __forceinline__
#elif defined(FASTDET_EMULATED)
#define FD_HD inline
#define FD_D inline
#else
#if defined(__GNUC__)
#define FD_HD __attribute__((always_inline)) inline  // so that a caller's instruction set reaches it, see FD_TARGET_CLONES
#else
#define FD_HD inline
#endif
#endif

// FD_INLINE_LAMBDA: behind a lambda's parameters, for the same reason: left out of line, it would have the baseline's
// instructions.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define FD_INLINE_LAMBDA __attribute__((always_inline))
#else
#define FD_INLINE_LAMBDA
#endif

#if defined(_MSC_VER)
#define FD_RESTRICT __restrict
#else
#define FD_RESTRICT __restrict__
#endif

// FD_TARGET_CLONES: compile a host function once per instruction set and pick one at load time. It selects through an
// ifunc, which needs glibc; elsewhere the one baseline version remains. Put it on the loop, not on what the loop calls:
// callees must be inlined to profit. ThreadSanitizer instruments the resolvers, which then crash: they run before it does.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && \
    !defined(FASTDET_EMULATED) && !defined(__SANITIZE_THREAD__)
#define FD_TARGET_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FD_TARGET_CLONES
#endif

namespace fastdet {
#if defined(FASTDET_EMULATED)
inline constexpr bool kEmulated = true;  // kernels run on the CPU, on host memory
#else
inline constexpr bool kEmulated = false;
#endif
}  // namespace fastdet

// FD_X86_TARGETS: a function may name its own instruction set, FD_TARGET("avx2"), and be chosen by __builtin_cpu_supports.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__) && !defined(FASTDET_EMULATED)
#define FD_X86_TARGETS 1
#define FD_TARGET(isa) __attribute__((target(isa)))
#endif

// FD_PAUSE: what a thread does between two looks at something, for the sake of the other thread of its core.
#if defined(__x86_64__) && defined(__GNUC__)
#define FD_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define FD_PAUSE() asm volatile("yield")
#else
#define FD_PAUSE() static_cast<void>(0)
#endif
