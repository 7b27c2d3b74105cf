// SPDX-License-Identifier: Apache-2.0
// Letterbox on CUDA: one launch makes up to 64 pictures of the batch, whose descriptors travel as kernel parameters.
//   block   a tile of 128 x 8 output pixels of one picture; grid x is the tile, grid y the picture
//   thread  4 adjacent output pixels of one row, all channels; stores of 4 values where rows are aligned for it
// Taps of the tile's columns and rows are computed once per block (OpenCV modes) or once per call (Pillow modes, in the
// workspace). Pixels of YUV pictures are converted where they are read. All arithmetic is that of letterbox_math.h: integers and
// single float32 operations, bit-equal to the CPU path.
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
  YuvMatrix matrix;
  std::uint8_t fill[3];
  bool swap_rb;  // of YUV pictures
  bool channels_last;
  bool aligned;  // rows of the output allow stores of 4 values
  LetterboxMode mode;
  std::int32_t channels;
  void* out;  // [count, 3, height, width] or [count, height, width, channels]
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

// Channels last with more than three: each pixel by itself, 0 past the third channel.
template <typename T>
FD_D void letterbox_store_padded(const LetterboxTask& task, const LetterboxPlace& at, T* first,
                                 const std::uint8_t (&pixels)[3][kLetterboxSpan]) {
  const bool wide = task.aligned && task.channels % kLetterboxSpan == 0;
#pragma unroll
  for (int i = 0; i < kLetterboxSpan; ++i) {
    if (at.x + i >= task.width) return;
    LetterboxPack<T> pack{};
#pragma unroll
    for (int c = 0; c < 3; ++c) pack.value[c] = letterbox_value<T>(pixels[c][i], task.normalisation[c]);
    T* const pixel = first + std::int64_t{i} * task.channels;
    if (wide) {
      *reinterpret_cast<LetterboxPack<T>*>(pixel) = pack;
      for (std::int32_t c = kLetterboxSpan; c < task.channels; c += kLetterboxSpan) {
        *reinterpret_cast<LetterboxPack<T>*>(pixel + c) = LetterboxPack<T>{};
      }
    } else {
#pragma unroll
      for (int c = 0; c < 3; ++c) pixel[c] = pack.value[c];
      for (std::int32_t c = 3; c < task.channels; ++c) pixel[c] = T{};
    }
  }
}

