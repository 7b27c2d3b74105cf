// SPDX-License-Identifier: Apache-2.0
// CPU path of the gradients of dense decoding; tiles as forward.
#include <type_traits>

#include "core/dispatch.h"
#include "ops/decode/decode.h"
#include "ops/decode/decode_tile.h"

namespace fastdet {
namespace {

constexpr std::int64_t kBins = 32;  // up to so many the weights of a block are kept, not computed again

// Gradients of the corners of a block, one row per corner.
template <typename R>
struct CornerRows {
  R x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock];

  Corners<R> at(std::int64_t j) const { return {x1[j], y1[j], x2[j], y2[j]}; }
  void set(std::int64_t j, const Corners<R>& c) {
    x1[j] = c.x1;
    y1[j] = c.y1;
    x2[j] = c.x2;
    y2[j] = c.y2;
  }
  R* side(int k) { return k == 0 ? x1 : k == 1 ? y1 : k == 2 ? x2 : y2; }
};

// The place of a tile in a contiguous gradient [B, P, K, H, W], or [B, Q, K] of rows of queries.
template <typename T>
struct GradRows {
  T* first;
  RowSteps steps;

  GradRows(void* grads, const HeadMaps& maps, const DecodeTile& tile, std::int64_t channels) {
    const HeadLevel& in = maps.level[tile.level];
    const std::int64_t plane = in.height * in.width, at = tile.y * in.width + tile.x;
    const bool rows = maps.code == BoxCode::kCxcywh;
    steps = rows ? RowSteps{channels, 1} : RowSteps{1, plane};
    first = static_cast<T*>(grads) + (tile.image * in.priors + tile.prior) * channels * plane + at * steps.anchor;
  }
  FD_HD void store(std::int64_t channel, const ArithmeticOf<T>* row, std::int64_t size) const {
    store_row<T>(row, steps.anchor, size, first + channel * steps.channel);
  }
  // number j = rule(j): a row that is made and then copied costs a sweep more.
  template <typename Rule>
  FD_HD void fill(std::int64_t channel, std::int64_t size, const Rule& rule) const {
    T* FD_RESTRICT row = first + channel * steps.channel;
    if (steps.anchor == 1) {
      for (std::int64_t j = 0; j < size; ++j) row[j] = narrow<T>(rule(j));
    } else {
      for (std::int64_t j = 0; j < size; ++j) row[j * steps.anchor] = narrow<T>(rule(j));
    }
  }
};

template <typename T, typename R = ArithmeticOf<T>>
FD_TARGET_CLONES void bins_backward(const T* codes, const RowSteps& steps, std::int64_t bins, std::int64_t size,
                                    const R* FD_RESTRICT grad, std::int64_t channel, const GradRows<T>& out) {
  R most[kBlock], sum[kBlock], expected[kBlock], share[kBlock], weights[kBins * kBlock];
  const bool kept = bins <= kBins;
  expect_row(codes, steps, bins, size, most, sum, expected, weights, kept);
  for (std::int64_t j = 0; j < size; ++j) share[j] = grad[j] / sum[j];
  for (std::int64_t i = 0; i < bins; ++i) {
    R* FD_RESTRICT weight = weights + (kept ? i * kBlock : 0);
    if (!kept) weigh_row(codes + i * steps.channel, steps.anchor, size, most, weight);
    const R bin = static_cast<R>(i);
    out.fill(channel + i, size,
             [&](std::int64_t j) FD_INLINE_LAMBDA { return bin_gradient<R>(share[j], weight[j], bin, expected[j]); });
  }
}

template <typename T, typename R = ArithmeticOf<T>>
FD_TARGET_CLONES void anchors_backward(const T* codes, const RowSteps& steps, const HeadLevel& in, const DecodeTile& tile,
                                       CornerRows<R>* grads, const GradRows<T>& out) {
  R value[kBlock];
  const R stride = static_cast<R>(in.stride);
  for (int k = 0; k < 4; ++k) {
    load_row(codes + k * steps.channel, steps.anchor, tile.size, value);
    const R* grad = grads->side(k);
    const R size = k < 2 ? R(0) : static_cast<R>(in.prior_size[tile.prior][k - 2]);
    for (std::int64_t j = 0; j < tile.size; ++j) {
      const R s = sigmoid_exact(value[j]);
      value[j] = k < 2 ? anchor_centre_gradient<R>(grad[j], s, stride) : anchor_size_gradient<R>(grad[j], s, size);
    }
    out.store(k, value, tile.size);
  }
}

template <typename T>
void codes_backward(const DecodeParams& p, const DecodeTile& tile) {
  using R = ArithmeticOf<T>;
  const HeadMaps& maps = p.maps;
  const HeadLevel& in = maps.level[tile.level];
  const std::int64_t* g = p.boxes.stride;
  const R* grad = p.boxes.as<const R>() + tile.image * g[0] + tile.first * g[1];
  CornerRows<R> grads;
  for (std::int64_t j = 0; j < tile.size; ++j) {
    const R* row = grad + j * g[1];
    grads.set(j, {row[0], row[g[2]], row[2 * g[2]], row[3 * g[2]]});
    if (maps.code == BoxCode::kDfl || maps.code == BoxCode::kDistance) {
      grads.set(j, distance_gradients<R>(grads.at(j), static_cast<R>(in.stride)));
    } else {
      grads.set(j, centre_gradients<R>(grads.at(j)));
    }
  }
  const T* codes = codes_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  const RowSteps steps{in.codes_stride[4], in.codes_stride[2]};
  const GradRows<T> out(p.codes_grad[tile.level], maps, tile, maps.codes_per_anchor());
  if (maps.code == BoxCode::kAnchors) {
    anchors_backward(codes, steps, in, tile, &grads, out);
    return;
  }
  for (int k = 0; k < 4; ++k) {
    if (maps.code == BoxCode::kDfl) {
      bins_backward(codes + k * maps.bins * steps.channel, steps, maps.bins, tile.size, grads.side(k), k * maps.bins, out);
      continue;
    }
    const R scale =
        maps.code == BoxCode::kDistance ? R(1) : static_cast<R>(k % 2 == 0 ? maps.picture_width : maps.picture_height);
    for (std::int64_t j = 0; j < tile.size; ++j) grads.side(k)[j] *= scale;
    out.store(k, grads.side(k), tile.size);
  }
}

constexpr std::int64_t kPanels = 5;  // of kPlanes channels, read at a time: rows of YOLO's 80 classes are read in one go

// anchors[(panel * kBlock + j) * kPlanes + k] = gradient of channel k of a panel of anchor j, from that of its score.
template <typename R>
FD_HD void sigmoid_anchors(const R* grad, const RowSteps& from, const R* scores, const RowSteps& at, std::int64_t panels,
                           std::int64_t size, R* FD_RESTRICT anchors) {
  constexpr std::int64_t kAhead = 12;  // anchors: what is read is two streams, too fast for the hardware's prefetching alone
  const bool dense = from.channel == 1 && at.channel == 1;
  for (std::int64_t j = 0; j < size && dense; ++j) {
    for (std::int64_t i = 0; i < panels; ++i) {
      const R *g = grad + j * from.anchor + i * kPlanes, *s = scores + j * at.anchor + i * kPlanes;
      R* FD_RESTRICT to = anchors + (i * kBlock + j) * kPlanes;
      __builtin_prefetch(g + kAhead * from.anchor);
      __builtin_prefetch(s + kAhead * at.anchor);
#pragma GCC unroll 1  // taken apart it is no longer seen as whole vectors
      for (std::int64_t k = 0; k < kPlanes; ++k) to[k] = sigmoid_gradient<R>(g[k], s[k]);
    }
  }
  for (std::int64_t j = 0; j < size && !dense; ++j) {
    for (std::int64_t c = 0; c < panels * kPlanes; ++c) {
      anchors[(c / kPlanes * kBlock + j) * kPlanes + c % kPlanes] =
          sigmoid_gradient<R>(grad[j * from.anchor + c * from.channel], scores[j * at.anchor + c * at.channel]);
    }
  }
}

// Gradients of logits whose sigmoids are the scores: the logits themselves are not read. Gradients and scores are read as they
// lie, many channels of one anchor after the other, and turned on their way to planes.
template <typename T, typename R = ArithmeticOf<T>>
FD_TARGET_CLONES void sigmoids_backward(const DecodeParams& p, const DecodeTile& tile, const GradRows<T>& out) {
  const RowSteps from{p.scores.stride[1], p.scores.stride[2]}, at{p.given_scores.stride[1], p.given_scores.stride[2]};
  const R* grad = p.scores.as<const R>() + tile.image * p.scores.stride[0] + tile.first * from.anchor;
  const R* scores = p.given_scores.as<const R>() + tile.image * p.given_scores.stride[0] + tile.first * at.anchor;
  const std::int64_t turned = out.steps.anchor == 1 ? p.maps.classes / kPlanes * kPlanes : 0;  // channels
  R read[kPanels * kPlanes * kBlock], rows[kPlanes * kBlock];
  for (std::int64_t j = 0; j < tile.size; j += kBlock) {
    const std::int64_t size = std::min(kBlock, tile.size - j);
    for (std::int64_t c = 0; c < turned; c += kPlanes) {
      if (c % (kPanels * kPlanes) == 0) {
        sigmoid_anchors(grad + j * from.anchor + c * from.channel, from, scores + j * at.anchor + c * at.channel, at,
                        std::min(kPanels, (turned - c) / kPlanes), size, read);
      }
      const R* anchors = read + c / kPlanes % kPanels * kPlanes * kBlock;
      T* to = out.first + c * out.steps.channel + j;
      if constexpr (std::is_same_v<T, R>) {
        turn_planes(anchors, size, out.steps.channel, to);
      } else {
        turn_planes(anchors, size, kBlock, rows);
        for (std::int64_t k = 0; k < kPlanes; ++k) store_row<T>(rows + k * kBlock, 1, size, to + k * out.steps.channel);
      }
    }
    for (std::int64_t i = j; i < j + size; ++i) {
      const R *g = grad + i * from.anchor, *s = scores + i * at.anchor;
      T* to = out.first + i * out.steps.anchor;
      if (from.channel == 1 && at.channel == 1 && out.steps.channel == 1) {
        for (std::int64_t c = turned; c < p.maps.classes; ++c) to[c] = narrow<T>(sigmoid_gradient<R>(g[c], s[c]));
      } else {
        for (std::int64_t c = turned; c < p.maps.classes; ++c) {
          to[c * out.steps.channel] = narrow<T>(sigmoid_gradient<R>(g[c * from.channel], s[c * at.channel]));
        }
      }
    }
  }
}

// Gradients of `planes` logits of a block, in place of those of the scores in `grads`. sum: of what goes to the objectness.
template <typename R>
FD_HD void logit_rows(std::int64_t planes, std::int64_t size, const R* FD_RESTRICT objectness, const R* FD_RESTRICT values,
                      R* FD_RESTRICT grads, R* FD_RESTRICT sum) {
  for (std::int64_t k = 0; k < planes; ++k) {
    const R* FD_RESTRICT value = values + k * kBlock;
    R* FD_RESTRICT row = grads + k * kBlock;
    for (std::int64_t j = 0; j < size; ++j) {
      sum[j] += row[j] * value[j];
      row[j] = sigmoid_gradient<R>(row[j] * objectness[j], value[j]);
    }
  }
}

// The same for planes that are dense: gradients of the scores are read as they lie, many channels of one anchor after the other,
// and turned; then each plane is one sweep.
template <typename T, typename R = ArithmeticOf<T>>
FD_HD void product_planes(const R* grad, const RowSteps& from, const T* logits, std::int64_t plane, std::int64_t classes,
                          std::int64_t size, const R* FD_RESTRICT objectness, R* FD_RESTRICT sum, const GradRows<T>& out) {
  constexpr std::int64_t kMost = 5 * kPlanes;
  R turned[kMost * kDecodeTile];  // [block][channel][kBlock]
  for (std::int64_t first = 0; first < classes; first += kMost) {
    const std::int64_t channels = std::min(kMost, classes - first);
    for (std::int64_t j = 0; j < size; j += kBlock) {
      for (std::int64_t c = 0; c < channels; c += kPlanes) {
        load_planes(grad + j * from.anchor + (first + c) * from.channel, from, std::min(kPlanes, channels - c),
                    std::min(kBlock, size - j), turned + j * kMost + c * kBlock);
      }
    }
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t j = 0; j < size; j += kBlock) {
        const std::int64_t count = std::min(kBlock, size - j);
        const T* FD_RESTRICT row = logits + (first + c) * plane + j;
        T* FD_RESTRICT to = out.first + (first + c) * out.steps.channel + j;
        const R* FD_RESTRICT g = turned + j * kMost + c * kBlock;
        for (std::int64_t i = 0; i < count; ++i) {
          const R value = sigmoid_exact(widen<T>(row[i]));
          sum[j + i] += g[i] * value;
          to[i] = narrow<T>(sigmoid_gradient<R>(g[i] * objectness[j + i], value));
        }
      }
    }
  }
}

