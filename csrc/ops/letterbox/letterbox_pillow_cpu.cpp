// SPDX-License-Identifier: Apache-2.0
#include "ops/letterbox/letterbox_pillow.h"

#include <algorithm>

#include "ops/letterbox/letterbox_rows.h"

namespace fastdet {
namespace {

std::size_t bytes(std::int64_t count) { return static_cast<std::size_t>(count); }

}  // namespace

PillowResizer::PillowResizer(const LetterboxPicture& picture, const YuvToRgb& colours, const PillowTable& columns,
                             const PillowTable& rows, bool vertical_first, std::int32_t end)
    : p_(picture),
      columns_(columns),
      rows_(rows),
      vertical_first_(vertical_first),
      end_(end),
      source_(picture, colours, vertical_first ? rows.taps : kLanes, Unpack::kGaps),
      row_size_(std::int64_t{source_.channels()} * picture.new_width),
      turned_(bytes(source_.size() * kLanes)),
      turned_columns_(bytes(row_size_ * kLanes)),
      window_(bytes(rows.taps)),
      slots_(rows.taps + kLanes),
      ring_(vertical_first ? 0 : bytes(slots_ * row_size_)),
      between_(vertical_first ? bytes(kLanes * source_.size()) : 0),
      pixels_(bytes((vertical_first ? kLanes : 1) * row_size_)) {}

const std::uint8_t* PillowResizer::row(std::int32_t y) {
  if (vertical_first_) {
    if (y < block_begin_ || y >= block_end_) fill_block(y);
    return pixels_.data() + (y - block_begin_) * row_size_;
  }
  const PillowWindow window = rows_.windows[y];
  for (std::int32_t i = 0; i < window.size; ++i) {
    const std::int32_t source_row = window.begin + i;
    if (source_row >= ring_end_) fill_ring(source_row);
    window_[bytes(i)] = ring_.data() + source_row % slots_ * row_size_;
  }
  pillow_rows(window_.data(), rows_.weights + std::int64_t{y} * rows_.taps, window.size, row_size_, pixels_.data());
  return pixels_.data();
}

// Horizontal pass over up to 16 lines. out: rows of row_size, one after the other.
void PillowResizer::resize_columns(const std::uint8_t* const* lines, std::int32_t count, std::uint8_t* out) {
  turn_lines(lines, count, source_.size(), turned_.data());
  pillow_columns(columns_, p_.new_width, turned_.data() + source_.origin() * kLanes, source_.pixel_stride() * kLanes,
                 source_.channel_stride() * kLanes, source_.channels(), turned_columns_.data());
  std::uint8_t* rows[kLanes];
  for (std::int32_t i = 0; i < count; ++i) rows[i] = out + i * row_size_;
  turn_columns(turned_columns_.data(), row_size_, rows, count);
}

// Resizes the source rows from this one on that the ring has room for and the remaining output rows ask for.
void PillowResizer::fill_ring(std::int32_t source_row) {
  const PillowWindow last = rows_.windows[end_ - 1];
  std::int32_t count = std::min(kLanes, last.begin + last.size - source_row);
  count = std::min(count, slots_ - source_row % slots_);  // a block does not wrap around
  const std::uint8_t* lines[kLanes];
  for (std::int32_t i = 0; i < count; ++i) lines[i] = source_.line(source_row + i);
  resize_columns(lines, count, ring_.data() + source_row % slots_ * row_size_);
  ring_end_ = source_row + count;
}

// Both passes for up to 16 output rows, the vertical one first.
void PillowResizer::fill_block(std::int32_t y) {
  const std::int32_t count = std::min(kLanes, end_ - y);
  const std::uint8_t* lines[kLanes];
  for (std::int32_t i = 0; i < count; ++i) {
    const PillowWindow window = rows_.windows[y + i];
    for (std::int32_t j = 0; j < window.size; ++j) window_[bytes(j)] = source_.line(window.begin + j);
    std::uint8_t* const line = between_.data() + i * source_.size();
    pillow_rows(window_.data(), rows_.weights + std::int64_t{y + i} * rows_.taps, window.size, source_.size(), line);
    lines[i] = line;
  }
  resize_columns(lines, count, pixels_.data());
  block_begin_ = y;
  block_end_ = y + count;
}

}  // namespace fastdet