template <typename T>
FD_D void letterbox_store(const LetterboxTask& task, const LetterboxPlace& at, const std::uint8_t (&pixels)[3][kLetterboxSpan]) {
  const std::int64_t image = blockIdx.y;
  T* const out = static_cast<T*>(task.out);
  const bool wide = task.aligned && at.x + kLetterboxSpan <= task.width;
  if (task.channels_last) {
    T* const first = out + ((image * task.height + at.y) * task.width + at.x) * task.channels;
    if (task.channels > 3) return letterbox_store_padded(task, at, first, pixels);
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

// ---- pixels of a picture, in the order of the output ----

struct PixelSource {
  const LetterboxPicture& p;

  struct Row {
    const std::uint8_t* line;
    std::int64_t pixel_stride, channel_stride;

    FD_D void load(std::int32_t x, std::int32_t (&pixel)[3]) const {
      const std::uint8_t* const at = line + x * pixel_stride;
#pragma unroll
      for (int c = 0; c < 3; ++c) pixel[c] = at[c * channel_stride];
    }
  };
  FD_D PixelSource(const LetterboxTask&, const LetterboxPicture& picture) : p(picture) {}
  FD_D Row row(std::int32_t y) const { return {p.data + y * p.row_stride, p.pixel_stride, p.channel_stride}; }
};

struct YuvSource {
  const LetterboxTask& task;
  const LetterboxPicture& p;

  struct Row {
    const LetterboxTask& task;
    YuvRow row;

    FD_D void load(std::int32_t x, std::int32_t (&pixel)[3]) const {
      const std::int64_t pair = x / 2;
      const std::int32_t luma = yuv_luma(task.matrix, row.y[x * row.luma_stride]);
      const YuvChroma chroma = yuv_chroma(task.matrix, row.u[pair * row.chroma_stride], row.v[pair * row.chroma_stride]);
      pixel[0] = yuv_value(luma, task.swap_rb ? chroma.blue : chroma.red);
      pixel[1] = yuv_value(luma, chroma.green);
      pixel[2] = yuv_value(luma, task.swap_rb ? chroma.red : chroma.blue);
    }
  };
  FD_D YuvSource(const LetterboxTask& given, const LetterboxPicture& picture) : task(given), p(picture) {}
  FD_D Row row(std::int32_t y) const { return {task, yuv_row(p, y)}; }
};

// ---- OpenCV's filters ----

// Calls pixel(i) for the pixels of a thread that lie in the resized picture, whose row at.y is known to.
template <typename Pixel>
FD_D void letterbox_for_span(const LetterboxPlace& at, const LetterboxPicture& p, const Pixel& pixel) {
#pragma unroll
  for (int i = 0; i < kLetterboxSpan; ++i) {
    const std::int64_t x = at.x + i - p.left;
    if (x >= 0 && x < p.new_width) pixel(i);
  }
}

template <typename Source>
FD_D void linear_span(const Source& source, const LetterboxPicture& p, const LetterboxPlace& at, const LinearTaps* columns,
                      const LinearTaps& row, std::uint8_t (&pixels)[3][kLetterboxSpan]) {
  const auto row0 = source.row(row.index0), row1 = source.row(row.index1);
  letterbox_for_span(at, p, [&](int i) {
    const LinearTaps column = columns[i];
    std::int32_t upper0[3], upper1[3], lower0[3], lower1[3];
    row0.load(column.index0, upper0);
    row0.load(column.index1, upper1);
    row1.load(column.index0, lower0);
    row1.load(column.index1, lower1);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const std::int32_t sum0 = linear_sum(upper0[c], upper1[c], column), sum1 = linear_sum(lower0[c], lower1[c], column);
      pixels[c][i] = linear_blend(sum0, sum1, row.weight0, row.weight1);
    }
  });
}

template <typename Source>
FD_D void area_span(const Source& source, const LetterboxPicture& p, const LetterboxPlace& at, const AreaWindow* columns,
                    const AreaWindow& row, std::uint8_t (&pixels)[3][kLetterboxSpan]) {
  letterbox_for_span(at, p, [&](int i) {
    const AreaWindow column = columns[i];
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (std::int32_t j = 0; j < row.size; ++j) {
      const auto line = source.row(row.begin + j);
      float partial[3] = {0.0f, 0.0f, 0.0f};
      for (std::int32_t k = 0; k < column.size; ++k) {
        std::int32_t pixel[3];
        line.load(column.begin + k, pixel);
        const float weight = column.weight(k);
#pragma unroll
        for (int c = 0; c < 3; ++c) partial[c] += static_cast<float>(pixel[c]) * weight;
      }
      const float weight = row.weight(j);
#pragma unroll
      for (int c = 0; c < 3; ++c) sum[c] += partial[c] * weight;
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) pixels[c][i] = area_round(sum[c]);
  });
}

template <typename Source>
FD_D void cell_span(const Source& source, const LetterboxPicture& p, const LetterboxPlace& at, const AreaCell& cell,
                    std::uint8_t (&pixels)[3][kLetterboxSpan]) {
  letterbox_for_span(at, p, [&](int i) {
    const auto top = static_cast<std::int32_t>(at.y - p.top) * cell.rows;
    const auto left = static_cast<std::int32_t>(at.x + i - p.left) * cell.columns;
    std::int32_t sum[3] = {0, 0, 0};
    for (std::int32_t j = 0; j < cell.rows; ++j) {
      const auto line = source.row(top + j);
      for (std::int32_t k = 0; k < cell.columns; ++k) {
        std::int32_t pixel[3];
        line.load(left + k, pixel);
#pragma unroll
        for (int c = 0; c < 3; ++c) sum[c] += pixel[c];
      }
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) pixels[c][i] = area_mean(sum[c], cell);
  });
}

// Runs make(table, position in the resized picture) for the columns (first of the two) and rows of the tile.
template <typename Taps, typename Column, typename Row>
FD_D void letterbox_tile_taps(const LetterboxPicture& p, const LetterboxPlace& at, Taps* columns, Taps* rows,
                              const Column& make_column, const Row& make_row) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < kLetterboxTileWidth) {
    const std::int64_t x = at.x - (threadIdx.x % 32) * kLetterboxSpan - p.left + t;
    if (x >= 0 && x < p.new_width) columns[t] = make_column(static_cast<std::int32_t>(x));
  } else if (t < kLetterboxTileWidth + kLetterboxTileHeight) {
    const int k = t - kLetterboxTileWidth;
    const std::int64_t y = at.y - threadIdx.x / 32 - p.top + k;
    if (y >= 0 && y < p.new_height) rows[k] = make_row(static_cast<std::int32_t>(y));
  }
}

