// SPDX-License-Identifier: Apache-2.0
#include "ops/letterbox/letterbox_lines.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/platform.h"
#include "ops/letterbox/letterbox_rows.h"

namespace fastdet {
namespace {

// Folded to a constant by the compiler.
FD_HD bool little_endian() {
  const std::uint16_t one = 1;
  std::uint8_t first;
  std::memcpy(&first, &one, 1);
  return first == 1;
}

// Two pixels that share their chroma.
struct YuvPair {
  std::int32_t y0, y1, u, v;
};

// The two results of a channel are stored at once, as bytes of one word: the loop needs no shuffles.
FD_HD std::uint16_t yuv_word(std::int32_t luma0, std::int32_t luma1, std::int32_t chroma) {
  const std::int32_t first = yuv_value(luma0, chroma), second = yuv_value(luma1, chroma);
  return static_cast<std::uint16_t>(little_endian() ? first | second << 8 : second | first << 8);
}

template <typename Load>
FD_HD void convert_pairs(const Load& load, std::int64_t pairs, const YuvMatrix& matrix, const RgbPlanes& out) {
  const YuvMatrix m = matrix;
  std::uint8_t* FD_RESTRICT red = out.red;
  std::uint8_t* FD_RESTRICT green = out.green;
  std::uint8_t* FD_RESTRICT blue = out.blue;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const YuvPair pair = load(i);
    const YuvChroma chroma = yuv_chroma(m, pair.u, pair.v);
    const std::int32_t luma0 = yuv_luma(m, pair.y0), luma1 = yuv_luma(m, pair.y1);
    const std::uint16_t r = yuv_word(luma0, luma1, chroma.red), g = yuv_word(luma0, luma1, chroma.green),
                        b = yuv_word(luma0, luma1, chroma.blue);
    std::memcpy(red + 2 * i, &r, 2);
    std::memcpy(green + 2 * i, &g, 2);
    std::memcpy(blue + 2 * i, &b, 2);
  }
}

// Bytes of a word by their place in memory.
template <typename Word>
FD_HD std::int32_t byte_of(Word word, int place) {
  constexpr int kLast = static_cast<int>(sizeof(Word)) - 1;
  return static_cast<std::int32_t>(word >> (8 * (little_endian() ? place : kLast - place)) & 255u);
}
template <typename Word>
FD_HD Word load_word(const std::uint8_t* at) {
  Word word;
  std::memcpy(&word, at, sizeof(Word));
  return word;
}

// NV12 (kFirst 0: U first) and NV21.
template <int kFirst>
FD_HD void convert_semiplanar(const std::uint8_t* y, const std::uint8_t* chroma, std::int64_t pairs, const YuvMatrix& m,
                              const RgbPlanes& out) {
  const auto load = [=](std::int64_t i) FD_INLINE_LAMBDA {
    const auto luma = load_word<std::uint16_t>(y + 2 * i), uv = load_word<std::uint16_t>(chroma + 2 * i);
    return YuvPair{byte_of(luma, 0), byte_of(luma, 1), byte_of(uv, kFirst), byte_of(uv, 1 - kFirst)};
  };
  convert_pairs(load, pairs, m, out);
}
FD_TARGET_CLONES void convert_uv(const std::uint8_t* y, const std::uint8_t* uv, std::int64_t pairs, const YuvMatrix& m,
                                 const RgbPlanes& out) {
  convert_semiplanar<0>(y, uv, pairs, m, out);
}
FD_TARGET_CLONES void convert_vu(const std::uint8_t* y, const std::uint8_t* vu, std::int64_t pairs, const YuvMatrix& m,
                                 const RgbPlanes& out) {
  convert_semiplanar<1>(y, vu, pairs, m, out);
}

void convert_nv(const std::uint8_t* y, const std::uint8_t* chroma, bool v_first, std::int64_t pairs, const YuvMatrix& m,
                const RgbPlanes& out) {
  const std::int64_t done = convert_pairs_simd(y, chroma, v_first, pairs, m, out), at = 2 * done;
  const auto rest = v_first ? convert_vu : convert_uv;
  rest(y + at, chroma + at, pairs - done, m, {out.red + at, out.green + at, out.blue + at});
}

// Planes of chroma, by way of pairs: loads of two widths would keep the loop from becoming vector code.
void convert_planar(const std::uint8_t* y, const std::uint8_t* u, const std::uint8_t* v, std::int64_t pairs, const YuvMatrix& m,
                    const RgbPlanes& out) {
  constexpr std::int64_t kBlock = 1024;
  std::uint8_t uv[2 * kBlock];
  for (std::int64_t i = 0; i < pairs; i += kBlock) {
    const std::int64_t count = std::min(kBlock, pairs - i);
    interleave_bytes(u + i, v + i, count, uv);
    convert_nv(y + 2 * i, uv, false, count, m, {out.red + 2 * i, out.green + 2 * i, out.blue + 2 * i});
  }
}

// YUYV (kLuma 0: Y is the first byte) and UYVY.
template <int kLuma>
FD_HD void convert_packed(const std::uint8_t* row, std::int64_t pairs, const YuvMatrix& m, const RgbPlanes& out) {
  const auto load = [=](std::int64_t i) FD_INLINE_LAMBDA {
    const auto word = load_word<std::uint32_t>(row + 4 * i);
    return YuvPair{byte_of(word, kLuma), byte_of(word, kLuma + 2), byte_of(word, 1 - kLuma), byte_of(word, 3 - kLuma)};
  };
  convert_pairs(load, pairs, m, out);
}
FD_TARGET_CLONES void convert_yuyv(const std::uint8_t* row, std::int64_t pairs, const YuvMatrix& m, const RgbPlanes& out) {
  convert_packed<0>(row, pairs, m, out);
}
FD_TARGET_CLONES void convert_uyvy(const std::uint8_t* row, std::int64_t pairs, const YuvMatrix& m, const RgbPlanes& out) {
  convert_packed<1>(row, pairs, m, out);
}

// Any strides.
void convert_strided(const YuvRow& row, std::int64_t pairs, const YuvMatrix& m, const RgbPlanes& out) {
  const auto load = [=](std::int64_t i) {
    const std::uint8_t* const y = row.y + 2 * i * row.luma_stride;
    return YuvPair{y[0], y[row.luma_stride], row.u[i * row.chroma_stride], row.v[i * row.chroma_stride]};
  };
  convert_pairs(load, pairs, m, out);
}

void convert_row(const YuvRow& row, std::int64_t pairs, const YuvToRgb& colours, std::uint8_t* planes,
                 std::int64_t plane_stride) {
  const YuvMatrix& m = colours.matrix;
  std::uint8_t* const third = planes + 2 * plane_stride;
  const RgbPlanes out{colours.swap_rb ? third : planes, planes + plane_stride, colours.swap_rb ? planes : third};
  const std::int64_t luma = row.luma_stride, chroma = row.chroma_stride, v_after_u = row.v - row.u, u_after_y = row.u - row.y;
  if (luma == 1 && chroma == 1) return convert_planar(row.y, row.u, row.v, pairs, m, out);
  if (luma == 1 && chroma == 2 && v_after_u == 1) return convert_nv(row.y, row.u, false, pairs, m, out);
  if (luma == 1 && chroma == 2 && v_after_u == -1) return convert_nv(row.y, row.v, true, pairs, m, out);
  const bool packed = luma == 2 && chroma == 4 && v_after_u == 2;
  if (packed && u_after_y == 1) return convert_yuyv(row.y, pairs, m, out);
  if (packed && u_after_y == -1) return convert_uyvy(row.u, pairs, m, out);
  convert_strided(row, pairs, m, out);
}

std::size_t bytes(std::int64_t count) { return static_cast<std::size_t>(count); }

}  // namespace

