// SPDX-License-Identifier: Apache-2.0
// CPU path: one pass over the rows of the result, threads take ranges of rows of all pictures. Source rows are resized
// horizontally when the first output row asks for them and kept as long as later ones do.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/letterbox/letterbox_area.h"
#include "ops/letterbox/letterbox_pillow.h"
#include "ops/letterbox/letterbox_rows.h"

namespace fastdet {
namespace {

std::int64_t padded(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

bool same_tables(const LetterboxPicture& a, const LetterboxPicture& b) {
  return a.height == b.height && a.width == b.width && a.new_height == b.new_height && a.new_width == b.new_width &&
         a.pixel_stride == b.pixel_stride && a.channel_stride == b.channel_stride && a.format == b.format;
}

// ---- tables: what all rows of a picture share, in the workspace ----

enum class Filter { kLinear, kArea, kPillow };

// Whether the bilinear filter has the positions of INTER_AREA.
bool area_positions(const LetterboxPicture& p, LetterboxMode mode) {
  return mode == LetterboxMode::kCv2Area && !area_shrinks(p.height, p.width, p.new_height, p.new_width);
}

Filter filter_of(const LetterboxPicture& p, LetterboxMode mode) {
  if (mode == LetterboxMode::kCv2 || area_positions(p, mode)) return Filter::kLinear;
  if (mode != LetterboxMode::kCv2Area) return Filter::kPillow;
  // The mean of 2 x 2 pixels is what the bilinear filter gives, whose loops are faster: (sum + 2) >> 2 from weights of one half.
  const AreaCell cell = area_cell(p.height, p.width, p.new_height, p.new_width);
  return cell.rows == 2 && cell.columns == 2 ? Filter::kLinear : Filter::kArea;
}

std::int64_t table_bytes(const LetterboxPicture& p, LetterboxMode mode) {
  switch (filter_of(p, mode)) {
    case Filter::kLinear: return padded(2 * 4 * std::int64_t{p.new_width});
    case Filter::kArea: return padded(std::int64_t{p.new_width} * static_cast<std::int64_t>(sizeof(AreaWindow)));
    default: return padded(4 * letterbox_table_words(p));
  }
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
  const AreaWindow* area;
  PillowTable columns, rows;
};

LinearColumns build_linear_columns(const LetterboxPicture& p, const LineSource& shape, bool area, std::int32_t* memory) {
  linear_columns_table(p.width, p.new_width, area, shape.pixel_stride(), memory, memory + p.new_width);
  return {memory, memory + p.new_width, p.new_width, p.width, shape.channels(), shape.pixel_stride(), shape.channel_stride()};
}

Tables build_tables(const LetterboxPicture& p, LetterboxMode mode, char* memory) {
  Tables tables{};
  auto* const entries = reinterpret_cast<std::int32_t*>(memory);
  switch (filter_of(p, mode)) {
    case Filter::kLinear:
      tables.linear = build_linear_columns(p, LineSource(p, {}, 0, Unpack::kNever), area_positions(p, mode), entries);
      break;
    case Filter::kArea: {
      auto* const windows = reinterpret_cast<AreaWindow*>(memory);
      for (std::int32_t x = 0; x < p.new_width; ++x) windows[x] = area_window(x, p.width, p.new_width);
      tables.area = windows;
      break;
    }
    default:
      tables.columns = build_pillow_table(p.width, p.new_width, entries);
      tables.rows = build_pillow_table(p.height, p.new_height, entries + pillow_entries(p.width, p.new_width));
  }
  return tables;
}

// ---- resizing: rows of pixels, planar ----

// A source of resized rows: row(y) is [channels, new_width] with the planes new_width apart, valid until the next call.
class LinearResizer {
 public:
  LinearResizer(const LetterboxPicture& picture, const YuvToRgb& colours, const LinearColumns& columns, bool area)
      : p_(picture),
        columns_(columns),
        area_(area),
        source_(picture, colours, 1, Unpack::kNever),
        size_(std::int64_t{columns.channels} * p_.new_width),
        sums_(static_cast<std::size_t>(2 * size_)),
        pixels_(static_cast<std::size_t>(size_)) {}

  const std::uint8_t* row(std::int32_t y) {
    const LinearTaps taps = linear_row(y, p_.height, p_.new_height, area_);
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
      linear_columns(columns_, source_.line(index) + source_.origin(), sums_.data() + slot * size_, p_.new_width);
      held_[slot] = index;
    }
    return sums_.data() + slot * size_;
  }

  const LetterboxPicture& p_;
  const LinearColumns& columns_;
  bool area_;
  LineSource source_;
  std::int64_t size_;
  std::vector<std::int16_t> sums_;  // [2, channels, new_width]
  std::vector<std::uint8_t> pixels_;
  std::int32_t held_[2] = {-1, -1};
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
        channels_(params.channels),
        channels_last_(params.channels_last) {
    for (int c = 0; c < 3; ++c) {
      normalisation_[c] = letterbox_normalisation(params.scale, params.affine, params.mean[c], params.std[c]);
      fill_[c] = letterbox_value<T>(params.fill[c], normalisation_[c]);
    }
  }

  void pad(std::int64_t image, std::int64_t y, std::int64_t begin, std::int64_t end) const {
    for (int c = 0; c < channels_; ++c) {
      T* const out = at(image, c, y);
      const T value = c < 3 ? fill_[c] : T{};
      if (!channels_last_) {
        std::fill(out + begin, out + end, value);
      } else {
        for (std::int64_t x = begin; x < end; ++x) out[channels_ * x] = value;
      }
    }
  }

  // pixels: planes `plane_stride` apart; 0 shows one plane in every channel.
  void row(std::int64_t image, std::int64_t y, std::int64_t left, std::int64_t size, const std::uint8_t* pixels,
           std::int64_t plane_stride) const {
    pad(image, y, 0, left);
    if (channels_last_) {
      interleaved(pixels, plane_stride, size, at(image, 0, y) + channels_ * left);
    } else {
      for (int c = 0; c < 3; ++c) normalise_row(pixels + c * plane_stride, size, normalisation_[c], at(image, c, y) + left);
    }
    pad(image, y, left + size, width_);
  }

 private:
  T* at(std::int64_t image, int channel, std::int64_t y) const {
    return channels_last_ ? out_ + (image * height_ + y) * width_ * channels_ + channel
                          : out_ + ((image * 3 + channel) * height_ + y) * width_;
  }
  void interleaved(const std::uint8_t* pixels, std::int64_t plane_stride, std::int64_t size, T* out) const {
    constexpr std::int64_t kBlock = 512;
    T planes[3 * kBlock];
    for (std::int64_t x = 0; x < size; x += kBlock) {
      const std::int64_t count = std::min(kBlock, size - x);
      for (int c = 0; c < 3; ++c) normalise_row(pixels + c * plane_stride + x, count, normalisation_[c], planes + c * kBlock);
      interleave_row(planes, kBlock, count, channels_, out + channels_ * x);
    }
  }

  T* out_;
  std::int64_t height_, width_;
  std::int32_t channels_;
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
                 letterbox_planes(p) == 1 ? 0 : p.new_width);
    }
  }
}

