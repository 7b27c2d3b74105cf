// SPDX-License-Identifier: Apache-2.0
// The candidates among scored boxes in the order in which CPU paths visit them.
#pragma once

#include <algorithm>
#include <functional>

#include "core/scored_boxes.h"

namespace fastdet {

// Keys of the boxes whose score key is above `threshold`, by group, then falling; returns their number. keys: room for all boxes.
inline std::int64_t order_candidates(const ScoredBoxes& in, std::uint32_t threshold, std::uint64_t* keys) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < in.count(); ++i) {
    const std::uint32_t key = in.key(i);
    if (key > threshold) keys[count++] = candidate_key(key, static_cast<std::uint32_t>(i));
  }
  if (in.groups.data == nullptr) {
    std::sort(keys, keys + count, std::greater<>());
    return count;
  }
  std::sort(keys, keys + count, [&](std::uint64_t a, std::uint64_t b) {
    const std::int64_t group_a = in.group(candidate_number(a)), group_b = in.group(candidate_number(b));
    return group_a != group_b ? group_a < group_b : a > b;
  });
  return count;
}

// The end of the group that begins at `begin`.
inline std::int64_t end_of_group(const ScoredBoxes& in, const std::uint64_t* keys, std::int64_t begin, std::int64_t count) {
  if (in.groups.data == nullptr) return count;
  const std::int64_t group = in.group(candidate_number(keys[begin]));
  std::int64_t end = begin + 1;
  while (end < count && in.group(candidate_number(keys[end])) == group) ++end;
  return end;
}

// Sorts keys[0, kept), falling, and writes them as the result; rows past them stay as they are.
inline void write_candidates(std::uint64_t* keys, std::int64_t kept, const CandidateRows& out) {
  std::sort(keys, keys + kept, std::greater<>());
  for (std::int64_t d = 0; d < kept; ++d) {
    out.write(d, {}, candidate_score(keys[d]), 0, static_cast<std::int64_t>(candidate_number(keys[d])));
  }
  out.count.as<std::int32_t>()[0] = static_cast<std::int32_t>(kept);
}

}  // namespace fastdet
