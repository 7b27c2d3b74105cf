// SPDX-License-Identifier: Apache-2.0
// Source rows for the CPU path, as lines of bytes in which a pixel has a place.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/letterbox/letterbox_layout.h"

namespace fastdet {

// What all rows of a YUV picture share.
struct YuvToRgb {
  YuvMatrix matrix;
  bool swap_rb;  // blue first
};

// planes[c * plane_stride + x] = pixel x, channel c, of a picture's row in any format; letterbox_planes(p) planes.
void read_row(const LetterboxPicture& p, const YuvToRgb& colours, std::int32_t row, std::uint8_t* planes,
              std::int64_t plane_stride);

// Which pictures are unpacked into planes first; YUV pictures always are.
enum class Unpack : std::int32_t {
  kNever,  // lines may have gaps
  kGaps,   // those whose pixels lie apart
  kAll,    // all whose pixels are not neighbours already
};

class LineSource {
 public:
  LineSource(const LetterboxPicture& picture, const YuvToRgb& colours, std::int32_t capacity, Unpack unpack);

  const std::uint8_t* line(std::int32_t y);  // valid until `capacity` other lines were asked for
  std::int64_t size() const { return size_; }
  std::int64_t origin() const { return origin_; }  // place of pixel 0, channel 0
  std::int64_t pixel_stride() const { return pixel_stride_; }
  std::int64_t channel_stride() const { return channel_stride_; }
  std::int32_t channels() const { return channels_; }

 private:
  const LetterboxPicture& p_;
  YuvToRgb colours_;
  std::int32_t channels_;
  std::int64_t size_, origin_, pixel_stride_, channel_stride_;
  std::vector<std::uint8_t> unpacked_;  // [capacity, size]; empty if lines are read in place
  std::vector<std::int32_t> held_;      // row in each slot
};

// A picture that has its size already: all modes give back its pixels. row(y) is [channels, width], valid until the next call.
class Unpacker {
 public:
  Unpacker(const LetterboxPicture& picture, const YuvToRgb& colours)
      : p_(picture),
        colours_(colours),
        pixels_(static_cast<std::size_t>(std::int64_t{letterbox_planes(picture)} * picture.width)) {}

  const std::uint8_t* row(std::int32_t y) {
    read_row(p_, colours_, y, pixels_.data(), p_.width);
    return pixels_.data();
  }

 private:
  const LetterboxPicture& p_;
  YuvToRgb colours_;
  std::vector<std::uint8_t> pixels_;
};

}  // namespace fastdet
