// SPDX-License-Identifier: Apache-2.0
// CPU path of dense decoding: tiles of neighbouring anchors, channel by channel, so that every loop becomes vector code.
#include <algorithm>
#include <cstdint>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/decode/decode.h"
#include "ops/decode/decode_tile.h"

namespace fastdet {
namespace {

template <typename T>
FD_TARGET_CLONES void expect_side(const T* codes, const RowSteps& steps, std::int64_t bins, std::int64_t size,
                                  ArithmeticOf<T>* expected) {
  ArithmeticOf<T> most[kDecodeTile], sum[kDecodeTile];
  expect_row(codes, steps, bins, size, most, sum, expected);
}

template <typename R>
FD_TARGET_CLONES void sigmoid_row(R* FD_RESTRICT row, std::int64_t size) {
  for (std::int64_t j = 0; j < size; ++j) row[j] = sigmoid_exact(row[j]);
}

template <typename T>
void decode_boxes_tile(const HeadMaps& maps, const DecodeTile& tile, ArithmeticOf<T>* boxes) {
  using R = ArithmeticOf<T>;
  const HeadLevel& in = maps.level[tile.level];
  const T* codes = codes_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  const RowSteps steps{in.codes_stride[4], in.codes_stride[2]};
  R code[4][kDecodeTile];
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

// scores: [size, C], rows `classes` apart.
template <typename T>
FD_TARGET_CLONES void decode_scores_tile(const HeadMaps& maps, const DecodeTile& tile, ArithmeticOf<T>* scores) {
  using R = ArithmeticOf<T>;
  const HeadLevel& in = maps.level[tile.level];
  const T* logits = logits_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  const RowSteps steps{in.logits_stride[4], in.logits_stride[2]};
  R objectness[kDecodeTile], row[kDecodeTile];
  if (maps.objectness) {
    const T* codes = codes_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
    load_row(codes + 4 * in.codes_stride[2], in.codes_stride[4], tile.size, objectness);
    for (std::int64_t j = 0; j < tile.size; ++j) objectness[j] = sigmoid_exact(objectness[j]);
  }
  if (steps.channel == 1 && steps.anchor != 1) {  // columns are neighbours
    for (std::int64_t j = 0; j < tile.size; ++j) {
      R* FD_RESTRICT out = scores + j * maps.classes;
      const T* FD_RESTRICT from = logits + j * steps.anchor;
      const R factor = maps.objectness ? objectness[j] : R(1);
      for (std::int64_t c = 0; c < maps.classes; ++c) out[c] = factor * sigmoid_exact(widen<T>(from[c]));
    }
    return;
  }
  for (std::int64_t c = 0; c < maps.classes; ++c) {
    load_row(logits + c * steps.channel, steps.anchor, tile.size, row);
    for (std::int64_t j = 0; j < tile.size; ++j) row[j] = sigmoid_exact(row[j]);
    if (maps.objectness) {
      for (std::int64_t j = 0; j < tile.size; ++j) row[j] = objectness[j] * row[j];
    }
    for (std::int64_t j = 0; j < tile.size; ++j) scores[j * maps.classes + c] = row[j];
  }
}

}  // namespace

void decode_forward_cpu(const DecodeParams& p) {
  dispatch_float_or_double(p.maps.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using R = ArithmeticOf<T>;
    for_each_tile(p.maps, [&](const DecodeTile& tile) {
      const std::int64_t at = tile.image * p.maps.anchors + tile.first;
      decode_boxes_tile<T>(p.maps, tile, p.boxes.as<R>() + 4 * at);
      decode_scores_tile<T>(p.maps, tile, p.scores.as<R>() + p.maps.classes * at);
    });
  });
}

void decode_cpu(const DecodeParams& p) { p.backward ? decode_backward_cpu(p) : decode_forward_cpu(p); }

}  // namespace fastdet
