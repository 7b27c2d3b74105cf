// SPDX-License-Identifier: Apache-2.0
// Barriers and warp collectives. Macros, because each call must know its place in the source: lanes of one collective
// have to be at the same one.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

namespace fastdet::emulator {

enum class Vote : std::uint8_t { none, count, all, any };
// Waits for every thread of the block; returns the vote over the predicates.
int block_barrier(const Site* site, Vote vote = Vote::none, int predicate = 0);

enum class Collective : std::uint8_t { sync, shuffle_idx, shuffle_up, shuffle_down, shuffle_xor, ballot, any, all, match_any };
// Waits for every lane of mask; returns this lane's result. operand and width are those of the shuffles.
std::uint64_t warp_collective(const Site* site, Collective kind, unsigned mask, std::uint64_t value = 0, std::int64_t operand = 0,
                              int width = 32);

template <typename T>
inline std::uint64_t to_bits(T value) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4 && sizeof(T) <= 8, "collectives take 32- and 64-bit scalars");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}
template <typename T>
inline T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename T>
inline T shuffle(const Site* site, Collective kind, unsigned mask, T value, std::int64_t operand, int width = 32) {
  return from_bits<T>(warp_collective(site, kind, mask, to_bits(value), operand, width));
}
inline bool vote(const Site* site, Collective kind, unsigned mask, int predicate) {
  return warp_collective(site, kind, mask, predicate != 0) != 0;
}
inline unsigned ballot(const Site* site, unsigned mask, int predicate) {
  return static_cast<unsigned>(warp_collective(site, Collective::ballot, mask, predicate != 0));
}
template <typename T>
inline unsigned match_any(const Site* site, unsigned mask, T value) {
  return static_cast<unsigned>(warp_collective(site, Collective::match_any, mask, to_bits(value)));
}
struct WarpSync {
  const Site* site;
  void operator()(unsigned mask = 0xFFFFFFFFu) const { static_cast<void>(warp_collective(site, Collective::sync, mask)); }
};

}  // namespace fastdet::emulator

#define FD_EMULATED_WARP(function, kind, name, ...) \
  ::fastdet::emulator::function(FD_EMULATED_SITE(name "(" #__VA_ARGS__ ")"), ::fastdet::emulator::Collective::kind, __VA_ARGS__)
#define __shfl_sync(...) FD_EMULATED_WARP(shuffle, shuffle_idx, "__shfl_sync", __VA_ARGS__)
#define __shfl_up_sync(...) FD_EMULATED_WARP(shuffle, shuffle_up, "__shfl_up_sync", __VA_ARGS__)
#define __shfl_down_sync(...) FD_EMULATED_WARP(shuffle, shuffle_down, "__shfl_down_sync", __VA_ARGS__)
#define __shfl_xor_sync(...) FD_EMULATED_WARP(shuffle, shuffle_xor, "__shfl_xor_sync", __VA_ARGS__)
#define __any_sync(...) FD_EMULATED_WARP(vote, any, "__any_sync", __VA_ARGS__)
#define __all_sync(...) FD_EMULATED_WARP(vote, all, "__all_sync", __VA_ARGS__)
#define __ballot_sync(...) ::fastdet::emulator::ballot(FD_EMULATED_SITE("__ballot_sync(" #__VA_ARGS__ ")"), __VA_ARGS__)
#define __match_any_sync(...) ::fastdet::emulator::match_any(FD_EMULATED_SITE("__match_any_sync(" #__VA_ARGS__ ")"), __VA_ARGS__)
#define __syncwarp(...) (::fastdet::emulator::WarpSync{FD_EMULATED_SITE("__syncwarp(" #__VA_ARGS__ ")")}(__VA_ARGS__))

#define __syncthreads() static_cast<void>(::fastdet::emulator::block_barrier(FD_EMULATED_SITE("__syncthreads()")))
#define FD_EMULATED_BARRIER(kind, name, predicate)                                                               \
  ::fastdet::emulator::block_barrier(FD_EMULATED_SITE(name "(" #predicate ")"), ::fastdet::emulator::Vote::kind, \
                                     static_cast<int>(predicate))
#define __syncthreads_count(predicate) FD_EMULATED_BARRIER(count, "__syncthreads_count", predicate)
#define __syncthreads_and(predicate) FD_EMULATED_BARRIER(all, "__syncthreads_and", predicate)
#define __syncthreads_or(predicate) FD_EMULATED_BARRIER(any, "__syncthreads_or", predicate)

// Which lanes are active is an accident of scheduling: a kernel that asks is wrong. Pass the mask that is meant.
unsigned __activemask() = delete;
