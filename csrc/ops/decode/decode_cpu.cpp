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

// scores: [size, C], rows `classes` apart.
template <typename T>
FD_TARGET_CLONES void decode_scores_tile(const HeadMaps& maps, const DecodeTile& tile, ArithmeticOf<T>* scores) {
  using R = ArithmeticOf<T>;
  const HeadLevel& in = maps.level[tile.level];
  const T* logits = logits_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  const RowSteps steps{in.logits_stride[4], in.logits_stride[2]};
  R objectness[kDecodeTile], rows[kPlanes * kBlock];
  if (maps.objectness) {
    const T* codes = codes_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
    load_row(codes + 4 * in.codes_stride[2], in.codes_stride[4], tile.size, objectness, Sigmoid{});
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
  // Several planes at a time, so that a row of the result is written in pieces of a cache line.
  for (std::int64_t c = 0; c < maps.classes; c += kPlanes) {
    const std::int64_t planes = std::min(kPlanes, maps.classes - c);
    for (std::int64_t j = 0; j < tile.size; j += kBlock) {
      const std::int64_t size = std::min(kBlock, tile.size - j);
      load_planes(logits + c * steps.channel + j * steps.anchor, steps, planes, size, rows, Sigmoid{});
      for (std::int64_t k = 0; maps.objectness && k < planes; ++k) {
        for (std::int64_t i = 0; i < size; ++i) rows[k * kBlock + i] = objectness[j + i] * rows[k * kBlock + i];
      }
      store_planes<R>(rows, {maps.classes, 1}, planes, size, scores + j * maps.classes + c);
    }
  }
}

}  // namespace

void decode_forward_cpu(const DecodeParams& p) {
  dispatch_float_or_double(p.maps.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using R = ArithmeticOf<T>;
    for_each_tile(p.maps, [&](const DecodeTile& tile) {
      const std::int64_t at = tile.image * p.maps.anchors + tile.first;
      for (std::int64_t j = 0; j < tile.size; j += kBlock) {
        decode_boxes_tile<T>(p.maps, tile.block(j), p.boxes.as<R>() + 4 * (at + j));
      }
      decode_scores_tile<T>(p.maps, tile, p.scores.as<R>() + p.maps.classes * at);
    });
  });
}

void decode_cpu(const DecodeParams& p) { p.backward ? decode_backward_cpu(p) : decode_forward_cpu(p); }

}  // namespace fastdet
