// SPDX-License-Identifier: Apache-2.0
// What the sanitizers have to be told about fibers. The emulator itself is compiled without instrumentation, so the
// builder says with FASTDET_EMULATOR_ASAN or FASTDET_EMULATOR_TSAN what the kernels are compiled with.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(FASTDET_EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>  // its macros do nothing in files without instrumentation, its functions do
#include <sanitizer/common_interface_defs.h>
#elif defined(FASTDET_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace fastdet::emulator {

#if defined(FASTDET_EMULATOR_ASAN)
constexpr bool with_asan = true, with_tsan = false;
inline void poison(const void* memory, std::size_t bytes) { __asan_poison_memory_region(memory, bytes); }
inline void unpoison(const void* memory, std::size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
inline void poison(const void*, std::size_t) {}
inline void unpoison(const void*, std::size_t) {}
#endif

#if defined(FASTDET_EMULATOR_TSAN)
constexpr bool with_asan = false, with_tsan = true;
// Each CUDA thread is a thread of its own to TSan; switching orders nothing, only tokens do.
inline void* create_tsan_fiber() { return __tsan_create_fiber(0); }  // half a megabyte, half a millisecond
inline void* current_tsan_fiber() { return __tsan_get_current_fiber(); }
inline void switch_tsan_fiber(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
inline void release_token(void* token) { __tsan_release(token); }
inline void acquire_token(void* token) { __tsan_acquire(token); }
// Housekeeping between blocks calls intercepted functions (mmap, memset), which must not count as accesses.
struct IgnoreAccesses {
  IgnoreAccesses() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~IgnoreAccesses() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
#else
#if !defined(FASTDET_EMULATOR_ASAN)
constexpr bool with_asan = false, with_tsan = false;
#endif
inline void* create_tsan_fiber() { return nullptr; }
inline void* current_tsan_fiber() { return nullptr; }
inline void switch_tsan_fiber(void*) {}
inline void release_token(void*) {}
inline void acquire_token(void*) {}
struct IgnoreAccesses {
  IgnoreAccesses() {}
  ~IgnoreAccesses() {}
};
#endif

// TSan's fibers are dear, so blocks share them. What one fiber runs counts as ordered: neighbours in the order of blocks
// get different fibers, so that a race between them is seen; blocks `sets` apart share theirs.
class TsanFibers {
 public:
  void* get(std::uint64_t block, int thread, int threads) {
    if (!with_tsan) return nullptr;
    const int sets = threads <= 64 ? 8 : threads <= 128 ? 4 : 2;
    const std::size_t place =
        block % static_cast<std::uint64_t>(sets) * static_cast<std::uint64_t>(threads) + static_cast<std::size_t>(thread);
    if (fibers_[place] == nullptr) fibers_[place] = create_tsan_fiber();
    return fibers_[place];
  }

 private:
  void* fibers_[with_tsan ? 2048 : 1] = {};
};

}  // namespace fastdet::emulator
