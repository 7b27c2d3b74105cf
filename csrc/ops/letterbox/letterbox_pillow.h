// SPDX-License-Identifier: Apache-2.0
// The Pillow modes on the CPU. The horizontal pass works on 16 rows at once, turned so that the 16 pixels of a column lie side by
// side: both passes are then the same weighted sum of vectors, without a gather.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/letterbox/letterbox_lines.h"

namespace fastdet {

// A source of resized rows: row(y) is [channels, new_width], valid until the next call. Rows are asked for in order, up to `end`.
class PillowResizer {
 public:
  PillowResizer(const LetterboxPicture& picture, const YuvToRgb& colours, const PillowTable& columns, const PillowTable& rows,
                bool vertical_first, std::int32_t end);

  const std::uint8_t* row(std::int32_t y);

 private:
  void resize_columns(const std::uint8_t* const* lines, std::int32_t count, std::uint8_t* out);
  void fill_ring(std::int32_t source_row);
  void fill_block(std::int32_t y);

  const LetterboxPicture& p_;
  const PillowTable &columns_, &rows_;
  bool vertical_first_;
  std::int32_t end_;
  LineSource source_;
  std::int64_t row_size_;                     // channels * new_width
  std::vector<std::uint8_t> turned_;          // [line size, 16]
  std::vector<std::uint8_t> turned_columns_;  // [channels * new_width, 16]
  std::vector<const std::uint8_t*> window_;   // [taps of a row]
  // Horizontal pass first: resized source rows. Vertical pass first: lines between the passes, then result rows.
  std::int32_t slots_;
  std::vector<std::uint8_t> ring_;     // [slots, row_size]
  std::int32_t ring_end_ = -1;         // source rows below are in the ring, or were
  std::vector<std::uint8_t> between_;  // [16, line size]
  std::vector<std::uint8_t> pixels_;   // [1 or 16, row_size]
  std::int32_t block_begin_ = 0, block_end_ = 0;
};

}  // namespace fastdet
