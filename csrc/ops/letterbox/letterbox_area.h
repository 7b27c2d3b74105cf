// SPDX-License-Identifier: Apache-2.0
// OpenCV's INTER_AREA on the CPU, for pictures that shrink on both sides. Cells of whole pixels are sums of integers, over rows
// first. Otherwise the pass along rows works on 16 rows at once, turned so that the 16 pixels of a column lie side by side: the
// float32 sums are then made in OpenCV's order, in the lanes of vectors.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/letterbox/letterbox_lines.h"

namespace fastdet {

// A source of resized rows: row(y) is [channels, new_width], valid until the next call. Rows are asked for in order, up to `end`.
class AreaResizer {
 public:
  // columns: [new_width], not used for cells of whole pixels.
  AreaResizer(const LetterboxPicture& picture, const YuvToRgb& colours, const AreaWindow* columns, std::int32_t end);

  const std::uint8_t* row(std::int32_t y);

 private:
  template <typename Sum>
  void fill_cells(std::int32_t y, Sum* sums);
  void fill_ring(std::int32_t source_row);

  const LetterboxPicture& p_;
  const AreaWindow* columns_;
  AreaCell cell_;  // rows is 0 where cells have parts of pixels
  std::int32_t end_;
  LineSource source_;
  std::int64_t row_size_;             // channels * new_width
  std::vector<std::uint8_t> pixels_;  // [row_size]
  // [line size], of whole pixels: 16 bits where they suffice.
  std::vector<std::uint16_t> short_sums_;
  std::vector<std::uint32_t> sums_;
  std::int32_t slots_ = 0;
  std::vector<std::uint8_t> turned_;   // [line size, 16]
  std::vector<float> turned_columns_;  // [row_size, 16]
  std::vector<float> ring_;            // [slots, row_size]: resized source rows
  std::vector<float> blend_;           // [row_size]
  std::vector<const float*> window_;   // [rows of a window]
  std::int32_t ring_end_ = -1;         // source rows below are in the ring, or were
};

}  // namespace fastdet
