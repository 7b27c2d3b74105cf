// SPDX-License-Identifier: Apache-2.0
// Which tile lies on top where: a canvas cut into rectangles by the edges of its tiles. Only the CPU path has them; a GPU's
// threads look at the tiles themselves.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/compose/compose.h"

namespace fastdet {

// Canvas pixels [x1, x2) x [y1, y2), all of one tile or all empty. Those outside the canvas have cells too.
struct ComposeCell {
  std::int32_t x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  std::int32_t last_x = 0, last_y = 0;  // of the positions whose four pixels compose_interpolate may load from here
  const ComposeTile* tile = nullptr;    // null: fill
  bool dense = false;                   // fill, or a tile that compose_interpolate takes

  bool holds(std::int32_t x, std::int32_t y) const { return x >= x1 && x < x2 && y >= y1 && y < y2; }
};

class ComposeCells {
 public:
  ComposeCells(const ComposeTile* tiles, const ComposeLayer& layer);

  ComposeCell at(std::int32_t x, std::int32_t y) const;

 private:
  std::vector<std::int32_t> x_, y_;        // edges, rising, with one far outside at either end
  std::vector<const ComposeTile*> tiles_;  // [y_.size() - 1, x_.size() - 1]
};

}  // namespace fastdet