// Calls use(source) with the source of the picture's format: the same for all threads of a block.
template <typename Use>
FD_D void letterbox_with_source(const LetterboxTask& task, const LetterboxPicture& p, const Use& use) {
  if (p.format == LetterboxFormat::kPixels) {
    use(PixelSource(task, p));
  } else {
    use(YuvSource(task, p));
  }
}

FD_D bool letterbox_has_row(const LetterboxPicture& p, const LetterboxPlace& at) {
  return at.y >= p.top && at.y < std::int64_t{p.top} + p.new_height;
}

template <typename T>
__global__ void FD_LAUNCH_BOUNDS(kLetterboxThreads) letterbox_cv2_kernel(const LetterboxTask task) {
  FD_SHARED(LinearTaps, columns, kLetterboxTileWidth);
  FD_SHARED(LinearTaps, rows, kLetterboxTileHeight);
  const LetterboxPicture& p = task.pictures[blockIdx.y];
  const LetterboxPlace at(task);
  letterbox_tile_taps(
      p, at, columns, rows, [&](std::int32_t x) { return linear_column(x, p.width, p.new_width, false); },
      [&](std::int32_t y) { return linear_row(y, p.height, p.new_height, false); });
  __syncthreads();
  if (!at.inside(task)) return;

  std::uint8_t pixels[3][kLetterboxSpan];
  letterbox_fill(task, pixels);
  if (letterbox_has_row(p, at)) {
    const LinearTaps* const own = columns + threadIdx.x % 32 * kLetterboxSpan;
    letterbox_with_source(task, p, [&](const auto& source) { linear_span(source, p, at, own, rows[threadIdx.x / 32], pixels); });
  }
  letterbox_store<T>(task, at, pixels);
}

template <typename T>
__global__ void FD_LAUNCH_BOUNDS(kLetterboxThreads) letterbox_area_kernel(const LetterboxTask task) {
  FD_SHARED(LinearTaps, columns, kLetterboxTileWidth);
  FD_SHARED(LinearTaps, rows, kLetterboxTileHeight);
  FD_SHARED(AreaWindow, wide_columns, kLetterboxTileWidth);
  FD_SHARED(AreaWindow, wide_rows, kLetterboxTileHeight);
  const LetterboxPicture& p = task.pictures[blockIdx.y];
  const LetterboxPlace at(task);
  const bool shrinks = area_shrinks(p.height, p.width, p.new_height, p.new_width);
  if (shrinks) {
    letterbox_tile_taps(
        p, at, wide_columns, wide_rows, [&](std::int32_t x) { return area_window(x, p.width, p.new_width); },
        [&](std::int32_t y) { return area_window(y, p.height, p.new_height); });
  } else {
    letterbox_tile_taps(
        p, at, columns, rows, [&](std::int32_t x) { return linear_column(x, p.width, p.new_width, true); },
        [&](std::int32_t y) { return linear_row(y, p.height, p.new_height, true); });
  }
  __syncthreads();
  if (!at.inside(task)) return;

  std::uint8_t pixels[3][kLetterboxSpan];
  letterbox_fill(task, pixels);
  if (letterbox_has_row(p, at)) {
    const unsigned first = threadIdx.x % 32 * kLetterboxSpan, line = threadIdx.x / 32;
    const AreaCell cell = area_cell(p.height, p.width, p.new_height, p.new_width);
    letterbox_with_source(task, p, [&](const auto& source) {
      if (!shrinks) {
        linear_span(source, p, at, columns + first, rows[line], pixels);
      } else if (cell.rows > 0) {
        cell_span(source, p, at, cell, pixels);
      } else {
        area_span(source, p, at, wide_columns + first, wide_rows[line], pixels);
      }
    });
  }
  letterbox_store<T>(task, at, pixels);
}

