// SPDX-License-Identifier: Apache-2.0
// First half of the CPU path of candidates: the logits are read once, codes only where a logit passes.
#pragma once

#include <cstdint>

#include "ops/decode/decode.h"

namespace fastdet {

// What collecting needs to know beside the maps.
struct CollectRule {
  float least = 0.0f;           // logits below are no candidates
  std::uint32_t threshold = 0;  // scores have a greater key
  bool multi_label = false;
};

// Consecutive rows of one prior of one level: what a thread takes at once.
struct CollectUnit {
  int level = 0;
  std::int64_t prior = 0, row_begin = 0, row_end = 0;
};

std::int64_t collect_units(const HeadMaps& maps);
CollectUnit collect_unit(const HeadMaps& maps, std::int64_t number);
// Number of the unit's first anchor.
std::int64_t first_anchor(const HeadMaps& maps, const CollectUnit& unit);

// Writes the keys of the unit's candidates to keys, in no particular order, and returns how many; boxes[anchor] and, for
// the best column alone, labels[anchor] of those that are candidates. keys has room for all candidates of the unit.
std::int64_t collect(const HeadMaps& maps, const CollectRule& rule, std::int64_t image, const CollectUnit& unit,
                     std::uint64_t* keys, Box* boxes, std::int32_t* labels);

}  // namespace fastdet
