// SPDX-License-Identifier: Apache-2.0
// Loops over one row of the result, the same integers from every instruction set.
#pragma once

#include <cstdint>

#include "core/platform.h"
#include "ops/compose/compose_cells.h"

namespace fastdet {

// Positions of the pixels of a row, one array for each member.
struct ComposePositions {
  std::int32_t *x, *y;  // [width]
  float *along, *down;  // [width]
};

// Channel 0 of pixel (0, 0) of the canvas would lie here; where a picture's bytes begin, and its planes in their order.
struct ComposeDenseTile {
  const std::uint8_t* origin;  // lowest byte of pixel (0, 0) of the picture
  bool reversed;               // blue, green, red in memory
};

FD_HD ComposeDenseTile compose_dense_tile(const ComposeTile& tile) {
  const bool reversed = tile.channel_stride < 0;
  return {reversed ? tile.image - 2 : tile.image, reversed};
}

// ComposeRowLoops::interpolate, pixel by pixel.
FD_HD void compose_interpolate_each(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t end,
                                    std::int64_t, std::uint8_t* const (&planes)[3]) {
  const ComposeDenseTile dense = compose_dense_tile(tile);
  for (std::int32_t i = begin; i < end; ++i) {
    const std::uint8_t* const upper = dense.origin + (at.y[i] - tile.top) * tile.row_stride + 3 * (at.x[i] - tile.left);
    const std::uint8_t* const lower = upper + tile.row_stride;
    for (std::int32_t c = 0; c < 3; ++c) {
      const float above = compose_between(upper[c], upper[c + 3], at.along[i]);
      const float below = compose_between(lower[c], lower[c + 3], at.along[i]);
      planes[dense.reversed ? 2 - c : c][i] = compose_round(compose_between(above, below, at.down[i]));
    }
  }
}

struct ComposeRowLoops {
  // Positions of pixels 0, 1, ... of row y, or of width - 1, width - 2, ... if flipped.
  void (*positions)(const ComposeLayer& layer, std::int32_t y, std::int32_t width, bool flipped, const ComposePositions& out);
  // How many positions from `begin` on lie in [cell.x1, cell.last_x] x [cell.y1, cell.last_y].
  std::int32_t (*run)(const ComposePositions& at, std::int32_t begin, std::int32_t end, const ComposeCell& cell);
  // Colours of such a run from a dense tile. What lies `ahead` bytes further is asked for early, because the result's rows are
  // slanted in the picture, where the processor foresees nothing.
  void (*interpolate)(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t end,
                      std::int64_t ahead, std::uint8_t* const (&planes)[3]);
  // The same where y and down are equal in all of the run.
  void (*interpolate_row)(const ComposeTile& tile, const ComposePositions& at, std::int32_t begin, std::int32_t end,
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

#if defined(FD_X86_TARGETS)
// `narrow` (AVX2) with the loops that are better in AVX-512 with VBMI.
ComposeRowLoops compose_wide_loops(const ComposeRowLoops& narrow);
#endif

}  // namespace fastdet
