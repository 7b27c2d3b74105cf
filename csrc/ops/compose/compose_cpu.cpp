// SPDX-License-Identifier: Apache-2.0
// CPU path: one pass over the rows of the result, threads take ranges of rows of all pictures. A row falls into runs of pixels
// whose four neighbours all lie in one tile, which take the vector loop, and pixels between them, which take the general rule.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "ops/compose/compose_rows.h"

namespace fastdet {
namespace {

constexpr std::int64_t kRowsPerPiece = 16;
constexpr std::int64_t kRowsAhead = 8;  // of the result, whose pixels are fetched into the cache early

// Where a thread works: positions of a row and planes, of two layers.
class RowBuffer {
 public:
  explicit RowBuffer(std::int64_t width)
      : width_(static_cast<std::size_t>(width)), numbers_(4 * width_), shares_(4 * width_), bytes_(6 * width_) {}

  ComposePositions positions(int layer) {
    const std::size_t begin = static_cast<std::size_t>(2 * layer) * width_;
    std::int32_t* const numbers = numbers_.data() + begin;
    float* const shares = shares_.data() + begin;
    return {numbers, numbers + width_, shares, shares + width_};
  }
  std::uint8_t* plane(int layer, int channel) { return bytes_.data() + static_cast<std::size_t>(3 * layer + channel) * width_; }

 private:
  std::size_t width_;
  std::vector<std::int32_t> numbers_;
  std::vector<float> shares_;
  std::vector<std::uint8_t> bytes_;
};

// An upright map: x depends on x alone and y on y, so that rows of the result lie along rows of the canvas.
bool is_upright(const ComposeLayer& layer) { return layer.projective == 0 && layer.map[1] == 0 && layer.map[3] == 0; }

// The layer with one axis of its map, the other always inside the canvas.
ComposeLayer one_axis(const ComposeLayer& layer, int axis) {
  ComposeLayer only = layer;
  std::fill_n(only.map + 3 * (1 - axis), 3, 0.0f);
  return only;
}

// What rows share: the cells of each layer, the tables of each picture side by side.
struct Shared {
  explicit Shared(const ComposeParams& params) {
    cells.reserve(static_cast<std::size_t>(params.layer_count));
    for (std::int64_t i = 0; i < params.layer_count; ++i) cells.emplace_back(params.tiles, params.layers[i]);
    tables.resize(static_cast<std::size_t>(params.count));
    for (std::int64_t i = 0; i < params.count; ++i) {
      if (params.pictures[i].table == nullptr) continue;
      for (std::int32_t k = 0; k < 3 * 256; ++k) {
        tables[static_cast<std::size_t>(i)][static_cast<std::size_t>(k)] = params.pictures[i].look_up(k / 256, k % 256);
      }
    }
  }

  std::vector<ComposeCells> cells;
  std::vector<std::array<std::uint8_t, 3 * 256>> tables;
};

class Composer {
 public:
  Composer(const ComposeParams& params, const Shared& shared)
      : params_(params),
        shared_(shared),
        loops_(compose_row_loops()),
        height_(params.out_height()),
        width_(params.out_width()),
        buffer_(width_) {}

  void row(std::int64_t index, std::int64_t y) {
    const ComposePicture& picture = params_.pictures[index];
    const auto width = static_cast<std::int32_t>(width_);
    const auto from = static_cast<std::int32_t>(picture.flip_vertical ? height_ - 1 - y : y);
    std::uint8_t* const out =
        params_.output.as<std::uint8_t>() + (index * 3 * height_ + (params_.channels_last ? 3 : 1) * y) * width_;
    std::uint8_t* planes[3];
    for (int c = 0; c < 3; ++c) planes[c] = params_.channels_last ? buffer_.plane(0, c) : out + c * height_ * width_;
    layer_row(picture, 0, from, planes);
    if (picture.layer_count == 2) {
      std::uint8_t* const second[3] = {buffer_.plane(1, 0), buffer_.plane(1, 1), buffer_.plane(1, 2)};
      layer_row(picture, 1, from, second);
      for (int c = 0; c < 3; ++c) loops_.blend(planes[c], second[c], width, picture.blend);
    }
    if (picture.table != nullptr) {
      std::uint8_t* const rgb[3] = {planes[picture.bgr ? 2 : 0], planes[1], planes[picture.bgr ? 0 : 2]};
      loops_.colour(rgb, width, shared_.tables[static_cast<std::size_t>(index)].data());
    }
    if (params_.channels_last) loops_.interleave({planes[0], planes[1], planes[2]}, width, out);
  }

