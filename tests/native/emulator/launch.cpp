// SPDX-License-Identifier: Apache-2.0
// Launches, and what kernels ask of the running block.
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>

#include "core/launch.h"
#include "scheduler.h"

namespace fastdet::emulator {

namespace {

std::mutex launch_mutex;  // one launch at a time: there is one running block

Schedule schedule_from_environment() {
  Schedule schedule;
  const char* const text = std::getenv("FASTDET_EMU_ORDER");
  if (text != nullptr && *text != '\0' && !parse_schedule(text, schedule))
    throw std::runtime_error("FASTDET_EMU_ORDER must be forward, reverse, shuffled or shuffled:SEED, got " + std::string(text));
  return schedule;
}

Schedule& schedule() {
  static Schedule chosen = schedule_from_environment();
  return chosen;
}

// The launch's threads come after what the host did before, and the host goes on after all of them, also if one failed.
struct HostOrder {
  HostOrder() { running_block().release_to_threads(); }
  ~HostOrder() { running_block().acquire_from_threads(); }
  HostOrder(const HostOrder&) = delete;
  HostOrder& operator=(const HostOrder&) = delete;
};

dim3 extent_of(const Dim3& extent) {
  return {static_cast<unsigned>(extent.x), static_cast<unsigned>(extent.y), static_cast<unsigned>(extent.z)};
}

}  // namespace

void launch_threads(const char* kernel, const Dim3& grid_extent, const Dim3& block_extent, std::int64_t shared_bytes,
                    void (*body)(void*), void* argument) {
  const std::lock_guard<std::mutex> one_at_a_time(launch_mutex);
  const HostOrder order_of_memory;
  Grid grid;
  grid.kernel = kernel;
  grid.extent = extent_of(grid_extent);
  grid.block_extent = extent_of(block_extent);
  grid.dynamic_bytes = static_cast<std::size_t>(shared_bytes);
  grid.body = body;
  grid.argument = argument;
  ThreadOrder order(schedule(), static_cast<int>(block_extent.x * block_extent.y * block_extent.z));
  const auto blocks = static_cast<std::uint64_t>(grid_extent.x) * static_cast<std::uint64_t>(grid_extent.y) *
                      static_cast<std::uint64_t>(grid_extent.z);
  for (const std::uint64_t block : block_order(schedule(), blocks)) {
    running_block().run(grid, block, order);
  }
}

uint3 thread_index() { return running_block().current().index; }
uint3 block_index() { return running_block().index(); }
dim3 block_extent() { return running_block().grid().block_extent; }
dim3 grid_extent() { return running_block().grid().extent; }

int block_barrier(const Site* site, Vote vote, int predicate) { return running_block().barrier(site, vote, predicate); }

std::uint64_t warp_collective(const Site* site, Collective kind, unsigned mask, std::uint64_t value, std::int64_t operand,
                              int width) {
  return running_block().collective(site, kind, mask, value, operand, width);
}

void* shared_array(const Site* site, std::size_t bytes, std::size_t alignment) {
  void* const array = running_block().memory().shared_array(site, bytes, alignment);
  if (array == nullptr) running_block().fail(site, "more static shared memory than a block has");
  return array;
}

void* dynamic_shared() { return running_block().memory().dynamic_shared(); }

// Orders everything before a fence before everything after a later one: more than CUDA does, so that it never accuses
// a correct "last block done" pattern.
void memory_fence() {
  static char token;
  acquire_token(&token);
  release_token(&token);
}

}  // namespace fastdet::emulator

// For ctypes. Chooses the order of the launches to come; 0 if it is known. See parse_schedule.
extern "C" __attribute__((visibility("default"))) int fastdet_emulator_set_order(const char* order) {
  const std::lock_guard<std::mutex> between_launches(fastdet::emulator::launch_mutex);
  return fastdet::emulator::parse_schedule(order, fastdet::emulator::schedule()) ? 0 : 1;
}

// Switches between threads so far.
extern "C" __attribute__((visibility("default"))) std::uint64_t fastdet_emulator_switches() {
  const std::lock_guard<std::mutex> between_launches(fastdet::emulator::launch_mutex);
  return fastdet::emulator::running_block().switches();
}