// Gradients of logits and of the objectness that multiplies their sigmoids.
template <typename T, typename R = ArithmeticOf<T>>
FD_TARGET_CLONES void products_backward(const DecodeParams& p, const DecodeTile& tile, const GradRows<T>& out) {
  const HeadMaps& maps = p.maps;
  const HeadLevel& in = maps.level[tile.level];
  const RowSteps from{p.scores.stride[1], p.scores.stride[2]}, steps{in.logits_stride[4], in.logits_stride[2]};
  const R* grad = p.scores.as<const R>() + tile.image * p.scores.stride[0] + tile.first * from.anchor;
  const T* logits = logits_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  const T* codes = codes_at<T>(in, tile.image, tile.prior, tile.y, tile.x);
  R objectness[kDecodeTile], sum[kDecodeTile], values[kPlanes * kBlock], grads[kPlanes * kBlock];
  for (std::int64_t j = 0; j < tile.size; ++j) sum[j] = R(0);
  load_row(codes + 4 * in.codes_stride[2], in.codes_stride[4], tile.size, objectness, Sigmoid{});
  const bool dense = steps.anchor == 1 && out.steps.anchor == 1;
  if (dense) product_planes<T>(grad, from, logits, steps.channel, maps.classes, tile.size, objectness, sum, out);
  for (std::int64_t c = 0; c < maps.classes && !dense; c += kPlanes) {
    const std::int64_t planes = std::min(kPlanes, maps.classes - c);
    for (std::int64_t j = 0; j < tile.size; j += kBlock) {
      const std::int64_t size = std::min(kBlock, tile.size - j);
      load_planes(grad + j * from.anchor + c * from.channel, from, planes, size, grads);
      load_planes(logits + j * steps.anchor + c * steps.channel, steps, planes, size, values, Sigmoid{});
      logit_rows<R>(planes, size, objectness + j, values, grads, sum + j);
      store_planes<T>(grads, out.steps, planes, size, out.first + j * out.steps.anchor + c * out.steps.channel);
    }
  }
  for (std::int64_t j = 0; j < tile.size; ++j) sum[j] = sigmoid_gradient<R>(sum[j], objectness[j]);
  GradRows<T>(p.codes_grad[tile.level], maps, tile, maps.codes_per_anchor()).store(4, sum, tile.size);
}

template <typename T>
void scores_backward(const DecodeParams& p, const DecodeTile& tile) {
  const GradRows<T> out(p.logits_grad[tile.level], p.maps, tile, p.maps.classes);
  p.maps.objectness ? products_backward<T>(p, tile, out) : sigmoids_backward<T>(p, tile, out);
}

}  // namespace

void decode_backward_cpu(const DecodeParams& p) {
  dispatch_float_or_double(p.maps.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each_tile(p.maps, [&](const DecodeTile& tile) {
      for (std::int64_t j = 0; j < tile.size; j += kBlock) codes_backward<T>(p, tile.block(j));
      scores_backward<T>(p, tile);
    });
  });
}

}  // namespace fastdet
