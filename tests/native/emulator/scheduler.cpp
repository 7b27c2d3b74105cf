// SPDX-License-Identifier: Apache-2.0
#include "scheduler.h"

#include <cstdio>
#include <stdexcept>
#include <string>

namespace fastdet::emulator {

namespace {

#if defined(FASTDET_EMULATOR_ASAN)
void leave_stack(Fiber& from, const Fiber& to, bool for_good) {
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.asan_fake_stack, to.stack, to.stack_bytes);
}
// Tells ASan where we are, and learns the bounds of the stack that was left: so we come to know the host's.
void enter_stack(Fiber& here, Fiber& left) {
  __sanitizer_finish_switch_fiber(here.asan_fake_stack, &left.stack, &left.stack_bytes);
}
#else
void leave_stack(Fiber&, const Fiber&, bool) {}
void enter_stack(Fiber&, Fiber&) {}
#endif

void start_thread() { running_block().thread_main(); }

}  // namespace

Block& running_block() {
  static Block* const block = new Block;  // never destroyed: a launch may come from any thread until the process ends
  return *block;
}

void Block::run(const Grid& grid, std::uint64_t block, ThreadOrder& order) {
  order_ = &order;
  ++block_number_;
  begin(grid, block);
  switch_to(pick());
  if (!failed_ && done_ < count_) report_deadlock();
  end();
  if (failed_) throw_error();
}

void Block::begin(const Grid& grid, std::uint64_t block) {
  grid_ = &grid;
  const auto part = [&block](unsigned extent) {
    const unsigned index = static_cast<unsigned>(block % extent);
    block /= extent;
    return index;
  };
  index_.x = part(grid.extent.x);
  index_.y = part(grid.extent.y);
  index_.z = part(grid.extent.z);
  const dim3 extent = grid.block_extent;
  count_ = static_cast<int>(extent.x * extent.y * extent.z);
  done_ = at_barrier_ = 0;
  barriers_ = 0;
  failed_ = false;
  memory_.begin_block(count_, grid.dynamic_bytes);
  host_.tsan_fiber = current_tsan_fiber();
  for (int i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    const unsigned linear = static_cast<unsigned>(i);
    thread.index = {linear % extent.x, linear / extent.x % extent.y, linear / (extent.x * extent.y)};
    thread.state = State::runnable;
    thread.warp_syncs = 0;
    thread.fiber.stack = memory_.stack(i);
    thread.fiber.stack_bytes = BlockMemory::usable_stack_bytes();
    thread.fiber.asan_fake_stack = nullptr;
    thread.fiber.tsan_fiber = tsan_fibers_.get(block_number_, i, count_);
    prepare_context(thread.fiber.context, memory_.stack(i), thread.fiber.stack_bytes, start_thread);
  }
  order_->begin_block();
}

void Block::end() {
  for (int i = 0; i < count_; ++i) {
    if (!failed_) break;
    switch_tsan_fiber(threads_[i].fiber.tsan_fiber);  // on behalf of threads that will never get to their end
    release_token(end_token());
    switch_tsan_fiber(host_.tsan_fiber);
  }
  const char* const overrun = memory_.overrun();
  if (overrun == nullptr || failed_) return;
  failed_ = true;
  std::snprintf(error_, sizeof(error_), "bytes behind the end of the %s were written", overrun);
}

void Block::report_deadlock() {
  failed_ = true;
  std::string text = "no thread can go on";
  const Site* last = nullptr;
  for (int i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state == State::done || thread.site == last) continue;
    last = thread.site;
    text += "; thread (" + std::to_string(thread.index.x) + ", " + std::to_string(thread.index.y) + ", " +
            std::to_string(thread.index.z) + ") waits at " + last->text + ", " + last->file + ":" + std::to_string(last->line);
  }
  std::snprintf(error_, sizeof(error_), "%s", text.c_str());
}

void Block::throw_error() {
  throw std::runtime_error(std::string(grid_->kernel) + ": " + error_ + "; block (" + std::to_string(index_.x) + ", " +
                           std::to_string(index_.y) + ", " + std::to_string(index_.z) + ")");
}

