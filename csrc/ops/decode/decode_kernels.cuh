// SPDX-License-Identifier: Apache-2.0
// Kernels of dense decoding. Grid y is the image; a thread owns an anchor, a block a tile of anchors by classes. Maps are read as
// they lie: with neighbouring anchors in neighbouring places, as in NCHW, reads are whole lines.
#pragma once

#include "core/launch.h"
#include "ops/decode/decode.h"

namespace fastdet {

constexpr int kDecodeThreads = 256;
constexpr int kDecodeBlocks = 2;  // wanted on a multiprocessor; by itself ptxas aims at eight and spills
constexpr int kScoreTile = 32;    // anchors and classes of one turn

template <typename T>
FD_D ArithmeticOf<T> objectness_at(const HeadLevel& in, std::int64_t image, const AnchorPlace& place) {
  return sigmoid_exact(widen<T>(codes_at<T>(in, image, place.prior, place.y, place.x)[4 * in.codes_stride[2]]));
}

// boxes [B, A, 4], R = ArithmeticOf<T>.
template <typename T, typename R = ArithmeticOf<T>>
__global__ FD_LAUNCH_BOUNDS(kDecodeThreads, kDecodeBlocks) void decode_boxes_kernel(HeadMaps maps, R* boxes) {
  const std::int64_t image = blockIdx.y;
  const std::int64_t anchor = static_cast<std::int64_t>(blockIdx.x) * kDecodeThreads + threadIdx.x;
  if (anchor >= maps.anchors) return;
  const AnchorPlace place = place_of(maps, anchor);
  const HeadLevel& in = maps.level[place.level];
  const T* codes = codes_at<T>(in, image, place.prior, place.y, place.x);
  const Corners<R> corners = corners_at<T>(maps, in, codes, place.prior, place.y, place.x);
  R* out = boxes + 4 * (image * maps.anchors + anchor);
  out[0] = corners.x1;
  out[1] = corners.y1;
  out[2] = corners.x2;
  out[3] = corners.y2;
}

// scores [B, A, C]. A block owns kScoreTile anchors and turns tiles of classes around in shared memory: lanes are anchors while
// reading and classes while writing.
template <typename T, typename R = ArithmeticOf<T>>
__global__ FD_LAUNCH_BOUNDS(kDecodeThreads, kDecodeBlocks) void decode_scores_kernel(HeadMaps maps, R* scores) {
  FD_SHARED(R, tile, kScoreTile * (kScoreTile + 1));
  constexpr int kRows = kDecodeThreads / kScoreTile;
  const std::int64_t image = blockIdx.y, first = static_cast<std::int64_t>(blockIdx.x) * kScoreTile;
  const int lane = static_cast<int>(threadIdx.x) % kScoreTile, row = static_cast<int>(threadIdx.x) / kScoreTile;
  const std::int64_t mine = first + lane;
  const T* logits = nullptr;
  std::int64_t step = 0;
  R objectness = R(1);
  if (mine < maps.anchors) {
    const AnchorPlace place = place_of(maps, mine);
    const HeadLevel& in = maps.level[place.level];
    logits = logits_at<T>(in, image, place.prior, place.y, place.x);
    step = in.logits_stride[2];
    if (maps.objectness) objectness = objectness_at<T>(in, image, place);
  }
  for (std::int64_t begin = 0; begin < maps.classes; begin += kScoreTile) {
    for (int r = row; r < kScoreTile; r += kRows) {
      const std::int64_t c = begin + r;
      if (logits != nullptr && c < maps.classes) {
        tile[r * (kScoreTile + 1) + lane] = objectness * sigmoid_exact(widen<T>(logits[c * step]));
      }
    }
    __syncthreads();
    for (int r = row; r < kScoreTile; r += kRows) {
      const std::int64_t anchor = first + r, c = begin + lane;
      if (anchor < maps.anchors && c < maps.classes) {
        scores[(image * maps.anchors + anchor) * maps.classes + c] = tile[lane * (kScoreTile + 1) + r];
      }
    }
    __syncthreads();
  }
}

// Where gradients go: contiguous in the axes of the maps.
struct DecodeGrads {
  TensorView boxes, scores, given_scores;  // [B, A, 4], [B, A, C], [B, A, C] not a gradient, any strides
  void* logits[kMaxLevels];
  void* codes[kMaxLevels];
};

template <typename T>
struct GradPlace {
  T* first;
  std::int64_t step;  // between channels