void read_row(const LetterboxPicture& p, const YuvToRgb& colours, std::int32_t row, std::uint8_t* planes,
              std::int64_t plane_stride) {
  if (p.format == LetterboxFormat::kPixels) {
    unpack_row(p.data + row * p.row_stride, p.width, p.pixel_stride, p.channel_stride, letterbox_planes(p), planes, plane_stride);
  } else {
    convert_row(yuv_row(p, row), p.width / 2, colours, planes, plane_stride);
  }
}

LineSource::LineSource(const LetterboxPicture& picture, const YuvToRgb& colours, std::int32_t capacity, Unpack unpack)
    : p_(picture),
      colours_(colours),
      channels_(letterbox_planes(picture)),
      pixel_stride_(picture.width > 1 ? picture.pixel_stride : 0),
      channel_stride_(picture.channel_stride) {
  if (p_.format == LetterboxFormat::kPixels) {
    const std::int64_t last_pixel = (p_.width - 1) * pixel_stride_, last_channel = (channels_ - 1) * channel_stride_;
    size_ = std::abs(last_pixel) + std::abs(last_channel) + 1;
    origin_ = -std::min<std::int64_t>(0, last_pixel) - std::min<std::int64_t>(0, last_channel);
    constexpr std::int64_t kPackedPixel = 4;
    if (unpack == Unpack::kNever || (unpack == Unpack::kGaps && size_ <= kPackedPixel * p_.width)) return;
    if (channels_ == 1 && pixel_stride_ == 1) return;
  }
  size_ = std::int64_t{channels_} * p_.width;
  origin_ = 0;
  pixel_stride_ = 1;
  channel_stride_ = p_.width;
  unpacked_.resize(bytes(capacity * size_));
  held_.assign(bytes(capacity), -1);
}

const std::uint8_t* LineSource::line(std::int32_t y) {
  if (held_.empty()) return p_.data + y * p_.row_stride - origin_;
  const std::size_t slot = bytes(y) % held_.size();
  std::uint8_t* const planes = unpacked_.data() + static_cast<std::int64_t>(slot) * size_;
  if (held_[slot] != y) read_row(p_, colours_, y, planes, p_.width);
  held_[slot] = y;
  return planes;
}

}  // namespace fastdet
