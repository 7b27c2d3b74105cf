// SPDX-License-Identifier: Apache-2.0
// Runs the threads of one block as fibers on the calling thread: each until it has to wait for others or ends.
// Functions marked "on the fiber" run on the stack of a CUDA thread; they keep to plain stores, because library calls
// there (memcpy, new) would be taken for the kernel's own by TSan.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "context.h"
#include "memory.h"
#include "order.h"
#include "warp.h"

namespace fastdet::emulator {

enum class State : std::uint8_t { runnable, at_barrier, at_collective, done };

struct Fiber {
  Context context;
  const void* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
};

struct Thread {
  Fiber fiber;
  uint3 index{};
  State state = State::done;
  const Site* site = nullptr;  // where it waits
  int predicate = 0;           // of a barrier
  Collective kind = Collective::sync;
  unsigned mask = 0;
  std::uint64_t value = 0;
  std::int64_t operand = 0;
  int width = 32;
  std::uint64_t result = 0;
  unsigned warp_syncs = 0;  // how many it has arrived at
};

// The launch a block belongs to.
struct Grid {
  const char* kernel = nullptr;
  dim3 extent, block_extent;
  std::size_t dynamic_bytes = 0;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
};

class Block {
 public:
  // Throws std::runtime_error if a thread breaks a rule.
  void run(const Grid& grid, std::uint64_t block, ThreadOrder& order);

  const Grid& grid() const { return *grid_; }
  uint3 index() const { return index_; }
  const Thread& current() const { return threads_[current_]; }
  BlockMemory& memory() { return memory_; }
  std::uint64_t switches() const { return switches_; }

  void release_to_threads() { release_token(start_token()); }
  void acquire_from_threads() { acquire_token(end_token()); }

  // On the fiber.
  int barrier(const Site* site, Vote vote, int predicate);
  std::uint64_t collective(const Site* site, Collective kind, unsigned mask, std::uint64_t value, std::int64_t operand,
                           int width);
  [[noreturn]] void thread_main();
  [[noreturn]] void fail(const Site* site, const char* format, ...) __attribute__((format(printf, 3, 4)));

 private:
  void begin(const Grid& grid, std::uint64_t block);
  void end();
  void report_deadlock();
  [[noreturn]] void throw_error();
  void write_error(const Site* site, const char* format, std::va_list arguments);
  int pick();
  void switch_to(int next, bool for_good = false);
  void wait();
  void check_mask(const Site* site, unsigned mask, int lane);
  void check_exit();
  bool collective_complete(unsigned mask) const;
  void complete_collective(unsigned mask);
  int shuffle_source(int lane);
  void order_warp_memory(unsigned mask);

  // Tokens stand for orderings of memory; only their addresses count. A block has two for its barriers and two for each
  // thread's __syncwarp, used in turn, so that the next arrival of a fast thread does not cover for a slow one.
  static constexpr std::size_t token_bytes = 8;
  static constexpr std::size_t tokens_per_block = 2 + 2 * max_threads;
  static constexpr std::size_t token_blocks = 64;  // later blocks take the tokens of earlier ones
  void* token(std::size_t number) { return tokens_ + (with_tsan ? number * token_bytes : 0); }
  void* start_token() { return token(0); }
  void* end_token() { return token(1); }
  void* block_token(std::size_t number) { return token(2 + block_number_ % token_blocks * tokens_per_block + number); }
  void* barrier_token(unsigned barrier) { return block_token(barrier & 1u); }
  void* warp_token(int thread, unsigned sync) { return block_token(2 + 2 * static_cast<std::size_t>(thread) + (sync & 1u)); }

  const Grid* grid_ = nullptr;
  ThreadOrder* order_ = nullptr;
  uint3 index_{};
  BlockMemory memory_;
  Fiber host_;
  Thread threads_[max_threads];
  int count_ = 0;
  int done_ = 0;
  int at_barrier_ = 0;
  int barrier_result_ = 0;
  unsigned barriers_ = 0;  // opened so far
  int current_ = -1;       // -1: the host
  int leaving_ = -1;       // who switched last; for ASan
  TsanFibers tsan_fibers_;
  char tokens_[with_tsan ? (2 + token_blocks * tokens_per_block) * token_bytes : 1];
  std::uint64_t block_number_ = 0;  // blocks run so far, in all launches
  std::uint64_t switches_ = 0;
  bool failed_ = false;
  char error_[1024];
};

Block& running_block();

}  // namespace fastdet::emulator
