// SPDX-License-Identifier: Apache-2.0
#include "ops/compose/compose_cells.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace fastdet {
namespace {

constexpr std::int32_t kFar = 1 << 30;

void sort_edges(std::vector<std::int32_t>& edges) {
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
}

std::size_t place_of(const std::vector<std::int32_t>& edges, std::int32_t edge) {
  return static_cast<std::size_t>(std::upper_bound(edges.begin(), edges.end(), edge) - edges.begin()) - 1;
}

// Three bytes a pixel in either order, and offsets inside the picture in 32 bits.
bool is_dense(const ComposeTile& tile) {
  const std::int64_t rows = std::int64_t{tile.y2} - tile.top;
  return tile.pixel_stride == 3 && (tile.channel_stride == 1 || tile.channel_stride == -1) &&
         std::abs(tile.row_stride) < std::numeric_limits<std::int32_t>::max() / (rows + 1) &&
         std::int64_t{tile.right} - tile.left < std::numeric_limits<std::int32_t>::max() / 8;
}

}  // namespace

ComposeCells::ComposeCells(const ComposeTile* tiles, const ComposeLayer& layer) : x_{-kFar, kFar}, y_{-kFar, kFar} {
  const auto shows = [](const ComposeTile& tile) { return tile.x1 < tile.x2 && tile.y1 < tile.y2; };
  for (std::int32_t i = layer.tile_begin; i < layer.tile_end; ++i) {
    if (!shows(tiles[i])) continue;
    x_.insert(x_.end(), {tiles[i].x1, tiles[i].x2});
    y_.insert(y_.end(), {tiles[i].y1, tiles[i].y2});
  }
  sort_edges(x_);
  sort_edges(y_);
  const std::size_t columns = x_.size() - 1, rows = y_.size() - 1;
  std::vector<Stack> stacks(columns * rows);
  for (std::int32_t i = layer.tile_begin; i < layer.tile_end; ++i) {
    if (!shows(tiles[i])) continue;
    const std::size_t right = place_of(x_, tiles[i].x2), end = place_of(y_, tiles[i].y2);
    for (std::size_t row = place_of(y_, tiles[i].y1); row < end; ++row) {
      for (std::size_t column = place_of(x_, tiles[i].x1); column < right; ++column) {
        Stack& stack = stacks[row * columns + column];
        if (tiles[i].mask != nullptr) {
          stack.masked.push_back(&tiles[i]);
        } else {
          stack = Stack{&tiles[i], {}};
        }
      }
    }
  }
  // Neighbours of the same tiles become one cell, since every tile's edges cut the whole canvas.
  cell_of_.assign(columns * rows, -1);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      if (cell_of_[row * columns + column] >= 0) continue;
      std::size_t columns_end = column, rows_end = row;
      const ComposeCell cell = widest(stacks, column, row, &columns_end, &rows_end);
      for (std::size_t y = row; y < rows_end; ++y) {
        for (std::size_t x = column; x < columns_end; ++x) {
          std::int32_t& number = cell_of_[y * columns + x];
          if (number < 0) number = static_cast<std::int32_t>(cells_.size());
        }
      }
      const std::vector<const ComposeTile*>& masked = stacks[row * columns + column].masked;
      cells_.push_back(cell);
      cells_.back().mask_begin = static_cast<std::int32_t>(masked_.size());
      masked_.insert(masked_.end(), masked.begin(), masked.end());
      cells_.back().mask_end = static_cast<std::int32_t>(masked_.size());
    }
  }
}

// The cell from a place of the grid to the right, then down, as far as the same tiles lie there.
ComposeCell ComposeCells::widest(const std::vector<Stack>& stacks, std::size_t column, std::size_t row, std::size_t* columns_end,
                                 std::size_t* rows_end) const {
  const std::size_t columns = x_.size() - 1, rows = y_.size() - 1;
  const Stack& stack = stacks[row * columns + column];
  std::size_t right = column + 1, below = row + 1;
  while (right < columns && stacks[row * columns + right] == stack) ++right;
  const auto alike = [&](std::size_t y) {
    const auto first = stacks.begin() + static_cast<std::ptrdiff_t>(y * columns);
    return std::all_of(first + static_cast<std::ptrdiff_t>(column), first + static_cast<std::ptrdiff_t>(right),
                       [&](const Stack& other) { return other == stack; });
  };
  while (below < rows && alike(below)) ++below;
  *columns_end = right;
  *rows_end = below;
  ComposeCell cell;
  cell.x1 = x_[column], cell.y1 = y_[row], cell.x2 = x_[right], cell.y2 = y_[below];
  cell.last_x = cell.x2 - 2;
  cell.last_y = cell.y2 - 2;
  cell.tile = stack.tile;
  // Two pixels are loaded as eight bytes: the row must have them.
  const auto at_end = [&](const ComposeTile* tile) { return cell.x2 == tile->right; };
  const bool ends =
      (stack.tile != nullptr && at_end(stack.tile)) || std::any_of(stack.masked.begin(), stack.masked.end(), at_end);
  if (ends) cell.last_x -= 1;
  cell.dense = (stack.tile == nullptr || is_dense(*stack.tile)) &&
               std::all_of(stack.masked.begin(), stack.masked.end(), [](const ComposeTile* tile) { return is_dense(*tile); });
  return cell;
}

const ComposeCell& ComposeCells::at(std::int32_t x, std::int32_t y) const {
  const std::size_t place = place_of(y_, y) * (x_.size() - 1) + place_of(x_, x);
  return cells_[static_cast<std::size_t>(cell_of_[place])];
}

// The tile that all four pixels around a position show; false if they show several.
bool ComposeCells::source(const ComposeCell& cell, std::int32_t x, std::int32_t y, const ComposeTile** tile) const {
  for (std::int32_t k = cell.mask_end - 1; k >= cell.mask_begin; --k) {
    const ComposeTile& masked = *masked_[static_cast<std::size_t>(k)];
    const std::uint8_t* const upper =
        masked.mask + (y - masked.top) * masked.mask_row_stride + std::int64_t{x - masked.left} * masked.mask_pixel_stride;
    const std::uint8_t* const lower = upper + masked.mask_row_stride;
    const int shown =
        (upper[0] != 0) + (upper[masked.mask_pixel_stride] != 0) + (lower[0] != 0) + (lower[masked.mask_pixel_stride] != 0);
    *tile = &masked;
    if (shown > 0) return shown == 4;
  }
  *tile = cell.tile;
  return true;
}

std::int32_t ComposeCells::run(const ComposeCell& cell, const std::int32_t* x, const std::int32_t* y, std::int32_t size,
                               const ComposeTile** tile) const {
  if (cell.mask_begin == cell.mask_end) {
    *tile = cell.tile;
    return size;
  }
  if (!source(cell, x[0], y[0], tile)) return 0;
  std::int32_t i = 1;
  for (const ComposeTile* next = nullptr; i < size && source(cell, x[i], y[i], &next) && next == *tile; ++i) {
  }
  return i;
}

}  // namespace fastdet
