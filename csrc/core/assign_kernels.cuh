// SPDX-License-Identifier: Apache-2.0
// Words that the kernels of assigners share. Whatever order blocks and threads run in, results are the same bits: lists are
// ordered by unique keys, and atomics only count and take minima.
#pragma once

#include <cstdint>

#include "core/assign.h"
#include "core/launch.h"

namespace fastdet {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kChooseThreads = 128;  // of a block that serves one ground truth
constexpr int kListLength = 10;      // keys a thread keeps in registers: one pass serves a top-k of up to this

FD_D std::int64_t block_image(std::int64_t per_image) { return static_cast<std::int64_t>(blockIdx.x) / per_image; }
FD_D std::int64_t block_part(std::int64_t per_image) { return static_cast<std::int64_t>(blockIdx.x) % per_image; }

FD_D std::uint64_t warp_min(std::uint64_t key) {
  unsigned long long least = key;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, least, step);
    least = other < least ? other : least;
  }
  return least;
}

// Calls take(key) in every thread of kChooseThreads for the `wanted` smallest keys that scan(visit) visits, in rising order;
// fewer if they run out. Keys are unique and above 0; kNoKey is none. Each thread keeps its own kListLength smallest in
// registers; more than that takes another scan. scratch: two entries per warp.
template <typename Scan, typename Take>
FD_D void take_smallest(std::int64_t wanted, std::uint64_t* scratch, const Scan& scan, const Take& take) {
  constexpr int warps = kChooseThreads / kWarp;
  std::uint64_t last = 0;
  int side = 0;
  __syncthreads();  // the caller, or a call before, may still read scratch
  for (std::int64_t taken = 0; taken < wanted;) {
    std::uint64_t list[kListLength];
#pragma unroll
    for (int i = 0; i < kListLength; ++i) list[i] = kNoKey;
    scan([&](std::uint64_t key) {
      if (key <= last || key >= list[kListLength - 1]) return;
      list[kListLength - 1] = key;
#pragma unroll
      for (int i = kListLength - 1; i > 0; --i) {
        if (list[i] < list[i - 1]) {
          const std::uint64_t smaller_key = list[i];
          list[i] = list[i - 1];
          list[i - 1] = smaller_key;
        }
      }
    });
    for (int round = 0; round < kListLength && taken < wanted; ++round, ++taken) {
      // Two sides in turn: one barrier a round, and nobody overwrites what another still reads.
      side ^= warps;
      const std::uint64_t least = warp_min(list[0]);
      if (threadIdx.x % kWarp == 0) scratch[side + static_cast<int>(threadIdx.x) / kWarp] = least;
      __syncthreads();
      std::uint64_t winner = scratch[side];
#pragma unroll
      for (int i = 1; i < warps; ++i) winner = scratch[side + i] < winner ? scratch[side + i] : winner;
      if (winner == kNoKey) return;
      if (list[0] == winner) {
#pragma unroll
        for (int i = 1; i < kListLength; ++i) list[i - 1] = list[i];
        list[kListLength - 1] = kNoKey;
      }
      take(winner);
      last = winner;
    }
  }
}

// For a whole warp: `row`, and in lanes that are `contested` what settle(step) finds, by the work of all lanes, for the candidate
// of the lane `step` further.
template <typename Settle>
FD_D std::int32_t settled_row(bool contested, std::int32_t row, const Settle& settle) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (unsigned open = __ballot_sync(kAllLanes, contested); open != 0; open &= open - 1) {
    const int owner_lane = __ffs(static_cast<int>(open)) - 1;
    const std::int32_t found = settle(owner_lane - lane);
    if (lane == owner_lane) row = found;
  }
  return row;
}

}  // namespace fastdet
