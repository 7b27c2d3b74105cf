// SPDX-License-Identifier: Apache-2.0
// Boxes of a tile of neighbouring anchors, channel by channel; the same bits as corners_at gives for each.
#include "core/dispatch.h"
#include "ops/decode/decode.h"
#include "ops/decode/decode_tile.h"

namespace fastdet {
namespace {

template <typename T>
FD_TARGET_CLONES void expect_side(const T* codes, const RowSteps& steps, std::int64_t bins, std::int64_t size,
                                  ArithmeticOf<T>* expected) {
  ArithmeticOf<T> most[kBlock], sum[kBlock], weight[kBlock];
  expect_row(codes, steps, bins, size, most, sum, expected, weight, false);
}

template <typename R>
FD_TARGET_CLONES void sigmoid_row(R* FD_RESTRICT row, std::int64_t size) {
  for (std::int64_t j = 0; j < size; ++j) row[j] = sigmoid_exact(row[j]);
}

}  // namespace

template <typename T>
void decode_boxes_tile(const HeadMaps& maps, const DecodeTile& tile, ArithmeticOf<T>* boxes) {
  using R = ArithmeticOf<T>;
  const HeadLevel& in = maps.level[tile.level];
  const T* codes = codes_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  const RowSteps steps{in.codes_stride[4], in.codes_stride[2]};
  R code[4][kBlock];
  for (int k = 0; k < 4; ++k) {
    if (maps.code == BoxCode::kDfl) {
      expect_side(codes + k * maps.bins * steps.channel, steps, maps.bins, tile.size, code[k]);
    } else {
      load_row(codes + k * steps.channel, steps.anchor, tile.size, code[k]);
    }
    if (maps.code == BoxCode::kAnchors) sigmoid_row(code[k], tile.size);
  }
  const R stride = static_cast<R>(in.stride), offset = static_cast<R>(maps.offset);
  for (std::int64_t j = 0; j < tile.size; ++j) {
    const std::int64_t x = (tile.x + j) % in.width, y = tile.y + (tile.x + j) / in.width;
    const R a = code[0][j], b = code[1][j], c = code[2][j], d = code[3][j];
    Corners<R> corners;
    if (maps.code == BoxCode::kAnchors) {
      const double* prior = in.prior_size[tile.prior];
      corners = anchor_corners<R>(a, b, c, d, static_cast<R>(x), static_cast<R>(y), stride, static_cast<R>(prior[0]),
                                  static_cast<R>(prior[1]));
    } else if (maps.code == BoxCode::kCxcywh) {
      corners = picture_corners<R>(a, b, c, d, static_cast<R>(maps.picture_width), static_cast<R>(maps.picture_height));
    } else {
      corners = distance_corners<R>(static_cast<R>(x) + offset, static_cast<R>(y) + offset, a, b, c, d, stride);
    }
    boxes[4 * j] = corners.x1;
    boxes[4 * j + 1] = corners.y1;
    boxes[4 * j + 2] = corners.x2;
    boxes[4 * j + 3] = corners.y2;
  }
}

template void decode_boxes_tile<float>(const HeadMaps&, const DecodeTile&, float*);
template void decode_boxes_tile<Half>(const HeadMaps&, const DecodeTile&, float*);
template void decode_boxes_tile<BFloat16>(const HeadMaps&, const DecodeTile&, float*);
template void decode_boxes_tile<double>(const HeadMaps&, const DecodeTile&, double*);

}  // namespace fastdet
