// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace fastdet::emulator {

namespace {

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

// Mapping over an existing slab also makes TSan forget who accessed it, so that no report joins unrelated blocks.
void BlockMemory::map_slab() {
  constexpr std::size_t bytes = stacks_offset + max_threads * stack_bytes;
  const int at_same_place = slab_ == nullptr ? 0 : MAP_FIXED;
  void* const mapped =
      mmap(slab_, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | at_same_place, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  slab_ = static_cast<char*>(mapped);
  guarded_threads_ = 0;
  next_offset_ = arena_bytes;
}

void BlockMemory::guard_stacks(int threads) {
  for (; guarded_threads_ < threads; ++guarded_threads_) {
    mprotect(slab_ + stacks_offset + static_cast<std::size_t>(guarded_threads_) * stack_bytes, page, PROT_NONE);
  }
}

void BlockMemory::begin_block(int threads, std::size_t dynamic_bytes) {
  const IgnoreAccesses housekeeping;
  if (slab_ == nullptr || with_tsan) map_slab();
  guard_stacks(threads);
  unpoison(slab_, stacks_offset + static_cast<std::size_t>(threads) * stack_bytes);
  std::memset(slab_, fill, next_offset_);
  poison(slab_ + dynamic_bytes, arena_bytes - dynamic_bytes);
  static constexpr Site dynamic_site{"", 0, "dynamic shared memory"};
  arrays_[0] = {&dynamic_site, 0, dynamic_bytes};
  array_count_ = 1;
  static_bytes_ = 0;
  next_offset_ = dynamic_bytes + gap;
}

void* BlockMemory::shared_array(const Site* site, std::size_t bytes, std::size_t alignment) {
  for (int i = 1; i < array_count_; ++i) {
    if (arrays_[i].site == site) return slab_ + arrays_[i].offset;
  }
  static_bytes_ = round_up(static_bytes_, alignment) + bytes;
  if (static_bytes_ > max_static_shared_bytes || array_count_ == max_arrays) return nullptr;
  const std::size_t offset = round_up(next_offset_, alignment < 16 ? 16 : alignment);
  arrays_[array_count_++] = {site, offset, bytes};
  next_offset_ = offset + bytes + gap;
  unpoison(slab_ + offset, bytes);
  return slab_ + offset;
}

const char* BlockMemory::overrun() const {
  if (with_asan) return nullptr;
  for (int i = 0; i < array_count_; ++i) {
    const std::size_t end = i + 1 < array_count_ ? arrays_[i + 1].offset : next_offset_;
    for (std::size_t at = arrays_[i].offset + arrays_[i].bytes; at < end; ++at) {
      if (static_cast<unsigned char>(slab_[at]) != fill) return arrays_[i].site->text;
    }
  }
  return nullptr;
}

}  // namespace fastdet::emulator
