// SPDX-License-Identifier: Apache-2.0
#include "ops/letterbox/letterbox_area.h"

#include <algorithm>

#include "core/platform.h"
#include "ops/letterbox/letterbox_rows.h"

namespace fastdet {
namespace {

std::size_t bytes(std::int64_t count) { return static_cast<std::size_t>(count); }

template <typename Sum>
FD_HD void add_bytes(const std::uint8_t* FD_RESTRICT line, std::int64_t size, Sum* FD_RESTRICT sums) {
  for (std::int64_t i = 0; i < size; ++i) sums[i] = static_cast<Sum>(sums[i] + line[i]);
}

// kColumns, kStride 0: those given.
template <int kColumns, int kStride, typename Sum>
FD_HD void means_of(const Sum* FD_RESTRICT sums, std::int64_t given_stride, std::int64_t count, const AreaCell& given,
                    std::uint8_t* FD_RESTRICT out) {
  const AreaCell cell{given.rows, kColumns > 0 ? kColumns : given.columns};
  const std::int64_t stride = kStride > 0 ? kStride : given_stride;
  for (std::int64_t x = 0; x < count; ++x) {
    std::int32_t sum = 0;
    for (std::int32_t i = 0; i < cell.columns; ++i) sum += static_cast<std::int32_t>(sums[(x * cell.columns + i) * stride]);
    out[x] = area_mean(sum, cell);
  }
}

template <int kStride>
FD_HD void means_by_columns(const std::uint16_t* sums, std::int64_t stride, std::int64_t count, const AreaCell& cell,
                            std::uint8_t* out) {
  if (cell.columns == 2) return means_of<2, kStride>(sums, stride, count, cell, out);
  if (cell.columns == 3) return means_of<3, kStride>(sums, stride, count, cell, out);
  means_of<0, kStride>(sums, stride, count, cell, out);
}

FD_TARGET_CLONES void add_line(const std::uint8_t* line, std::int64_t size, std::uint16_t* sums) { add_bytes(line, size, sums); }
FD_TARGET_CLONES void add_line(const std::uint8_t* line, std::int64_t size, std::uint32_t* sums) { add_bytes(line, size, sums); }

// out[x] = area_mean of the cell.columns sums, `stride` apart, of cell x.
FD_TARGET_CLONES void cell_means(const std::uint16_t* sums, std::int64_t stride, std::int64_t count, const AreaCell& cell,
                                 std::uint8_t* out) {
  if (stride == 1) return means_by_columns<1>(sums, stride, count, cell, out);
  if (stride == 3) return means_by_columns<3>(sums, stride, count, cell, out);
  means_by_columns<0>(sums, stride, count, cell, out);
}
FD_TARGET_CLONES void cell_means(const std::uint32_t* sums, std::int64_t stride, std::int64_t count, const AreaCell& cell,
                                 std::uint8_t* out) {
  means_of<0, 0>(sums, stride, count, cell, out);
}

constexpr std::int32_t kShortRows = 257;  // whose sum of bytes fits 16 bits

}  // namespace

FD_TARGET_CLONES void area_rows(const float* const* rows, const AreaWindow& window, std::int64_t size, float* FD_RESTRICT sums,
                                std::uint8_t* FD_RESTRICT out) {
  std::fill(sums, sums + size, 0.0f);
  for (std::int32_t k = 0; k < window.size; ++k) {
    const float* FD_RESTRICT row = rows[k];
    const float weight = window.weight(k);
    for (std::int64_t i = 0; i < size; ++i) sums[i] += row[i] * weight;
  }
  for (std::int64_t i = 0; i < size; ++i) out[i] = area_round(sums[i]);
}

AreaResizer::AreaResizer(const LetterboxPicture& picture, const YuvToRgb& colours, const AreaWindow* columns, std::int32_t end)
    : p_(picture),
      columns_(columns),
      cell_(area_cell(picture.height, picture.width, picture.new_height, picture.new_width)),
      end_(end),
      source_(picture, colours, cell_.rows > 0 ? 1 : kLanes, cell_.rows > 0 ? Unpack::kGaps : Unpack::kAll),
      row_size_(std::int64_t{source_.channels()} * picture.new_width),
      pixels_(bytes(row_size_)) {
  if (cell_.rows > 0) {
    (cell_.rows <= kShortRows ? short_sums_.resize(bytes(source_.size())) : sums_.resize(bytes(source_.size())));
    return;
  }
  const std::int32_t most = picture.height / picture.new_height + 3;  // rows of a window
  slots_ = most + kLanes;
  turned_.resize(bytes(source_.size() * kLanes));
  turned_columns_.resize(bytes(row_size_ * kLanes));
  ring_.resize(bytes(slots_ * row_size_));
  blend_.resize(bytes(row_size_));
  window_.resize(bytes(most));
}

const std::uint8_t* AreaResizer::row(std::int32_t y) {
  if (cell_.rows > 0) {
    cell_.rows <= kShortRows ? fill_cells(y, short_sums_.data()) : fill_cells(y, sums_.data());
    return pixels_.data();
  }
  const AreaWindow window = area_window(y, p_.height, p_.new_height);
  for (std::int32_t i = 0; i < window.size; ++i) {
    const std::int32_t source_row = window.begin + i;
    if (source_row >= ring_end_) fill_ring(source_row);
    window_[bytes(i)] = ring_.data() + source_row % slots_ * row_size_;
  }
  area_rows(window_.data(), window, row_size_, blend_.data(), pixels_.data());
  return pixels_.data();
}

template <typename Sum>
void AreaResizer::fill_cells(std::int32_t y, Sum* sums) {
  std::fill(sums, sums + source_.size(), Sum{0});
  for (std::int32_t i = 0; i < cell_.rows; ++i) add_line(source_.line(y * cell_.rows + i), source_.size(), sums);
  for (std::int32_t c = 0; c < source_.channels(); ++c) {
    cell_means(sums + source_.origin() + c * source_.channel_stride(), source_.pixel_stride(), p_.new_width, cell_,
               pixels_.data() + std::int64_t{c} * p_.new_width);
  }
}

// Resizes the source rows from this one on that the ring has room for and the remaining output rows ask for.
void AreaResizer::fill_ring(std::int32_t source_row) {
  const AreaWindow last = area_window(end_ - 1, p_.height, p_.new_height);
  std::int32_t count = std::min(kLanes, last.begin + last.size - source_row);
  count = std::min(count, slots_ - source_row % slots_);  // a block does not wrap around
  const std::uint8_t* lines[kLanes];
  float* rows[kLanes];
  for (std::int32_t i = 0; i < count; ++i) {
    lines[i] = source_.line(source_row + i);
    rows[i] = ring_.data() + (source_row % slots_ + i) * row_size_;
  }
  turn_lines(lines, count, source_.size(), turned_.data());
  area_columns(columns_, p_.new_width, turned_.data(), p_.width, source_.channels(), turned_columns_.data());
  turn_floats(turned_columns_.data(), row_size_, rows, count);
  ring_end_ = source_row + count;
}

}  // namespace fastdet
