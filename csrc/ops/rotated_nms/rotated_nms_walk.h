// SPDX-License-Identifier: Apache-2.0
// One picture's candidates on the CPU, in order, prepared as columns, and which of them fall. Threads take candidates.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "core/workspace.h"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_columns.h"

namespace fastdet {

struct RotatedWalk {
  // Takes arrays for `candidates`, of which at most `most` are kept of a group.
  RotatedWalk(const RotatedChoice& choice, std::int64_t candidates, std::int64_t most, Workspace* memory)
      : choice(choice), rule(rotated_rule(choice.iou_threshold, choice.degrees)), pitch(candidates), kept_pitch(most) {
    memory->take(&columns, rotated::kFields * pitch);
    memory->take(&kept, choice.fast ? 0 : rotated::kFields * kept_pitch);
    memory->take(&fallen, pitch);
  }

  // row(key, numbers) reads the box of a candidate.
  template <typename Row>
  void prepare(const std::uint64_t* keys, std::int64_t count, Row&& row) const {
    parallel_for(ceil_div(count, rotated::kPrepared), 8, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t start = from * rotated::kPrepared; start < std::min(count, to * rotated::kPrepared);
           start += rotated::kPrepared) {
        const std::int64_t n = std::min(rotated::kPrepared, count - start);
        alignas(64) float numbers[5 * rotated::kPrepared] = {};
        for (std::int64_t i = 0; i < n; ++i) {
          float box[5];
          row(keys[start + i], box);
          for (int k = 0; k < 5; ++k) numbers[k * rotated::kPrepared + i] = box[k];
        }
        rotated::prepare(choice.gaussian, rule, n, numbers, columns + start, pitch);
      }
    });
  }
  // Decides candidates [begin, end), which compete with one another. Greedily, all after the first `limit` kept ones fall.
  void visit(std::int64_t begin, std::int64_t end, std::int64_t limit) const {
    choice.fast ? fast(begin, end) : greedy(begin, end, limit);
  }

  const RotatedChoice& choice;
  RotatedRule rule;
  std::int64_t pitch, kept_pitch;
  float* columns;        // all candidates
  float* kept;           // greedy: those kept of the group
  std::uint8_t* fallen;  // per candidate

 private:
  void fast(std::int64_t begin, std::int64_t end) const;
  void greedy(std::int64_t begin, std::int64_t end, std::int64_t limit) const;
  bool falls_to_kept(std::int64_t begin, std::int64_t end, std::int64_t i) const {
    return rotated::falls(choice.gaussian, rule, kept, kept_pitch, begin, end, columns, pitch, i);
  }
};

}  // namespace fastdet
