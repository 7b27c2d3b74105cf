// SPDX-License-Identifier: Apache-2.0
// The memory of the running block: stacks of its threads and its shared memory. Kept between blocks and launches.
#pragma once

#include <cstddef>

#include "runtime.h"
#include "sanitizer.h"

namespace fastdet::emulator {

constexpr int max_threads = 1024;
constexpr std::size_t max_static_shared_bytes = 48 * 1024;
constexpr std::size_t max_shared_bytes = 227 * 1024;

class BlockMemory {
 public:
  // A fresh block: nothing of the last one is left in shared memory. Unpoisons the stacks, which a failed block leaves.
  void begin_block(int threads, std::size_t dynamic_bytes);

  void* stack(int thread) const { return slab_ + stacks_offset + static_cast<std::size_t>(thread) * stack_bytes + page; }
  static constexpr std::size_t usable_stack_bytes() { return stack_bytes - page; }

  void* dynamic_shared() const { return slab_; }
  // Null when the block's static shared memory is used up.
  void* shared_array(const Site* site, std::size_t bytes, std::size_t alignment);
  // The name of an array with bytes written behind its end, or null. ASan builds see this at the store itself.
  const char* overrun() const;

 private:
  // Sanitizers print their reports on the stack of the thread that erred.
  static constexpr std::size_t stack_bytes = (with_asan || with_tsan ? 256 : 64) * 1024;
  static constexpr std::size_t page = 4096;  // unmapped below each stack
  static constexpr std::size_t gap = 256;    // never handed out, behind each array
  static constexpr std::size_t arena_bytes = 512 * 1024;
  static constexpr std::size_t stacks_offset = arena_bytes;
  static constexpr int max_arrays = 64;
  static constexpr unsigned char fill = 0xCD;

  struct Array {
    const Site* site;
    std::size_t offset, bytes;
  };

  void map_slab();
  void guard_stacks(int threads);

  char* slab_ = nullptr;  // arena, then stacks
  int guarded_threads_ = 0;
  Array arrays_[max_arrays] = {};
  int array_count_ = 0;
  std::size_t static_bytes_ = 0;
  std::size_t next_offset_ = arena_bytes;  // up to here the arena is in use: all of it at first, so that all gets filled
};

}  // namespace fastdet::emulator
