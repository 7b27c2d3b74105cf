// SPDX-License-Identifier: Apache-2.0
// Letterbox on CUDA: one launch makes up to 64 pictures of the batch, whose descriptors travel as kernel parameters.
//   block   a tile of 128 x 8 output pixels of one picture; grid x is the tile, grid y the picture
//   thread  4 adjacent output pixels of one row, all channels; stores of 4 values where rows are aligned for it
// Taps of the tile's columns and rows are computed once per block (OpenCV mode) or once per call (Pillow modes, in the
// workspace). All arithmetic is that of letterbox_math.h: integers and single float32 operations, bit-equal to the CPU path.
#pragma once

#include "core/launch.h"
#include "ops/letterbox/letterbox_layout.h"
#include "ops/letterbox/letterbox_math.h"

namespace fastdet {

constexpr int kLetterboxThreads = 256;
constexpr int kLetterboxSpan = 4;  // pixels of a thread
constexpr int kLetterboxTileWidth = 32 * kLetterboxSpan;
constexpr int kLetterboxTileHeight = kLetterboxThreads / 32;

struct LetterboxTask {
  LetterboxPicture pictures[kLetterboxPictures];
  Normalisation normalisation[3];
  std::uint8_t fill[3];
  bool channels_last;
  bool aligned;  // rows of the output allow stores of 4 values
  LetterboxMode mode;
  void* out;  // [count, 3, height, width] or [count, height, width, 3]
  std::int64_t height, width, tiles_per_row;
  std::int32_t* tables;       // Pillow modes: of each picture, columns then rows
  std::int64_t table_stride;  // entries
};
static_assert(sizeof(LetterboxTask) <= 4096, "kernel parameters are limited to 4 KB");

template <typename T>
struct alignas(kLetterboxSpan * sizeof(T)) LetterboxPack {
  T value[kLetterboxSpan];
};

// Where a thread works.
struct LetterboxPlace {
  std::int64_t x, y;  // of its first pixel in the output

