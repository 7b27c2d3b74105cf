// SPDX-License-Identifier: Apache-2.0
// Tiles of dense decoding on the CPU: neighbouring anchors of one row, or of rows that follow without a gap.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "ops/decode/decode.h"
#include "ops/decode/decode_planes.h"

namespace fastdet {

constexpr std::int64_t kDecodeTile = 256;  // anchors: worked on in blocks, read and written in runs that are not too short

struct DecodeTile {
  int level;
  std::int64_t image, prior, y, x;  // of its first anchor; x + j may lead into the next rows
  std::int64_t size;
  std::int64_t first;  // number of its first anchor

  DecodeTile block(std::int64_t begin) const {
    return {level, image, prior, y, x + begin, std::min(kBlock, size - begin), first + begin};
  }
};

// to[j] = exp(logit - most[j]).
template <typename T, typename R = ArithmeticOf<T>>
FD_HD void weigh_row(const T* FD_RESTRICT from, std::int64_t step, std::int64_t size, const R* FD_RESTRICT most,
                     R* FD_RESTRICT to) {
  if (step == 1) {
    for (std::int64_t j = 0; j < size; ++j) to[j] = exp_exact(widen<T>(from[j]) - most[j]);
  } else {
    for (std::int64_t j = 0; j < size; ++j) to[j] = exp_exact(widen<T>(from[j * step]) - most[j]);
  }
}

// expected_bins of one side for a block of anchors, with the greatest logit and the sum of weights of each. weights: room for one
// row, or `keep` for one of every bin.
template <typename T, typename R = ArithmeticOf<T>>
FD_HD void expect_row(const T* codes, const RowSteps& steps, std::int64_t bins, std::int64_t size, R* FD_RESTRICT most,
                      R* FD_RESTRICT sum, R* FD_RESTRICT expected, R* FD_RESTRICT weights, bool keep) {
  load_row(codes, steps.anchor, size, most);
  for (std::int64_t i = 1; i < bins; ++i) {
    const T* FD_RESTRICT from = codes + i * steps.channel;
    expect_access<0>(from + size, steps.anchor, size);
    if (steps.anchor == 1) {
      for (std::int64_t j = 0; j < size; ++j) most[j] = widen<T>(from[j]) > most[j] ? widen<T>(from[j]) : most[j];
    } else {
      for (std::int64_t j = 0; j < size; ++j) {
        const R value = widen<T>(from[j * steps.anchor]);
        most[j] = value > most[j] ? value : most[j];
      }
    }
  }
  for (std::int64_t j = 0; j < size; ++j) sum[j] = expected[j] = R(0);
  for (std::int64_t i = 0; i < bins; ++i) {
    R* FD_RESTRICT weight = weights + (keep ? i * kBlock : 0);
    weigh_row(codes + i * steps.channel, steps.anchor, size, most, weight);
    const R bin = static_cast<R>(i);
    for (std::int64_t j = 0; j < size; ++j) {
      sum[j] += weight[j];
      expected[j] += weight[j] * bin;
    }
  }
  for (std::int64_t j = 0; j < size; ++j) expected[j] /= sum[j];
}

// Calls body(tile) for all tiles of all images, in threads.
template <typename Body>
void for_each_tile(const HeadMaps& maps, Body&& body) {
  constexpr std::int64_t kGrain = 4;  // tiles
  // Runs of a level are its rows, or all of them as one; all levels are one loop: to wait after each would cost more.
  std::int64_t run[kMaxLevels], runs[kMaxLevels], tiles[kMaxLevels], before[kMaxLevels + 1] = {};
  for (int i = 0; i < maps.levels; ++i) {
    const HeadLevel& in = maps.level[i];
    const bool flat =
        in.logits_stride[3] == in.width * in.logits_stride[4] && in.codes_stride[3] == in.width * in.codes_stride[4];
    run[i] = flat ? in.height * in.width : in.width;
    runs[i] = flat ? 1 : in.height;
    tiles[i] = (run[i] + kDecodeTile - 1) / kDecodeTile;
    before[i + 1] = before[i] + maps.images * in.priors * runs[i] * tiles[i];
  }
  parallel_for(before[maps.levels], kGrain, [&](std::int64_t begin, std::int64_t end) {
    int i = 0;
    for (std::int64_t all = begin; all < end; ++all) {
      while (all >= before[i + 1]) ++i;
      const HeadLevel& in = maps.level[i];
      const std::int64_t t = all - before[i];
      const std::int64_t x = t % tiles[i] * kDecodeTile, row = t / tiles[i] % runs[i], plane = t / (tiles[i] * runs[i]);
      const std::int64_t prior = plane % in.priors;
      body(DecodeTile{i, plane / in.priors, prior, row, x, std::min(kDecodeTile, run[i] - x),
                      in.first + (prior * in.height + row) * in.width + x});
    }
  });
}

// boxes: [size, 4], of a tile of at most kBlock anchors.
template <typename T>
void decode_boxes_tile(const HeadMaps& maps, const DecodeTile& tile, ArithmeticOf<T>* boxes);

void decode_forward_cpu(const DecodeParams& params);
void decode_backward_cpu(const DecodeParams& params);

}  // namespace fastdet
