// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "core/check.h"
#include "ops/letterbox/letterbox_layout.h"

namespace fastdet {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

void check_picture(const LetterboxParams& params, std::int64_t i) {
  const LetterboxPicture& p = params.pictures[i];
  FD_CHECK(p.height > 0 && p.width > 0, ValueError, "letterbox: images[", i, "] must have at least one pixel, got height ",
           p.height, " and width ", p.width);
  FD_CHECK(p.new_height > 0 && p.new_width > 0 && p.top >= 0 && p.left >= 0 &&
               p.top + std::int64_t{p.new_height} <= params.out_height() &&
               p.left + std::int64_t{p.new_width} <= params.out_width(),
           ValueError, "letterbox: placement of images[", i, "] must lie inside (", params.out_height(), ", ", params.out_width(),
           "), got size (", p.new_height, ", ", p.new_width, ") at (", p.top, ", ", p.left, ")");
  FD_CHECK(p.format == LetterboxFormat::kPixels || p.width % 2 == 0, ValueError, "letterbox: images[", i,
           "] must have an even width in a YUV format, got ", p.width);
  const bool two_rows = p.format != LetterboxFormat::kPixels && p.format != LetterboxFormat::kYuyv &&
                        p.format != LetterboxFormat::kUyvy;  // share their chroma
  FD_CHECK(!two_rows || p.height % 2 == 0, ValueError, "letterbox: images[", i,
           "] must have an even height in a format with chroma for two rows, got ", p.height);
}

}  // namespace

void letterbox_check(const LetterboxParams& params) {
  FD_CHECK(params.output.ndim == 4 && params.output.contiguous(), ValueError,
           "letterbox: out must be contiguous with 4 dimensions, got ", shape_text(params.output));
  FD_CHECK(params.channels == 3 || (params.channels_last && params.channels > 3 && params.channels <= kLetterboxChannels),
           ValueError, "letterbox: channels must be 3, or up to ", kLetterboxChannels, " with channels last, got ",
           params.channels);
  FD_CHECK(params.output.shape[0] == params.count && params.output.shape[params.channels_last ? 3 : 1] == params.channels,
           ValueError, "letterbox: out must hold ", params.count, " pictures of ", params.channels, " channels, got ",
           shape_text(params.output));
  FD_CHECK(
      params.out_height() > 0 && params.out_width() > 0 && params.out_height() <= kMaxInt32 && params.out_width() <= kMaxInt32,
      ValueError, "letterbox: size must be positive, got (", params.out_height(), ", ", params.out_width(), ")");
  for (const float value : params.mean) {
    FD_CHECK(std::isfinite(value), ValueError, "letterbox: mean must be finite, got ", value);
  }
  for (const float value : params.std) {
    FD_CHECK(std::isfinite(value) && value != 0.0f, ValueError, "letterbox: std must be finite and not zero, got ", value);
  }
  for (std::int64_t i = 0; i < params.count; ++i) check_picture(params, i);
}

std::size_t letterbox_cuda_workspace_bytes(const LetterboxParams& params) {
  if (params.mode == LetterboxMode::kCv2 || params.mode == LetterboxMode::kCv2Area) return 0;
  return static_cast<std::size_t>(std::min(params.count, kLetterboxPictures) * letterbox_table_stride(params)) *
         sizeof(std::int32_t);
}

}  // namespace fastdet