// ---- Pillow's filter ----

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
  PillowWindow window;
};

// Member by member: a choice between two structs would put both on the stack.
FD_D PillowTaps choose(bool first, const PillowTaps& a, const PillowTaps& b) {
  return {first ? a.weights : b.weights, {first ? a.window.begin : b.window.begin, first ? a.window.size : b.window.size}};
}

// The first pass inside the second: each tap of the outer axis is a rounded sum over the inner one.
template <typename Source>
FD_D void pillow_pixel(const Source& source, bool vertical_first, const PillowTaps& vertical, const PillowTaps& horizontal,
                       std::uint8_t (&pixels)[3][kLetterboxSpan], int place) {
  const PillowTaps inner = choose(vertical_first, vertical, horizontal), outer = choose(vertical_first, horizontal, vertical);
  std::int32_t sum[3] = {0, 0, 0};
  for (std::int32_t j = 0; j < outer.window.size; ++j) {
    std::int32_t partial[3] = {0, 0, 0};
    for (std::int32_t i = 0; i < inner.window.size; ++i) {
      const std::int32_t y = vertical.window.begin + (vertical_first ? i : j);
      std::int32_t pixel[3];
      source.row(y).load(horizontal.window.begin + (vertical_first ? j : i), pixel);
#pragma unroll
      for (int c = 0; c < 3; ++c) partial[c] += pixel[c] * inner.weights[i];
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) sum[c] += pillow_round(partial[c]) * outer.weights[j];
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) pixels[c][place] = pillow_round(sum[c]);
}

template <typename T>
__global__ void FD_LAUNCH_BOUNDS(kLetterboxThreads) letterbox_pillow_kernel(const LetterboxTask task) {
  const LetterboxPicture& p = task.pictures[blockIdx.y];
  const LetterboxPlace at(task);
  if (!at.inside(task)) return;

  std::uint8_t pixels[3][kLetterboxSpan];
  letterbox_fill(task, pixels);
  if (letterbox_has_row(p, at)) {
    std::int32_t* const memory = task.tables + blockIdx.y * task.table_stride;
    const PillowTable columns = pillow_table(memory, p.width, p.new_width);
    const PillowTable rows = pillow_table(memory + pillow_entries(p.width, p.new_width), p.height, p.new_height);
    const bool vertical_first =
        task.mode == LetterboxMode::kPillow && pillow_vertical_first(p.height, p.width, p.new_height, p.new_width);
    const std::int64_t y = at.y - p.top;
    const PillowTaps vertical{rows.weights + y * rows.taps, rows.windows[y]};
    letterbox_with_source(task, p, [&](const auto& source) {
      letterbox_for_span(at, p, [&](int i) {
        const std::int64_t x = at.x + i - p.left;
        const PillowTaps horizontal{columns.weights + x * columns.taps, columns.windows[x]};
        pillow_pixel(source, vertical_first, vertical, horizontal, pixels, i);
      });
    });
  }
  letterbox_store<T>(task, at, pixels);
}

}  // namespace fastdet
