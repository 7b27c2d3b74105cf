// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a picture lie, for CPU and CUDA; sizes that the host, which provides the CUDA workspace, and the launcher,
// which divides it, have to agree on.
#pragma once

#include <algorithm>

#include "ops/letterbox/letterbox.h"
#include "ops/letterbox/letterbox_math.h"

namespace fastdet {

constexpr std::int64_t kLetterboxPictures = 64;  // of one launch; descriptors are kernel parameters

// Different channels of a picture: 1 or 3.
FD_HD std::int32_t letterbox_planes(const LetterboxPicture& p) {
  return p.format == LetterboxFormat::kPixels && p.channel_stride == 0 ? 1 : 3;
}

// A row of a YUV picture: pixel x is y[x * luma_stride], u and v[(x / 2) * chroma_stride].
struct YuvRow {
  const std::uint8_t *y, *u, *v;
  std::int64_t luma_stride, chroma_stride;
};

FD_HD YuvRow yuv_row(const LetterboxPicture& p, std::int32_t row) {
  const std::int64_t step = p.pixel_stride;
  const std::uint8_t* const line = p.data + row * p.row_stride;
  const auto packed = [=](std::int64_t luma, std::int64_t chroma) {
    return YuvRow{line + luma, line + chroma, line + chroma + step, step, 2 * step};
  };
  const auto pairs = [=](std::int64_t u, std::int64_t v) {
    const std::uint8_t* const chroma = p.data + (std::int64_t{p.height} + row / 2) * p.row_stride;
    return YuvRow{line, chroma + u, chroma + v, step, 2 * step};
  };
  // A row of the array holds two rows of a plane, and the second plane may begin in its middle.
  const auto planar = [=](std::int64_t u, std::int64_t v) {
    const auto place = [&](std::int64_t plane) {
      const std::int64_t k = plane * (p.height / 2) + row / 2;
      return p.data + (p.height + k / 2) * p.row_stride + k % 2 * (p.width / 2) * step;
    };
    return YuvRow{line, place(u), place(v), step, step};
  };
  switch (p.format) {
    case LetterboxFormat::kNv12: return pairs(0, step);
    case LetterboxFormat::kNv21: return pairs(step, 0);
    case LetterboxFormat::kI420: return planar(0, 1);
    case LetterboxFormat::kYv12: return planar(1, 0);
    case LetterboxFormat::kYuyv: return packed(0, p.channel_stride);
    default: return packed(p.channel_stride, 0);
  }
}

constexpr YuvMatrix yuv_matrix(LetterboxMatrix matrix) { return matrix == LetterboxMatrix::kBt601 ? kBt601 : kBt709; }

// 32-bit words that the Pillow tables of one picture take: columns, then rows.
inline std::int64_t letterbox_table_words(const LetterboxPicture& p) {
  return pillow_entries(p.width, p.new_width) + pillow_entries(p.height, p.new_height);
}

// Distance between the tables of two pictures in the CUDA workspace.
inline std::int64_t letterbox_table_stride(const LetterboxParams& params) {
  std::int64_t words = 0;
  for (std::int64_t i = 0; i < params.count; ++i) words = std::max(words, letterbox_table_words(params.pictures[i]));
  return words;
}

}  // namespace fastdet
