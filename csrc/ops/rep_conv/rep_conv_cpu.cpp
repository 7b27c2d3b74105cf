// SPDX-License-Identifier: Apache-2.0
// Implicit GEMM: output channels x pixels, the depth running over (kernel row, kernel column, input channel). A piece of work is
// one run of pixels of one picture and group: its inputs are gathered into a panel of float32, kDepth deep at a time, multiplied
// with the packed weight, finished and stored. The order of every sum is fixed, so results do not depend on threads or tiles.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rep_conv/rep_conv_depthwise.h"
#include "ops/rep_conv/rep_conv_rows.h"
#include "ops/rep_conv/rep_conv_tiles.h"

namespace fastdet {
namespace rep_conv {
namespace {

constexpr std::int64_t kDepth = 512;  // panel rows at a time: 64 KB
constexpr std::int64_t kProductsPerPiece = 1 << 18;

struct Sizes {
  Tile tile;
  std::int64_t inputs, outputs;  // of a group
  std::int64_t depth;            // R S inputs
  std::int64_t row_tiles;        // of outputs
  std::int64_t width, pixels, pixel_tiles;

  explicit Sizes(const RepConvParams& p)
      : tile(best_tile()),
        inputs(p.weight.shape[1]),
        outputs(p.weight.shape[0] / p.groups),
        depth(p.weight.shape[2] * p.weight.shape[3] * inputs),
        row_tiles(ceil_div(outputs, tile.rows)),
        width(p.out_size(1)),
        pixels(p.out_size(0) * width),
        pixel_tiles(ceil_div(pixels, tile.columns)) {}

  std::int64_t packed_floats() const { return row_tiles * tile.rows * depth; }  // of a group
};

// weight[o, i, r, s] -> packed[group][row tile][(r, s, i)][row], rows past the last channel 0.
void pack_weight(const RepConvParams& p, const Sizes& z, float* packed) {
  const TensorView& w = p.weight;
  parallel_for(
      p.groups * z.row_tiles, ceil_div(kProductsPerPiece, z.tile.rows * z.depth + 1), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t item = begin; item < end; ++item) {
          float* const to = packed + item * z.tile.rows * z.depth;
          std::memset(to, 0, static_cast<std::size_t>(z.tile.rows * z.depth) * sizeof(float));
          const std::int64_t group = item / z.row_tiles, row = item % z.row_tiles * z.tile.rows;
          const std::int64_t rows = std::min(z.tile.rows, z.outputs - row);
          for (std::int64_t tap = 0; tap < w.shape[2] * w.shape[3]; ++tap) {
            const std::int64_t first =
                (group * z.outputs + row) * w.stride[0] + tap / w.shape[3] * w.stride[2] + tap % w.shape[3] * w.stride[3];
            load_block(w, {first, z.inputs, w.stride[1], rows, w.stride[0]}, to + tap * z.inputs * z.tile.rows, z.tile.rows);
          }
        }
      });
}

struct Piece {
  std::int64_t picture, group, first, count;  // pixels [first, first + count)
};

// Fills columns [0, count) of panel rows that belong to channels [channel, channel + channels) at one kernel position.
void gather(const RepConvParams& p, const Sizes& z, const Piece& piece, std::int64_t tap, std::int64_t channel,
            std::int64_t channels, float* panel) {
  const TensorView& x = p.x;
  const std::int64_t kernel_row = tap / p.weight.shape[3], kernel_column = tap % p.weight.shape[3];
  const std::int64_t plane = piece.picture * x.stride[0] + (piece.group * z.inputs + channel) * x.stride[1];
  for (std::int64_t done = 0; done < piece.count;) {
    const std::int64_t out_y = (piece.first + done) / z.width, out_x = (piece.first + done) % z.width;
    const std::int64_t run = std::min(piece.count - done, z.width - out_x);
    const std::int64_t y = out_y * p.stride[0] - p.padding[0] + kernel_row;
    // Input column of pixel i of the run: left + i * stride; inside the picture for i in [from, to).
    const std::int64_t left = out_x * p.stride[1] - p.padding[1] + kernel_column;
    const std::int64_t from = left >= 0 ? 0 : std::min(run, ceil_div(-left, p.stride[1]));
    std::int64_t to = x.shape[3] > left ? std::min(run, ceil_div(x.shape[3] - left, p.stride[1])) : 0;
    if (y < 0 || y >= x.shape[2] || to < from) to = from;
    if (to - from < run) {
      for (std::int64_t c = 0; c < channels; ++c) std::fill_n(panel + c * z.tile.columns + done, run, 0.0f);
    }
    if (to > from) {
      const std::int64_t first = plane + y * x.stride[2] + (left + from * p.stride[1]) * x.stride[3];
      load_block(x, {first, channels, x.stride[1], to - from, p.stride[1] * x.stride[3]}, panel + done + from, z.tile.columns);
    }
    done += run;
  }
}

struct Scratch {
  std::vector<float> panel, sums, residual;
  explicit Scratch(const Sizes& z)
      : panel(static_cast<std::size_t>(std::min(kDepth, z.depth) * z.tile.columns)),
        sums(static_cast<std::size_t>(z.row_tiles * z.tile.rows * z.tile.columns)),
        residual(static_cast<std::size_t>(z.tile.columns)) {}
};

void multiply(const RepConvParams& p, const Sizes& z, const Piece& piece, const float* packed, Scratch& s) {
  std::fill(s.sums.begin(), s.sums.end(), 0.0f);
  if (piece.count < z.tile.columns) std::fill(s.panel.begin(), s.panel.end(), 0.0f);
  for (std::int64_t begin = 0; begin < z.depth; begin += kDepth) {
    const std::int64_t end = std::min(z.depth, begin + kDepth);
    for (std::int64_t k = begin; k < end;) {
      const std::int64_t tap = k / z.inputs, channel = k % z.inputs, channels = std::min(z.inputs - channel, end - k);
      gather(p, z, piece, tap, channel, channels, s.panel.data() + (k - begin) * z.tile.columns);
      k += channels;
    }
    for (std::int64_t row = 0; row < z.row_tiles; ++row) {
      const float* const a = packed + (row * z.depth + begin) * z.tile.rows;
      z.tile.multiply(a, s.panel.data(), s.sums.data() + row * z.tile.rows * z.tile.columns, end - begin);
    }
  }
}

void finish(const RepConvParams& p, const Sizes& z, const Piece& piece, const float* bias, Scratch& s) {
  const Epilogue& e = p.epilogue;
  for (std::int64_t m = 0; m < z.outputs; ++m) {
    const std::int64_t channel = piece.group * z.outputs + m;
    const float* residual = nullptr;
    float* const row = s.sums.data() + m * z.tile.columns;
    if (e.has_residual()) {
      load_pixels(e.residual, piece.picture, channel, piece.first, piece.count, s.residual.data());
      residual = s.residual.data();
    }
    finish_row(e.activation, bias[channel], e.add_first ? residual : nullptr, e.add_first ? nullptr : residual, row, row,
               piece.count);
  }
  const TensorView& y = p.out;  // dense: pixels lie stride[3] apart across rows too
  const std::int64_t first = piece.picture * y.stride[0] + piece.group * z.outputs * y.stride[1] + piece.first * y.stride[3];
  store_block(y, {first, z.outputs, y.stride[1], piece.count, y.stride[3]}, s.sums.data(), z.tile.columns);
}

}  // namespace
}  // namespace rep_conv

