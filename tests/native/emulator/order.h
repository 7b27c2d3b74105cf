// SPDX-License-Identifier: Apache-2.0
// The order in which runnable threads of a block, and blocks of a grid, get their turn. CUDA promises none, so results
// must not depend on it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fastdet::emulator {

enum class Order { forward, reverse, shuffled };

struct Schedule {
  Order order = Order::forward;
  std::uint64_t seed = 0;
};

// "forward", "reverse", "shuffled" or "shuffled:SEED"; false if it is none of these.
bool parse_schedule(const std::string& text, Schedule& schedule);

// xorshift64*: small, seeded, and the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du) {}
  std::uint64_t below(std::uint64_t bound) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545F4914F6CDD1Du >> 32) % bound;
  }

 private:
  std::uint64_t state_;
};

// Hands out the threads of a block in rounds; a shuffled order is another one in each round.
class ThreadOrder {
 public:
  ThreadOrder(Schedule schedule, int threads);
  void begin_block() { start_round(); }
  // On the fiber. The thread whose turn is next; -1 once at the end of a round.
  int next() {
    if (cursor_ == count_) {
      start_round();
      return -1;
    }
    return position_[cursor_++];
  }

 private:
  void start_round();

  Schedule schedule_;
  Random random_;
  int count_;
  int cursor_ = 0;
  int position_[1024];
};

std::vector<std::uint64_t> block_order(Schedule schedule, std::uint64_t blocks);

}  // namespace fastdet::emulator