  FD_D explicit LetterboxPlace(const LetterboxTask& task)
      : x(static_cast<std::int64_t>(blockIdx.x % task.tiles_per_row) * kLetterboxTileWidth + (threadIdx.x % 32) * kLetterboxSpan),
        y(static_cast<std::int64_t>(blockIdx.x / task.tiles_per_row) * kLetterboxTileHeight + threadIdx.x / 32) {}
  FD_D bool inside(const LetterboxTask& task) const { return x < task.width && y < task.height; }
};

template <typename T>
FD_D void letterbox_store(const LetterboxTask& task, const LetterboxPlace& at, const std::uint8_t (&pixels)[3][kLetterboxSpan]) {
  const std::int64_t image = blockIdx.y;
  T* const out = static_cast<T*>(task.out);
  const bool wide = task.aligned && at.x + kLetterboxSpan <= task.width;
  if (task.channels_last) {
    T* const first = out + ((image * task.height + at.y) * task.width + at.x) * 3;
    LetterboxPack<T> packs[3];
#pragma unroll
    for (int i = 0; i < 3 * kLetterboxSpan; ++i) {
      packs[i / kLetterboxSpan].value[i % kLetterboxSpan] = letterbox_value<T>(pixels[i % 3][i / 3], task.normalisation[i % 3]);
    }
    if (wide) {
#pragma unroll
      for (int i = 0; i < 3; ++i) reinterpret_cast<LetterboxPack<T>*>(first)[i] = packs[i];
      return;
    }
#pragma unroll
    for (int i = 0; i < 3 * kLetterboxSpan; ++i) {
      if (at.x + i / 3 < task.width) first[i] = packs[i / kLetterboxSpan].value[i % kLetterboxSpan];
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    T* const first = out + ((image * 3 + c) * task.height + at.y) * task.width + at.x;
    LetterboxPack<T> pack;
#pragma unroll
    for (int i = 0; i < kLetterboxSpan; ++i) pack.value[i] = letterbox_value<T>(pixels[c][i], task.normalisation[c]);
    if (wide) {
      *reinterpret_cast<LetterboxPack<T>*>(first) = pack;
      continue;
    }
#pragma unroll
    for (int i = 0; i < kLetterboxSpan; ++i) {
      if (at.x + i < task.width) first[i] = pack.value[i];
    }
  }
}

FD_D void letterbox_fill(const LetterboxTask& task, std::uint8_t (&pixels)[3][kLetterboxSpan]) {
#pragma unroll
  for (int c = 0; c < 3; ++c) {
#pragma unroll
    for (int i = 0; i < kLetterboxSpan; ++i) pixels[c][i] = task.fill[c];
  }
}

template <typename T>
__global__ void FD_LAUNCH_BOUNDS(kLetterboxThreads) letterbox_cv2_kernel(const LetterboxTask task) {
  FD_SHARED(LinearTaps, columns, kLetterboxTileWidth);
  FD_SHARED(LinearTaps, rows, kLetterboxTileHeight);
  const LetterboxPicture& p = task.pictures[blockIdx.y];
  const LetterboxPlace at(task);
  const std::int64_t tile_x = at.x - (threadIdx.x % 32) * kLetterboxSpan - p.left;  // of the tile, in the resized picture
  const std::int64_t tile_y = at.y - threadIdx.x / 32 - p.top;
  const int t = static_cast<int>(threadIdx.x);
  if (t < kLetterboxTileWidth) {
    const std::int64_t x = tile_x + t;
    if (x >= 0 && x < p.new_width) columns[t] = linear_column(static_cast<std::int32_t>(x), p.width, p.new_width);
  } else if (t < kLetterboxTileWidth + kLetterboxTileHeight) {
    const std::int64_t y = tile_y + t - kLetterboxTileWidth;
    if (y >= 0 && y < p.new_height) {
      rows[t - kLetterboxTileWidth] = linear_row(static_cast<std::int32_t>(y), p.height, p.new_height);
    }
  }
  __syncthreads();
  if (!at.inside(task)) return;

  std::uint8_t pixels[3][kLetterboxSpan];
  letterbox_fill(task, pixels);
  if (at.y >= p.top && at.y < std::int64_t{p.top} + p.new_height) {
    const LinearTaps row = rows[threadIdx.x / 32];
    const std::uint8_t* const row0 = p.data + row.index0 * p.row_stride;
    const std::uint8_t* const row1 = p.data + row.index1 * p.row_stride;
#pragma unroll
    for (int i = 0; i < kLetterboxSpan; ++i) {
      const std::int64_t x = at.x + i - p.left;
      if (x < 0 || x >= p.new_width) continue;
      const LinearTaps column = columns[(threadIdx.x % 32) * kLetterboxSpan + i];
      const std::int64_t offset0 = column.index0 * p.pixel_stride, offset1 = column.index1 * p.pixel_stride;
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const std::int64_t channel = c * p.channel_stride;
        const std::int32_t sum0 = linear_sum(row0[offset0 + channel], row0[offset1 + channel], column);
        const std::int32_t sum1 = linear_sum(row1[offset0 + channel], row1[offset1 + channel], column);
        pixels[c][i] = linear_blend(sum0, sum1, row.weight0, row.weight1);
      }
    }
  }
  letterbox_store<T>(task, at, pixels);
}

// Fills the tables: one thread per output column and row of each picture.
__global__ void FD_LAUNCH_BOUNDS(kLetterboxThreads) letterbox_pillow_tables_kernel(const LetterboxTask task) {
  const LetterboxPicture& p = task.pictures[blockIdx.y];
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kLetterboxThreads + threadIdx.x;
  if (i >= std::int64_t{p.new_width} + p.new_height) return;
  const bool is_row = i >= p.new_width;
  const std::int32_t source = is_row ? p.height : p.width, target = is_row ? p.new_height : p.new_width;
  std::int32_t* const columns = task.tables + blockIdx.y * task.table_stride;
  const PillowTable table = pillow_table(is_row ? columns + pillow_entries(p.width, p.new_width) : columns, source, target);
  const auto position = static_cast<std::int32_t>(is_row ? i - p.new_width : i);
  table.windows[position] = pillow_window(position, source, target, table.weights + std::int64_t{position} * table.taps);
}

// One axis of the filter at one output position.
struct PillowTaps {
  const std::int32_t* weights;
  std::int32_t size;
  std::int64_t stride;  // bytes between taps
};

// Member by member: a choice between two structs would put both on the stack.
FD_D PillowTaps choose(bool first, const PillowTaps& a, const PillowTaps& b) {
  return {first ? a.weights : b.weights, first ? a.size : b.size, first ? a.stride : b.stride};
}

// The first pass inside the second: each tap of the outer axis is a rounded sum over the inner one.
FD_D void pillow_pixel(const std::uint8_t* corner, std::int64_t channel_stride, const PillowTaps& inner, const PillowTaps& outer,
                       std::uint8_t (&pixel)[3]) {
  std::int32_t sum[3] = {0, 0, 0};
  for (std::int32_t j = 0; j < outer.size; ++j) {
    const std::uint8_t* tap = corner + j * outer.stride;
    std::int32_t partial[3] = {0, 0, 0};
    for (std::int32_t i = 0; i < inner.size; ++i, tap += inner.stride) {
#pragma unroll
      for (int c = 0; c < 3; ++c) partial[c] += tap[c * channel_stride] * inner.weights[i];
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) sum[c] += pillow_round(partial[c]) * outer.weights[j];
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) pixel[c] = pillow_round(sum[c]);
}

template <typename T>
__global__ void FD_LAUNCH_BOUNDS(kLetterboxThreads) letterbox_pillow_kernel(const LetterboxTask task) {
  const LetterboxPicture& p = task.pictures[blockIdx.y];
  const LetterboxPlace at(task);
  if (!at.inside(task)) return;

  std::uint8_t pixels[3][kLetterboxSpan];
  letterbox_fill(task, pixels);
  if (at.y >= p.top && at.y < std::int64_t{p.top} + p.new_height) {
    std::int32_t* const memory = task.tables + blockIdx.y * task.table_stride;
    const PillowTable columns = pillow_table(memory, p.width, p.new_width);
    const PillowTable rows = pillow_table(memory + pillow_entries(p.width, p.new_width), p.height, p.new_height);
    const bool vertical_first =
        task.mode == LetterboxMode::kPillow && pillow_vertical_first(p.height, p.width, p.new_height, p.new_width);
    const std::int64_t y = at.y - p.top;
    const PillowTaps vertical{rows.weights + y * rows.taps, rows.windows[y].size, p.row_stride};
    const std::uint8_t* const line = p.data + rows.windows[y].begin * p.row_stride;
#pragma unroll
    for (int i = 0; i < kLetterboxSpan; ++i) {
      const std::int64_t x = at.x + i - p.left;
      if (x < 0 || x >= p.new_width) continue;
      const PillowTaps horizontal{columns.weights + x * columns.taps, columns.windows[x].size, p.pixel_stride};
      const std::uint8_t* const corner = line + columns.windows[x].begin * p.pixel_stride;
      std::uint8_t pixel[3];
      pillow_pixel(corner, p.channel_stride, choose(vertical_first, vertical, horizontal),
                   choose(vertical_first, horizontal, vertical), pixel);
#pragma unroll
      for (int c = 0; c < 3; ++c) pixels[c][i] = pixel[c];
    }
  }
  letterbox_store<T>(task, at, pixels);
}

}  // namespace fastdet
