// SPDX-License-Identifier: Apache-2.0
// CPU path: one pass over the rows of the result, threads take ranges of rows of all pictures. Source rows are resized
// horizontally when the first output row asks for them and kept as long as later ones do.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/letterbox/letterbox_layout.h"
#include "ops/letterbox/letterbox_pillow.h"
#include "ops/letterbox/letterbox_rows.h"

namespace fastdet {
namespace {

std::int64_t padded(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

bool same_tables(const LetterboxPicture& a, const LetterboxPicture& b) {
  return a.height == b.height && a.width == b.width && a.new_height == b.new_height && a.new_width == b.new_width &&
         a.pixel_stride == b.pixel_stride && a.channel_stride == b.channel_stride;
}

// ---- tables: what all rows of a picture share, in the workspace ----

std::int64_t table_bytes(const LetterboxPicture& p, LetterboxMode mode) {
  if (mode == LetterboxMode::kCv2) return padded(2 * 4 * std::int64_t{p.new_width});
  return padded(4 * letterbox_table_words(p));
}

PillowTable build_pillow_table(std::int32_t source, std::int32_t target, std::int32_t* memory) {
  const PillowTable table = pillow_table(memory, source, target);
  for (std::int32_t i = 0; i < target; ++i) {
    table.windows[i] = pillow_window(i, source, target, table.weights + std::int64_t{i} * table.taps);
  }
  return table;
}

struct Tables {
  LinearColumns linear;
  PillowTable columns, rows;
};

Tables build_tables(const LetterboxPicture& p, LetterboxMode mode, char* memory) {
  Tables tables{};
  auto* const entries = reinterpret_cast<std::int32_t*>(memory);
  if (mode == LetterboxMode::kCv2) {
    const std::int64_t pixel_stride = p.width > 1 ? p.pixel_stride : 0;
    linear_columns_table(p.width, p.new_width, pixel_stride, entries, entries + p.new_width);
    tables.linear = {entries,      entries + p.new_width, p.new_width, p.width, p.channel_stride == 0 ? 1 : 3,
                     pixel_stride, p.channel_stride};
  } else {
    tables.columns = build_pillow_table(p.width, p.new_width, entries);
    tables.rows = build_pillow_table(p.height, p.new_height, entries + pillow_entries(p.width, p.new_width));
  }
  return tables;
}

// ---- resizing: rows of pixels, planar ----

// A source of resized rows: row(y) is [channels, new_width] with the planes new_width apart, valid until the next call.
class LinearResizer {
 public:
  LinearResizer(const LetterboxPicture& picture, const LinearColumns& columns)
      : p_(picture),
        columns_(columns),
        size_(std::int64_t{columns.channels} * p_.new_width),
        sums_(static_cast<std::size_t>(2 * size_)),
        pixels_(static_cast<std::size_t>(size_)) {}

  const std::uint8_t* row(std::int32_t y) {
    const LinearTaps taps = linear_row(y, p_.height, p_.new_height);
    const std::int16_t* const sums0 = sums_of(taps.index0, taps.index1);
    const std::int16_t* const sums1 = taps.weight1 == 0 ? sums0 : sums_of(taps.index1, taps.index0);
    linear_rows(sums0, sums1, taps.weight0, taps.weight1, size_, pixels_.data());
    return pixels_.data();
  }

 private:
  // Sums of a source row; it replaces the slot that does not hold row `other`.
  const std::int16_t* sums_of(std::int32_t index, std::int32_t other) {
    int slot = held_[0] == index ? 0 : 1;
    if (held_[slot] != index) {
      slot = held_[0] == other ? 1 : 0;
      linear_columns(columns_, p_.data + index * p_.row_stride, sums_.data() + slot * size_, p_.new_width);
      held_[slot] = index;
    }
    return sums_.data() + slot * size_;
  }

  const LetterboxPicture& p_;
  const LinearColumns& columns_;
  std::int64_t size_;
  std::vector<std::int16_t> sums_;  // [2, channels, new_width]
  std::vector<std::uint8_t> pixels_;
  std::int32_t held_[2] = {-1, -1};
};

// A picture that has its size already: both modes give back its pixels.
class Unpacker {
 public:
  explicit Unpacker(const LetterboxPicture& picture)
      : p_(picture),
        channels_(picture.channel_stride == 0 ? 1 : 3),
        pixels_(static_cast<std::size_t>(std::int64_t{channels_} * picture.width)) {}

  const std::uint8_t* row(std::int32_t y) {
    unpack_row(p_.data + y * p_.row_stride, p_.width, p_.pixel_stride, p_.channel_stride, channels_, pixels_.data(), p_.width);
    return pixels_.data();
  }

 private:
  const LetterboxPicture& p_;
  std::int32_t channels_;
  std::vector<std::uint8_t> pixels_;  // [channels, width]
};

// ---- results ----

// Writes rows of the result: padding and normalised pixels, in the layout asked for.
template <typename T>
class Writer {
 public:
  explicit Writer(const LetterboxParams& params)
      : out_(params.output.as<T>()),
        height_(params.out_height()),
        width_(params.out_width()),
        channels_last_(params.channels_last) {
    for (int c = 0; c < 3; ++c) {
      normalisation_[c] = letterbox_normalisation(params.scale, params.affine, params.mean[c], params.std[c]);
      fill_[c] = letterbox_value<T>(params.fill[c], normalisation_[c]);
    }
  }

  void pad(std::int64_t image, std::int64_t y, std::int64_t begin, std::int64_t end) const {
    for (int c = 0; c < 3; ++c) {
      T* const out = at(image, c, y);
      if (!channels_last_) {
        std::fill(out + begin, out + end, fill_[c]);
      } else {
        for (std::int64_t x = begin; x < end; ++x) out[3 * x] = fill_[c];
      }
    }
  }

  // pixels: planes `plane_stride` apart; 0 shows one plane in every channel.
  void row(std::int64_t image, std::int64_t y, std::int64_t left, std::int64_t size, const std::uint8_t* pixels,
           std::int64_t plane_stride) const {
    pad(image, y, 0, left);
    if (channels_last_) {
      interleaved(pixels, plane_stride, size, at(image, 0, y) + 3 * left);
    } else {
      for (int c = 0; c < 3; ++c) normalise_row(pixels + c * plane_stride, size, normalisation_[c], at(image, c, y) + left);
    }
    pad(image, y, left + size, width_);
  }

 private:
  T* at(std::int64_t image, int channel, std::int64_t y) const {
    return channels_last_ ? out_ + (image * height_ + y) * width_ * 3 + channel
                          : out_ + ((image * 3 + channel) * height_ + y) * width_;
  }
  void interleaved(const std::uint8_t* pixels, std::int64_t plane_stride, std::int64_t size, T* out) const {
    constexpr std::int64_t kBlock = 512;
    T planes[3 * kBlock];
    for (std::int64_t x = 0; x < size; x += kBlock) {
      const std::int64_t count = std::min(kBlock, size - x);
      for (int c = 0; c < 3; ++c) normalise_row(pixels + c * plane_stride + x, count, normalisation_[c], planes + c * kBlock);
      interleave_row(planes, kBlock, count, out + 3 * x);
    }
  }

  T* out_;
  std::int64_t height_, width_;
  bool channels_last_;
  Normalisation normalisation_[3];
  T fill_[3];
};

// Rows [begin, end) of one picture's result.
template <typename T, typename Resizer>
void write_rows(const Writer<T>& writer, const LetterboxPicture& p, std::int64_t image, std::int64_t begin, std::int64_t end,
                std::int64_t width, Resizer&& resizer) {
  for (std::int64_t y = begin; y < end; ++y) {
    if (y < p.top || y >= p.top + std::int64_t{p.new_height}) {
      writer.pad(image, y, 0, width);
    } else {
      writer.row(image, y, p.left, p.new_width, resizer.row(static_cast<std::int32_t>(y - p.top)),
                 p.channel_stride == 0 ? 0 : p.new_width);
    }
  }
}

template <typename T>
void write_batch(const LetterboxParams& params, const std::vector<Tables>& tables) {
  const Writer<T> writer(params);
  const std::int64_t height = params.out_height(), width = params.out_width();
  constexpr std::int64_t kPixelsWorthAThread = 32768;
  parallel_for(
      params.count * height, std::max<std::int64_t>(1, kPixelsWorthAThread / width), [&](std::int64_t begin, std::int64_t end) {
        while (begin < end) {
          const std::int64_t image = begin / height;
          const std::int64_t first = begin - image * height, last = std::min(height, first + end - begin);
          const LetterboxPicture& p = params.pictures[image];
          const Tables& t = tables[static_cast<std::size_t>(image)];
          if (p.height == p.new_height && p.width == p.new_width) {
            write_rows(writer, p, image, first, last, width, Unpacker(p));
          } else if (params.mode == LetterboxMode::kCv2) {
            write_rows(writer, p, image, first, last, width, LinearResizer(p, t.linear));
          } else {
            const bool vertical_first =
                params.mode == LetterboxMode::kPillow && pillow_vertical_first(p.height, p.width, p.new_height, p.new_width);
            const auto end = static_cast<std::int32_t>(std::clamp<std::int64_t>(last - p.top, 1, p.new_height));
            write_rows(writer, p, image, first, last, width, PillowResizer(p, t.columns, t.rows, vertical_first, end));
          }
          begin += last - first;
        }
      });
}

}  // namespace

std::size_t letterbox_cpu_workspace_bytes(const LetterboxParams& params) {
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < params.count; ++i) bytes += table_bytes(params.pictures[i], params.mode);
  return static_cast<std::size_t>(bytes);
}

void letterbox_cpu(const LetterboxParams& params) {
  std::vector<Tables> tables(static_cast<std::size_t>(params.count));
  char* memory = static_cast<char*>(params.workspace);
  for (std::int64_t i = 0; i < params.count; ++i) {
    const LetterboxPicture& p = params.pictures[i];
    Tables& mine = tables[static_cast<std::size_t>(i)];
    mine = i > 0 && same_tables(p, params.pictures[i - 1]) ? (&mine)[-1] : build_tables(p, params.mode, memory);
    memory += table_bytes(p, params.mode);
  }
  if (params.output.dtype == DType::kUInt8) {
    write_batch<std::uint8_t>(params, tables);
  } else {
    dispatch_float(params.output.dtype, [&](auto tag) { write_batch<typename decltype(tag)::type>(params, tables); });
  }
}

}  // namespace fastdet