 private:
  // Positions of row y; false where it lies outside the canvas. Of an upright map those along the row are kept from the row
  // before.
  bool find(const ComposePicture& picture, int which, const ComposeLayer& layer, std::int32_t y, bool upright) {
    const ComposePositions at = buffer_.positions(which);
    const auto width = static_cast<std::int32_t>(width_);
    const std::int64_t number = &layer - params_.layers;
    if (!upright) {
      known_[which] = -1;
      loops_.positions(layer, y, width, picture.flip_horizontal, at);
      return true;
    }
    if (known_[which] != number) loops_.positions(one_axis(layer, 0), 0, width, picture.flip_horizontal, at);
    known_[which] = number;
    const ComposeLayer down = one_axis(layer, 1);
    const ComposePosition row = compose_position<false>(down, compose_row(down, y), 0);
    std::fill_n(at.y, width, row.y);
    std::fill_n(at.down, width, row.down);
    return row.y != kComposeOutside;
  }

  void layer_row(const ComposePicture& picture, int which, std::int32_t y, std::uint8_t* const (&planes)[3]) {
    const std::int32_t number = picture.layer_begin + which;
    const ComposeLayer& layer = params_.layers[number];
    const ComposeCells& cells = shared_.cells[static_cast<std::size_t>(number)];
    const ComposePositions at = buffer_.positions(which);
    const auto width = static_cast<std::int32_t>(width_);
    const bool upright = is_upright(layer);
    if (!find(picture, which, layer, y, upright)) {
      for (int c = 0; c < 3; ++c) std::memset(planes[c], picture.fill[c], static_cast<std::size_t>(width));
      return;
    }
    const auto interpolate = upright ? loops_.interpolate_row : loops_.interpolate;
    // Canvas pixels from this row of the result to one of the next; for a projective map about so many.
    const std::int64_t rows = picture.flip_vertical ? -kRowsAhead : kRowsAhead;
    const std::int64_t step_x = std::llrint(std::fmod(layer.map[1], 1024.0f) * static_cast<float>(rows));
    const std::int64_t step_y = std::llrint(std::fmod(layer.map[4], 1024.0f) * static_cast<float>(rows));
    static const ComposeCell nothing;  // holds no position
    const ComposeCell* cell = &nothing;
    for (std::int32_t i = 0; i < width;) {
      if (!cell->holds(at.x[i], at.y[i])) cell = &cells.at(at.x[i], at.y[i]);
      std::int32_t size = cell->dense ? loops_.run(at, i, width, *cell) : 0;
      const ComposeTile* tile = nullptr;
      if (size > 0) size = cells.run(*cell, at.x + i, at.y + i, size, &tile);
      if (size == 0) {
        loops_.sample(params_.tiles, layer, picture.fill, at, i, i + 1, planes);
        ++i;
        continue;
      }
      if (tile == nullptr) {
        for (int c = 0; c < 3; ++c) std::memset(planes[c] + i, picture.fill[c], static_cast<std::size_t>(size));
      } else {
        interpolate(*tile, at, i, i + size, step_y * tile->row_stride + 3 * step_x, planes);
      }
      i += size;
    }
  }

  const ComposeParams& params_;
  const Shared& shared_;
  const ComposeRowLoops& loops_;
  std::int64_t height_, width_;
  RowBuffer buffer_;
  std::int64_t known_[2] = {-1, -1};  // upright layers whose positions along a row the buffer holds
};

}  // namespace

void compose_cpu(const ComposeParams& params) {
  const Shared shared(params);
  const std::int64_t height = params.out_height();
  parallel_for(params.count * height, kRowsPerPiece, [&](std::int64_t begin, std::int64_t end) {
    Composer composer(params, shared);
    for (std::int64_t row = begin; row < end; ++row) composer.row(row / height, row % height);
  });
}

}  // namespace fastdet