std::size_t rep_conv_cpu_workspace_bytes(const RepConvParams& p) {
  using namespace rep_conv;
  const std::int64_t bias = p.weight.shape[0];
  const std::int64_t packed = is_depthwise(p) ? p.weight.numel() : p.groups * Sizes(p).packed_floats();
  return static_cast<std::size_t>(bias + packed) * sizeof(float);
}

void rep_conv_cpu(const RepConvParams& p) {
  using namespace rep_conv;
  if (p.out.numel() == 0) return;
  float* const bias = static_cast<float*>(p.workspace);
  float* const packed = bias + p.weight.shape[0];
  std::fill_n(bias, p.weight.shape[0], 0.0f);
  if (p.epilogue.has_bias()) {
    load_block(p.epilogue.bias, {0, 1, 0, p.weight.shape[0], p.epilogue.bias.stride[0]}, bias, 0);
  }
  if (is_depthwise(p)) return depthwise(p, bias, packed);
  const Sizes z(p);
  pack_weight(p, z, packed);
  const std::int64_t per_piece = z.outputs * z.tile.columns * (z.depth + 1);
  parallel_for(p.x.shape[0] * p.groups * z.pixel_tiles, ceil_div(kProductsPerPiece, per_piece),
               [&](std::int64_t begin, std::int64_t end) {
                 Scratch scratch(z);
                 for (std::int64_t item = begin; item < end; ++item) {
                   const std::int64_t tile = item % z.pixel_tiles, group = item / z.pixel_tiles % p.groups;
                   const std::int64_t first = tile * z.tile.columns;
                   const Piece piece{item / z.pixel_tiles / p.groups, group, first, std::min(z.tile.columns, z.pixels - first)};
                   multiply(p, z, piece, packed + group * z.packed_floats(), scratch);
                   finish(p, z, piece, bias, scratch);
                 }
               });
}

}  // namespace fastdet
