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
  return tile.mask == nullptr && tile.pixel_stride == 3 && (tile.channel_stride == 1 || tile.channel_stride == -1) &&
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
  const std::size_t columns = x_.size() - 1;
  tiles_.assign(columns * (y_.size() - 1), nullptr);
  for (std::int32_t i = layer.tile_begin; i < layer.tile_end; ++i) {
    if (!shows(tiles[i])) continue;
    const std::size_t left = place_of(x_, tiles[i].x1), right = place_of(x_, tiles[i].x2), end = place_of(y_, tiles[i].y2);
    for (std::size_t row = place_of(y_, tiles[i].y1); row < end; ++row) {
      std::fill(tiles_.begin() + static_cast<std::ptrdiff_t>(row * columns + left),
                tiles_.begin() + static_cast<std::ptrdiff_t>(row * columns + right), &tiles[i]);
    }
  }
}

ComposeCell ComposeCells::at(std::int32_t x, std::int32_t y) const {
  const std::size_t column = place_of(x_, x), row = place_of(y_, y);
  ComposeCell cell{x_[column], y_[row], x_[column + 1], y_[row + 1]};
  cell.last_x = cell.x2 - 2;
  cell.last_y = cell.y2 - 2;
  cell.tile = tiles_[row * (x_.size() - 1) + column];
  cell.dense = cell.tile == nullptr || is_dense(*cell.tile);
  // Two pixels are loaded as eight bytes: the row must have them.
  if (cell.tile != nullptr && cell.x2 == cell.tile->right) cell.last_x -= 1;
  return cell;
}

}  // namespace fastdet
