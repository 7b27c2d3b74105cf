// SPDX-License-Identifier: Apache-2.0
// Pieces are tiles that follow one another in a picture. Their windows are transformed once and multiplied, position by position,
// with a few channels at a time, whose sums are transformed back and finished while they lie in the first cache. Lanes are tiles
// where planes are dense, and channels where these come last. No sum depends on how work is cut.
#include "ops/rep_conv/rep_conv_winograd.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "core/check.h"
#include "core/parallel.h"
#include "ops/rep_conv/rep_conv_rows.h"

namespace fastdet::rep_conv {
namespace {

constexpr std::int64_t kMostTiles = 4 * kWinogradRows;  // of a piece with channels last
constexpr std::int64_t kFiltersPerPiece = 4096;
constexpr std::int64_t kMostOwn = std::int64_t{8} << 20;  // bytes of filters that threads transform for themselves

struct Sizes {
  std::int64_t inputs, outputs, height, width;  // of the result
  std::int64_t across, tiles;                   // of a row, of a picture
  std::int64_t of_piece, pieces;                // tiles of a piece, pieces of a picture

  Sizes(const RepConvParams& p, bool last)
      : inputs(p.weight.shape[1]),
        outputs(p.weight.shape[0]),
        height(p.out_size(0)),
        width(p.out_size(1)),
        across(ceil_div(width, std::int64_t{2})),
        tiles(ceil_div(height, std::int64_t{2}) * across) {
    const std::int64_t share = ceil_div(p.x.shape[0] * tiles, 4 * static_cast<std::int64_t>(num_threads()));
    const std::int64_t whole = ceil_div(share, kWinogradRows) * kWinogradRows;
    of_piece = last ? std::clamp(whole, kWinogradRows, kMostTiles) : kWinogradColumns;
    pieces = ceil_div(tiles, of_piece);
  }
};

// The first `count` of something, in parts of nearly one size.
std::int64_t part_of(std::int64_t count, std::int64_t most) { return ceil_div(count, ceil_div(count, most)); }

// Floats from one position to the next: a line more than what lies between, because the positions of a tile are written together
// and multiples of 4096 bytes would meet in one set of the cache.
std::int64_t apart(std::int64_t floats) { return ceil_div(floats, kLanes) * kLanes + kLanes; }

// Aligned to cache lines, not initialised.
struct Scratch {
  explicit Scratch(std::int64_t floats) : memory(new float[static_cast<std::size_t>(floats + kLanes)]) {}
  float* begin() const {
    const auto at = reinterpret_cast<std::uintptr_t>(memory.get());
    return memory.get() + (64 - at % 64) % 64 / sizeof(float);
  }
  std::unique_ptr<float[]> memory;
};

// Filters as a thread has transformed them for the call with this number.
struct OwnFilters {
  explicit OwnFilters(std::int64_t floats) : memory(floats), size(floats) {}
  const Scratch memory;
  const std::int64_t size;
  std::uint64_t call = 0;
};

struct Job {
  const RepConvParams& p;
  const Sizes& z;
  const float* bias;    // [O]
  const float* packed;  // see winograd_pack
};

struct Piece {
  std::int64_t picture, first, count;  // tiles [first, first + count)
};

// Calls body(at, tile_y, tile_x, run) for the runs of a piece that lie in one row of tiles.
template <typename Body>
void for_each_run(const Sizes& z, const Piece& piece, Body&& body) {
  for (std::int64_t done = 0; done < piece.count;) {
    const std::int64_t y = (piece.first + done) / z.across, x = (piece.first + done) % z.across;
    const std::int64_t run = std::min(piece.count - done, z.across - x);
    body(done, y, x, run);
    done += run;
  }
}

WindowPlace window_at(const RepConvParams& p, const float* plane, std::int64_t tile_y, std::int64_t tile_x) {
  return {plane, 2 * tile_y - p.padding[0], 2 * tile_x - p.padding[1], p.x.shape[2], p.x.shape[3], p.x.stride[2]};
}

// Two rows of outputs, 2 * kWinogradColumns floats each, from or to the places they belong to; those beyond the picture are
// left out. copy(row, at): `count` numbers from row[at].
template <typename Copy>
void for_each_row(const Sizes& z, const Piece& piece, const TensorView& view, std::int64_t channel, float* lines, Copy&& copy) {
  for_each_run(z, piece, [&](std::int64_t at, std::int64_t y, std::int64_t x, std::int64_t run) {
    const std::int64_t count = std::min(2 * run, z.width - 2 * x);
    for (std::int64_t a = 0; a < std::min<std::int64_t>(2, z.height - 2 * y); ++a) {
      float* const there = view.as<float>() + piece.picture * view.stride[0] + channel * view.stride[1] +
                           (2 * y + a) * view.stride[2] + 2 * x * view.stride[3];
      copy(there, lines + (2 * a * kWinogradColumns + 2 * at), count);
    }
  });
}

// Lanes are tiles: scratch holds [position][I][32] of windows and [position][rows][32] of sums.
bool planes_piece(const Job& job, const Piece& piece, float* windows) {
  const RepConvParams& p = job.p;
  const Sizes& z = job.z;
  const Epilogue& e = p.epilogue;
  const std::int64_t step = apart(z.inputs * kWinogradColumns), group = part_of(z.outputs, kWinogradRows);
  const std::int64_t packed_step = apart(z.outputs * z.inputs);
  float* const sums = windows + kPositions * step;
  if (piece.count < kWinogradColumns) std::fill_n(windows, kPositions * step, 0.0f);
  for (std::int64_t c = 0; c < z.inputs; ++c) {
    const float* const plane = p.x.as<const float>() + piece.picture * p.x.stride[0] + c * p.x.stride[1];
    for_each_run(z, piece, [&](std::int64_t at, std::int64_t y, std::int64_t x, std::int64_t run) {
      winograd_window_of_planes(window_at(p, plane, y, x), run, windows + c * kWinogradColumns + at, step);
    });
  }
  bool finite = true;
  for (std::int64_t first = 0; first < z.outputs; first += group) {
    const std::int64_t rows = std::min(group, z.outputs - first), sums_step = rows * kWinogradColumns;
    for (std::int64_t i = 0; i < kPositions; ++i) {
      winograd_multiply(job.packed + i * packed_step + first * z.inputs, z.inputs, windows + i * step, z.inputs, rows,
                        sums + i * sums_step);
    }
    for (std::int64_t m = 0; m < rows; ++m) {
      alignas(64) float corners[4 * kWinogradColumns], lines[4 * kWinogradColumns], residual[4 * kWinogradColumns];
      finite = winograd_outputs(sums + m * kWinogradColumns, sums_step, nullptr, corners) && finite;
      for (std::int64_t a = 0; a < 2; ++a) {
        const float* const pair = corners + 2 * a * kWinogradColumns;
        winograd_interleave(pair, pair + kWinogradColumns, lines + 2 * a * kWinogradColumns);
      }
      const float* added = nullptr;
      if (e.has_residual()) {
        std::fill_n(residual, 4 * kWinogradColumns, 0.0f);
        for_each_row(z, piece, e.residual, first + m, residual,
                     [](const float* there, float* here, std::int64_t count) { std::copy_n(there, count, here); });
        added = residual;
      }
      finish_row(e.activation, job.bias[first + m], e.add_first ? added : nullptr, e.add_first ? nullptr : added, lines, lines,
                 4 * kWinogradColumns);
      for_each_row(z, piece, p.out, first + m, lines,
                   [](float* there, const float* here, std::int64_t count) { std::copy_n(here, count, there); });
    }
  }
  return finite;
}

// Lanes are channels: scratch holds [position][tile][I] of windows and [position][tiles][32] of sums.
bool pixels_piece(const Job& job, const Piece& piece, float* windows) {
  const RepConvParams& p = job.p;
  const Sizes& z = job.z;
  const Epilogue& e = p.epilogue;
  const std::int64_t step = apart(z.of_piece * z.inputs), group = part_of(piece.count, kWinogradRows);
  const std::int64_t packed_step = apart(z.inputs * kWinogradColumns);
  float* const sums = windows + kPositions * step;
  const float* const picture = p.x.as<const float>() + piece.picture * p.x.stride[0];
  for (std::int64_t t = 0; t < piece.count; ++t) {
    const std::int64_t tile = piece.first + t;
    winograd_window_of_pixels(window_at(p, picture, tile / z.across, tile % z.across), p.x.stride[3], z.inputs,
                              windows + t * z.inputs, step);
  }
  bool finite = true;
  for (std::int64_t channel = 0; channel < z.outputs; channel += kWinogradColumns) {
    const std::int64_t channels = std::min(kWinogradColumns, z.outputs - channel);
    const float* const packed = job.packed + channel / kWinogradColumns * kPositions * packed_step;
    float bias[kWinogradColumns] = {};
    std::copy_n(job.bias + channel, channels, bias);
    for (std::int64_t first = 0; first < piece.count; first += group) {
      const std::int64_t rows = std::min(group, piece.count - first), sums_step = rows * kWinogradColumns;
      for (std::int64_t i = 0; i < kPositions; ++i) {
        winograd_multiply(windows + i * step + first * z.inputs, z.inputs, packed + i * packed_step, z.inputs, rows,
                          sums + i * sums_step);
      }
      for (std::int64_t m = 0; m < rows; ++m) {
        alignas(64) float corners[4 * kWinogradColumns], residual[4 * kWinogradColumns];
        finite = winograd_outputs(sums + m * kWinogradColumns, sums_step, bias, corners) && finite;
        const std::int64_t tile = piece.first + first + m, y = 2 * (tile / z.across), x = 2 * (tile % z.across);
        const auto pixel = [&](const TensorView& view, std::int64_t i) {
          return view.as<float>() + piece.picture * view.stride[0] + channel * view.stride[1] + (y + i / 2) * view.stride[2] +
                 (x + i % 2) * view.stride[3];
        };
        const auto within = [&](std::int64_t i) { return y + i / 2 < z.height && x + i % 2 < z.width; };
        const float* added = nullptr;
        if (e.has_residual()) {
          std::fill_n(residual, 4 * kWinogradColumns, 0.0f);
          for (std::int64_t i = 0; i < 4; ++i)
            if (within(i)) std::copy_n(pixel(e.residual, i), channels, residual + i * kWinogradColumns);
          added = residual;
        }
        finish_row(e.activation, 0.0f, e.add_first ? added : nullptr, e.add_first ? nullptr : added, corners, corners,
                   4 * kWinogradColumns);
        for (std::int64_t i = 0; i < 4; ++i)
          if (within(i)) std::copy_n(corners + i * kWinogradColumns, channels, pixel(p.out, i));
      }
    }
  }
  return finite;
}

// This thread's own filters. Where a few threads read what another has just written, each line takes longer to come from the
// other's cache than to be computed again.
const float* own_filters(const TensorView& weight, bool last, std::uint64_t call) {
  thread_local std::unique_ptr<OwnFilters> own;
  const std::int64_t floats = winograd_packed_floats(weight, last);
  if (own == nullptr || own->size < floats) {
    own.reset();
    own = std::make_unique<OwnFilters>(floats);
  }
  if (own->call != call) {
    own->call = 0;
    winograd_pack(weight, last, own->memory.begin());
    own->call = call;
  }
  return own->memory.begin();
}

}  // namespace

std::string winograd_obstacle(const RepConvParams& p, bool last) {
  const Epilogue& e = p.epilogue;
  if (p.x.dtype != DType::kFloat32) return concat("it computes float32, not ", dtype_name(p.x.dtype));
  if (p.weight.shape[2] != 3 || p.weight.shape[3] != 3 || p.stride[0] != 1 || p.stride[1] != 1 || p.groups != 1) {
    return "it computes 3x3 kernels of stride 1 in one group";
  }
  if (p.x.numel() == 0 || p.weight.numel() == 0) return "there is nothing to convolve";
  const int inner = last ? 1 : 3;
  const auto dense = [&](const TensorView& view) { return view.stride[inner] == 1 || view.shape[inner] == 1; };
  if (!dense(p.x) || (e.has_residual() && !dense(e.residual))) {
    return last ? "channels of x and residual must lie side by side" : "rows of x and residual must be dense";
  }
  return winograd_missing();
}

std::int64_t winograd_packed_floats(const TensorView& w, bool last) {
  const std::int64_t panels = ceil_div(w.shape[0], kWinogradColumns);
  return kPositions * (last ? panels * apart(w.shape[1] * kWinogradColumns) : apart(w.shape[0] * w.shape[1]));
}

void winograd_pack(const TensorView& w, bool last, float* packed) {
  const std::int64_t outputs = w.shape[0], inputs = w.shape[1], *const s = w.stride;
  const std::int64_t blocks = ceil_div(outputs, kLanes), step = apart((last ? kWinogradColumns : outputs) * inputs);
  if (last && outputs % kWinogradColumns != 0) {
    std::fill_n(packed + outputs / kWinogradColumns * kPositions * step, kPositions * step, 0.0f);
  }
  // Lanes are what is innermost in `packed`; a block of lanes x rows is turned so before.
  parallel_for(blocks, ceil_div(kFiltersPerPiece, kLanes * inputs), [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float taps[9 * kLanes * kLanes] = {};
    for (std::int64_t first = begin * kLanes; first < std::min(outputs, end * kLanes); first += kLanes) {
      const std::int64_t filters = std::min(kLanes, outputs - first);
      for (std::int64_t i = 0; i < inputs; i += kLanes) {
        const std::int64_t channels = std::min(kLanes, inputs - i), rows = last ? channels : filters;
        for (std::int64_t t = 0; t < 9; ++t) {
          const std::int64_t at = first * s[0] + i * s[1] + t / 3 * s[2] + t % 3 * s[3];
          const Block block = last ? Block{at, channels, s[1], filters, s[0]} : Block{at, filters, s[0], channels, s[1]};
          load_block(w, block, taps + t * kLanes * kLanes, kLanes);
        }
        float* const to =
            last ? packed + first / kWinogradColumns * kPositions * step + i * kWinogradColumns + first % kWinogradColumns
                 : packed + first * inputs + i;
        for (std::int64_t row = 0; row < rows; ++row) {
          winograd_filters(taps + row * kLanes, kLanes * kLanes, last ? filters : channels,
                           to + row * (last ? kWinogradColumns : inputs), step);
        }
      }
    }
  });
}

std::size_t winograd_workspace_bytes(const RepConvParams& p, bool last, bool packed) {
  const std::int64_t own = p.weight.shape[0] + (packed ? 0 : winograd_packed_floats(p.weight, last));
  return std::max(static_cast<std::size_t>(own) * sizeof(float), rep_conv_cpu_workspace_bytes(p));
}

void winograd_cpu(const RepConvParams& p, bool last, const float* packed) {
  const Sizes z(p, last);
  float* const bias = static_cast<float*>(p.workspace);
  std::fill_n(bias, z.outputs, 0.0f);
  if (p.epilogue.has_bias()) load_block(p.epilogue.bias, {0, 1, 0, z.outputs, p.epilogue.bias.stride[0]}, bias, 0);
  static std::atomic<std::uint64_t> calls{0};
  const std::int64_t pieces = p.x.shape[0] * z.pieces, threads = num_threads();
  const std::int64_t all = threads * winograd_packed_floats(p.weight, last) * static_cast<std::int64_t>(sizeof(float));
  const std::uint64_t own = packed == nullptr && threads > 1 && pieces > 1 && all <= kMostOwn ? ++calls : 0;
  if (packed == nullptr && own == 0) {
    winograd_pack(p.weight, last, bias + z.outputs);
    packed = bias + z.outputs;
  }
  const std::int64_t lanes = last ? z.of_piece : kWinogradColumns;
  const std::int64_t floats = kPositions * (apart(z.inputs * lanes) + kWinogradRows * kWinogradColumns);
  std::atomic<bool> finite{true};
  parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    const Scratch scratch(floats);
    const Job job{p, z, bias, own == 0 ? packed : own_filters(p.weight, last, own)};
    for (std::int64_t item = begin; item < end && finite.load(std::memory_order_relaxed); ++item) {
      const std::int64_t first = item % z.pieces * z.of_piece;
      const Piece piece{item / z.pieces, first, std::min(z.of_piece, z.tiles - first)};
      const bool done = last ? pixels_piece(job, piece, scratch.begin()) : planes_piece(job, piece, scratch.begin());
      if (!done) finite.store(false, std::memory_order_relaxed);
    }
  });
  if (!finite.load(std::memory_order_relaxed)) rep_conv_cpu(p);
}

}  // namespace fastdet::rep_conv