// The same by the filter that the picture needs.
template <typename T>
void write_picture(const Writer<T>& writer, const LetterboxParams& params, const Tables& t, std::int64_t image,
                   std::int64_t first, std::int64_t last) {
  const LetterboxPicture& p = params.pictures[image];
  const YuvToRgb colours{yuv_matrix(params.matrix), params.swap_rb};
  const std::int64_t width = params.out_width();
  const auto end = static_cast<std::int32_t>(std::clamp<std::int64_t>(last - p.top, 1, p.new_height));
  if (p.height == p.new_height && p.width == p.new_width) {
    return write_rows(writer, p, image, first, last, width, Unpacker(p, colours));
  }
  switch (filter_of(p, params.mode)) {
    case Filter::kLinear: {
      const bool area = area_positions(p, params.mode);
      return write_rows(writer, p, image, first, last, width, LinearResizer(p, colours, t.linear, area));
    }
    case Filter::kArea: return write_rows(writer, p, image, first, last, width, AreaResizer(p, colours, t.area, end));
    default: {
      const bool vertical_first =
          params.mode == LetterboxMode::kPillow && pillow_vertical_first(p.height, p.width, p.new_height, p.new_width);
      return write_rows(writer, p, image, first, last, width, PillowResizer(p, colours, t.columns, t.rows, vertical_first, end));
    }
  }
}

template <typename T>
void write_batch(const LetterboxParams& params, const std::vector<Tables>& tables) {
  const Writer<T> writer(params);
  const std::int64_t height = params.out_height(), width = params.out_width();
  constexpr std::int64_t kPixelsWorthAThread = 32768;
  parallel_for(params.count * height, std::max<std::int64_t>(1, kPixelsWorthAThread / width),
               [&](std::int64_t begin, std::int64_t end) {
                 while (begin < end) {
                   const std::int64_t image = begin / height;
                   const std::int64_t first = begin - image * height, last = std::min(height, first + end - begin);
                   write_picture(writer, params, tables[static_cast<std::size_t>(image)], image, first, last);
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
