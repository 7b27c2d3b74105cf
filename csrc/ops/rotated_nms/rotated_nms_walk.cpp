// SPDX-License-Identifier: Apache-2.0
#include "ops/rotated_nms/rotated_nms_walk.h"

namespace fastdet {
namespace {

constexpr std::int64_t kChunk = 256;  // candidates tested against the kept list at once
constexpr std::int64_t kGrain = 32;   // candidates worth waking a thread for

}  // namespace

// Every candidate against all better ones.
void RotatedWalk::fast(std::int64_t begin, std::int64_t end) const {
  parallel_for(end - begin, kGrain, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = begin + from; i < begin + to; ++i) {
      fallen[i] = rotated::falls(choice.gaussian, rule, columns, pitch, begin, i, columns, pitch, i);
    }
  });
}

// Against boxes kept before a chunk its candidates are independent; inside it they are visited in order.
void RotatedWalk::greedy(std::int64_t begin, std::int64_t end, std::int64_t limit) const {
  std::int64_t size = 0, start = begin;
  for (; start < end && size < limit; start += kChunk) {
    const std::int64_t stop = std::min(end, start + kChunk), before = size;
    parallel_for(stop - start, before > 512 ? kGrain : kChunk, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = start + from; i < start + to; ++i) fallen[i] = falls_to_kept(0, before, i);
    });
    for (std::int64_t i = start; i < stop; ++i) {
      fallen[i] = fallen[i] != 0 || size == limit || falls_to_kept(before, size, i);
      if (fallen[i] != 0) continue;
      for (int f = 0; f < rotated::kFields; ++f) kept[f * kept_pitch + size] = columns[f * pitch + i];
      ++size;
    }
  }
  if (start < end) std::fill(fallen + start, fallen + end, std::uint8_t{1});
}

}  // namespace fastdet