void Block::fail(const Site* site, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  write_error(site, format, arguments);
  va_end(arguments);
  failed_ = true;
  switch_to(-1, true);
  __builtin_unreachable();  // the host drops the fibers of a failed block
}

void Block::write_error(const Site* site, const char* format, std::va_list arguments) {
  const IgnoreAccesses reporting;
  const uint3 thread = threads_[current_].index;
  const int length = std::vsnprintf(error_, sizeof(error_), format, arguments);
  if (length < 0 || static_cast<std::size_t>(length) >= sizeof(error_)) return;
  std::snprintf(error_ + length, sizeof(error_) - static_cast<std::size_t>(length), "; thread (%u, %u, %u) at %s, %s:%d",
                thread.x, thread.y, thread.z, site->text, site->file, site->line);
}

// The next runnable thread, or -1. Two ends of rounds without one: there is none.
int Block::pick() {
  for (int rounds = 0; rounds < 2;) {
    const int thread = order_->next();
    if (thread < 0) {
      ++rounds;
    } else if (threads_[thread].state == State::runnable) {
      return thread;
    }
  }
  return -1;
}

void Block::switch_to(int next, bool for_good) {
  Fiber& from = current_ < 0 ? host_ : threads_[current_].fiber;
  Fiber& to = next < 0 ? host_ : threads_[next].fiber;
  leaving_ = current_;
  current_ = next;
  ++switches_;
  leave_stack(from, to, for_good);
  switch_tsan_fiber(to.tsan_fiber);
  switch_context(from.context, to.context);
  enter_stack(from, leaving_ < 0 ? host_ : threads_[leaving_].fiber);
}

void Block::wait() {
  const int next = pick();
  if (next != current_) switch_to(next);
}

void Block::thread_main() {
  enter_stack(threads_[current_].fiber, leaving_ < 0 ? host_ : threads_[leaving_].fiber);
  acquire_token(start_token());
  grid_->body(grid_->argument);
  release_token(end_token());
  threads_[current_].state = State::done;
  ++done_;
  check_exit();
  switch_to(pick(), true);
  __builtin_unreachable();
}

// A thread ended: whoever waits for it waits in vain.
void Block::check_exit() {
  if (at_barrier_ > 0) {
    for (int i = 0; i < count_; ++i) {
      if (threads_[i].state == State::at_barrier)
        fail(threads_[i].site, "a thread ended while others wait at a barrier: leave no thread behind an early return");
    }
  }
  const int warp = current_ / 32 * 32;
  const unsigned lane_bit = 1u << (current_ % 32);
  for (int i = warp; i < warp + 32 && i < count_; ++i) {
    if (threads_[i].state == State::at_collective && (threads_[i].mask & lane_bit) != 0)
      fail(threads_[i].site, "a lane ended that the mask 0x%08x names", threads_[i].mask);
  }
}

int Block::barrier(const Site* site, Vote vote, int predicate) {
  Thread& self = threads_[current_];
  if (done_ > 0) fail(site, "%d of the block's %d threads ended before this barrier", done_, count_);
  if (at_barrier_ > 0) {
    for (int i = 0; i < count_; ++i) {
      const Thread& other = threads_[i];
      if (other.state == State::at_barrier && other.site != site)
        fail(site, "divergent barrier: thread (%u, %u, %u) waits at %s, %s:%d", other.index.x, other.index.y, other.index.z,
             other.site->text, other.site->file, other.site->line);
      if (other.state == State::at_barrier) break;  // all that wait do so at one site
    }
  }
  self.state = State::at_barrier;
  self.site = site;
  self.predicate = predicate;
  const unsigned number = barriers_;
  release_token(barrier_token(number));
  if (++at_barrier_ == count_) {
    int true_count = 0;
    for (int i = 0; i < count_; ++i) {
      true_count += threads_[i].predicate != 0 ? 1 : 0;
      threads_[i].state = State::runnable;
    }
    const bool result = vote == Vote::all ? true_count == count_ : true_count > 0;
    barrier_result_ = vote == Vote::count ? true_count : static_cast<int>(result);
    at_barrier_ = 0;
    ++barriers_;
  }
  wait();
  acquire_token(barrier_token(number));
  return barrier_result_;
}

}  // namespace fastdet::emulator
