// SPDX-License-Identifier: Apache-2.0
// Which tile lies on top where: a canvas cut into rectangles by the edges of its tiles. Only the CPU path has them; a GPU's
// threads look at the tiles themselves.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/compose/compose.h"

namespace fastdet {

// Canvas pixels [x1, x2) x [y1, y2), all of the same tiles. Those outside the canvas have cells too.
struct ComposeCell {
  std::int32_t x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  std::int32_t last_x = 0, last_y = 0;        // of the positions whose four pixels compose_interpolate may load from here
  const ComposeTile* tile = nullptr;          // the uppermost without a mask; null: fill
  std::int32_t mask_begin = 0, mask_end = 0;  // masked tiles above it, rising: ComposeCells::masked
  bool dense = false;                         // compose_interpolate takes all of them

  bool holds(std::int32_t x, std::int32_t y) const { return x >= x1 && x < x2 && y >= y1 && y < y2; }
};

class ComposeCells {
 public:
  ComposeCells(const ComposeTile* tiles, const ComposeLayer& layer);

  const ComposeCell& at(std::int32_t x, std::int32_t y) const;

  // From position `begin` on, how many of `size` positions in a cell have four pixels of one and the same tile (null: fill)
  // around them; 0 where a mask's border runs between the first one's.
  std::int32_t run(const ComposeCell& cell, const std::int32_t* x, const std::int32_t* y, std::int32_t size,
                   const ComposeTile** tile) const;

 private:
  struct Stack {
    const ComposeTile* tile = nullptr;
    std::vector<const ComposeTile*> masked;

    bool operator==(const Stack& other) const { return tile == other.tile && masked == other.masked; }
  };

  ComposeCell widest(const std::vector<Stack>& stacks, std::size_t column, std::size_t row, std::size_t* columns_end,
                     std::size_t* rows_end) const;
  bool source(const ComposeCell& cell, std::int32_t x, std::int32_t y, const ComposeTile** tile) const;

  std::vector<std::int32_t> x_, y_;    // edges, rising, with one far outside at either end
  std::vector<std::int32_t> cell_of_;  // [y_.size() - 1, x_.size() - 1]
  std::vector<ComposeCell> cells_;
  std::vector<const ComposeTile*> masked_;
};

}  // namespace fastdet