  FD_D GradPlace(void* grads, const HeadMaps& maps, std::int64_t image, const AnchorPlace& place, std::int64_t channels) {
    const HeadLevel& in = maps.level[place.level];
    const std::int64_t plane = in.height * in.width, at = place.y * in.width + place.x;
    const bool rows = maps.code == BoxCode::kCxcywh;
    step = rows ? 1 : plane;
    first = static_cast<T*>(grads) + (image * in.priors + place.prior) * channels * plane + at * (rows ? channels : 1);
  }
  FD_D void store(std::int64_t channel, ArithmeticOf<T> value) const { first[channel * step] = narrow<T>(value); }
};

template <typename T, typename R = ArithmeticOf<T>>
FD_D void codes_backward(const HeadMaps& maps, const AnchorPlace& place, const T* codes, const Corners<R>& grad,
                         const GradPlace<T>& out) {
  const HeadLevel& in = maps.level[place.level];
  const std::int64_t step = in.codes_stride[2];
  const R stride = static_cast<R>(in.stride);
  if (maps.code == BoxCode::kDfl || maps.code == BoxCode::kDistance) {
    const Corners<R> d = distance_gradients<R>(grad, stride);
    const R side[4] = {d.x1, d.y1, d.x2, d.y2};
    if (maps.code == BoxCode::kDistance) {
      for (int k = 0; k < 4; ++k) out.store(k, side[k]);
      return;
    }
    const Expected<R> e = expected_bins<T>(codes, step, maps.bins);
    R share[4];
    for (int k = 0; k < 4; ++k) share[k] = side[k] / e.sum[k];
    for (std::int64_t i = 0; i < maps.bins; ++i) {
      for (int k = 0; k < 4; ++k) {
        const std::int64_t channel = k * maps.bins + i;
        const R weight = exp_exact(widen<T>(codes[channel * step]) - e.most[k]);
        out.store(channel, bin_gradient<R>(share[k], weight, static_cast<R>(i), e.value[k]));
      }
    }
    return;
  }
  const Corners<R> c = centre_gradients<R>(grad);
  if (maps.code == BoxCode::kCxcywh) {
    const R width = static_cast<R>(maps.picture_width), height = static_cast<R>(maps.picture_height);
    out.store(0, c.x1 * width);
    out.store(1, c.y1 * height);
    out.store(2, c.x2 * width);
    out.store(3, c.y2 * height);
    return;
  }
  const double* size = in.prior_size[place.prior];
  out.store(0, anchor_centre_gradient<R>(c.x1, sigmoid_exact(widen<T>(codes[0])), stride));
  out.store(1, anchor_centre_gradient<R>(c.y1, sigmoid_exact(widen<T>(codes[step])), stride));
  out.store(2, anchor_size_gradient<R>(c.x2, sigmoid_exact(widen<T>(codes[2 * step])), static_cast<R>(size[0])));
  out.store(3, anchor_size_gradient<R>(c.y2, sigmoid_exact(widen<T>(codes[3 * step])), static_cast<R>(size[1])));
}

// One thread per anchor: all of its channels, classes rising, so that sums have one order.
template <typename T, typename R = ArithmeticOf<T>>
__global__ FD_LAUNCH_BOUNDS(kDecodeThreads, 1) void decode_backward_kernel(HeadMaps maps, DecodeGrads grads) {
  const std::int64_t image = blockIdx.y;
  const std::int64_t anchor = static_cast<std::int64_t>(blockIdx.x) * kDecodeThreads + threadIdx.x;
  if (anchor >= maps.anchors) return;
  const AnchorPlace place = place_of(maps, anchor);
  const HeadLevel& in = maps.level[place.level];
  const std::int64_t* b = grads.boxes.stride;
  const R* box = grads.boxes.as<const R>() + image * b[0] + anchor * b[1];
  const T* codes = codes_at<T>(in, image, place.prior, place.y, place.x);
  const GradPlace<T> code_grads(grads.codes[place.level], maps, image, place, maps.codes_per_anchor());
  codes_backward<T>(maps, place, codes, Corners<R>{box[0], box[b[2]], box[2 * b[2]], box[3 * b[2]]}, code_grads);

  const std::int64_t* s = grads.scores.stride;
  const R* score = grads.scores.as<const R>() + image * s[0] + anchor * s[1];
  const T* logits = logits_at<T>(in, image, place.prior, place.y, place.x);
  const GradPlace<T> out(grads.logits[place.level], maps, image, place, maps.classes);
  if (!maps.objectness) {
    const std::int64_t* g = grads.given_scores.stride;
    const R* given = grads.given_scores.as<const R>() + image * g[0] + anchor * g[1];
    for (std::int64_t c = 0; c < maps.classes; ++c) out.store(c, sigmoid_gradient<R>(score[c * s[2]], given[c * g[2]]));
    return;
  }
  const R objectness = objectness_at<T>(in, image, place);
  R sum = R(0);
  for (std::int64_t c = 0; c < maps.classes; ++c) {
    const R value = sigmoid_exact(widen<T>(logits[c * in.logits_stride[2]])), grad = score[c * s[2]];
    sum += grad * value;
    out.store(c, sigmoid_gradient<R>(grad * objectness, value));
  }
  code_grads.store(4, sigmoid_gradient<R>(sum, objectness));
}

}  // namespace fastdet
