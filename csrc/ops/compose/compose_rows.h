// SPDX-License-Identifier: Apache-2.0
// Loops over one row of the result, the same integers from every instruction set.
#pragma once

#include <cstdint>

#include "ops/compose/compose_cells.h"

namespace fastdet {

// Positions of the pixels of a row, one array for each member.
struct ComposePositions {
  std::int32_t *x, *y;  // [width]
  float *along, *down;  // [width]
};

struct ComposeRowLoops {
  // Positions of pixels 0, 1, ... of row y, or of width - 1, width - 2, ... if flipped.
  void (*positions)(const ComposeLayer& layer, std::int32_t y, std::int32_t width, bool flipped, const ComposePositions& out);
  // How many positions from `begin` on lie in [cell.x1, cell.last_x] x [cell.y1, cell.last_y].
  std::int32_t (*run)(const ComposePositions& at, std::int32_t begin, std::int32_t end, const ComposeCell& cell);
  // Colours of such a run from a dense tile. What lies `ahead` bytes further is asked for early, because the result's rows are
  // slanted in the picture, where the processor foresees nothing.
  void (*interpolate)(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t end,
                      std::int64_t ahead, std::uint8_t* const (&planes)[3]);
  // Colours of pixels one by one, from whatever lies there.
  void (*sample)(const ComposeTile* tiles, const ComposeLayer& layer, const std::uint8_t (&fill)[3], const ComposePositions& at,
                 std::int32_t begin, std::int32_t end, std::uint8_t* const (&planes)[3]);
  // a = blend of a and b.
  void (*blend)(std::uint8_t* a, const std::uint8_t* b, std::int32_t size, double share);
  // Through the tables for hue, saturation and value; planes in the order red, green, blue.
  void (*colour)(std::uint8_t* const (&planes)[3], std::int32_t size, const std::uint8_t* table);
  // Three planes to pixels.
  void (*interleave)(const std::uint8_t* const (&planes)[3], std::int32_t size, std::uint8_t* out);
};

// Those of the best instruction set allowed.
const ComposeRowLoops& compose_row_loops();

}  // namespace fastdet
