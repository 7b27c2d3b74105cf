// SPDX-License-Identifier: Apache-2.0
// Warp collectives: a lane waits until every lane of its mask is at the same call with the same mask.
#include "scheduler.h"

namespace fastdet::emulator {

namespace {

int warp_start(int thread) { return thread / 32 * 32; }
unsigned lane_bit(int lane) { return 1u << lane; }

}  // namespace

// Refuses a mask as soon as it is certain that it cannot be met.
void Block::check_mask(const Site* site, unsigned mask, int lane) {
  if ((mask & lane_bit(lane)) == 0) fail(site, "lane %d is not in its own mask 0x%08x", lane, mask);
  for (int other_lane = 0; other_lane < 32; ++other_lane) {
    if ((mask & lane_bit(other_lane)) == 0) continue;
    const int index = warp_start(current_) + other_lane;
    if (index >= count_) fail(site, "mask 0x%08x names lane %d, which the block does not have", mask, other_lane);
    const Thread& other = threads_[index];
    if (other.state == State::done) fail(site, "mask 0x%08x names lane %d, which has ended", mask, other_lane);
    if (other.state != State::at_collective || (other.mask & lane_bit(lane)) == 0) continue;
    if (other.mask != mask)
      fail(site, "mask 0x%08x, but lane %d gave 0x%08x (%s:%d)", mask, other_lane, other.mask, other.site->file,
           other.site->line);
    if (other.site != site)
      fail(site, "divergent lanes: lane %d waits at %s, %s:%d", other_lane, other.site->text, other.site->file, other.site->line);
  }
}

bool Block::collective_complete(unsigned mask) const {
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask & lane_bit(lane)) == 0) continue;
    const Thread& thread = threads_[warp_start(current_) + lane];
    if (thread.state != State::at_collective || thread.mask != mask) return false;
  }
  return true;
}

// The lane a shuffle of this lane reads, by the PTX description of shfl: its own where the other lies outside the width.
int Block::shuffle_source(int lane) {
  const Thread& thread = threads_[warp_start(current_) + lane];
  const int first = lane & ~(thread.width - 1);
  const int last = first + thread.width - 1;
  const int operand = static_cast<int>(thread.operand & 31);
  switch (thread.kind) {
    case Collective::shuffle_up: return lane - operand < first ? lane : lane - operand;
    case Collective::shuffle_down: return lane + operand > last ? lane : lane + operand;
    case Collective::shuffle_xor: return (lane ^ operand) > last ? lane : lane ^ operand;
    default: return first + (operand & (thread.width - 1));
  }
}

void Block::complete_collective(unsigned mask) {
  Thread* const lanes = threads_ + warp_start(current_);
  unsigned true_lanes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask & lane_bit(lane)) != 0 && lanes[lane].value != 0) true_lanes |= lane_bit(lane);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask & lane_bit(lane)) == 0) continue;
    Thread& thread = lanes[lane];
    switch (thread.kind) {
      case Collective::sync: break;
      case Collective::ballot: thread.result = true_lanes; break;
      case Collective::any: thread.result = true_lanes != 0; break;
      case Collective::all: thread.result = true_lanes == mask; break;
      case Collective::match_any:
        thread.result = 0;
        for (int other = 0; other < 32; ++other) {
          if ((mask & lane_bit(other)) != 0 && lanes[other].value == thread.value) thread.result |= lane_bit(other);
        }
        break;
      default: {
        const int source = shuffle_source(lane);
        if ((mask & lane_bit(source)) == 0)
          fail(thread.site, "lane %d reads lane %d, which is outside the mask 0x%08x", lane, source, mask);
        thread.result = lanes[source].value;
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask & lane_bit(lane)) != 0) lanes[lane].state = State::runnable;
  }
}

// Only __syncwarp orders memory; shuffles and votes exchange their operands and nothing else.
void Block::order_warp_memory(unsigned mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask & lane_bit(lane)) == 0) continue;
    const int other = warp_start(current_) + lane;
    acquire_token(warp_token(other, 0));
    acquire_token(warp_token(other, 1));
  }
}

std::uint64_t Block::collective(const Site* site, Collective kind, unsigned mask, std::uint64_t value, std::int64_t operand,
                                int width) {
  Thread& self = threads_[current_];
  check_mask(site, mask, current_ % 32);
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail(site, "width must be a power of two up to 32, got %d", width);
  self.state = State::at_collective;
  self.site = site;
  self.kind = kind;
  self.mask = mask;
  self.value = value;
  self.operand = operand;
  self.width = width;
  if (kind == Collective::sync) release_token(warp_token(current_, self.warp_syncs++));
  if (collective_complete(mask)) complete_collective(mask);
  wait();
  if (kind == Collective::sync) order_warp_memory(mask);
  return self.result;
}

}  // namespace fastdet::emulator
