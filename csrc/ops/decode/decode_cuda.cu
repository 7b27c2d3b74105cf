// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "ops/decode/decode.h"
#include "ops/decode/decode_kernels.cuh"

namespace fastdet {
namespace {

constexpr std::int64_t kMostImages = 65535;  // height of a grid

template <typename T>
void forward(const HeadMaps& maps, const TensorView& boxes, const TensorView& scores, Stream stream) {
  using R = ArithmeticOf<T>;
  FD_LAUNCH((decode_boxes_kernel<T, R>), Dim3(ceil_div(maps.anchors, kDecodeThreads), maps.images), kDecodeThreads, 0, stream,
            maps, boxes.as<R>());
  if (maps.classes == 0) return;
  FD_LAUNCH((decode_scores_kernel<T, R>), Dim3(ceil_div(maps.anchors, kScoreTile), maps.images), kDecodeThreads, 0, stream, maps,
            scores.as<R>());
}

template <typename T>
void backward(const DecodeParams& p, const HeadMaps& maps, std::int64_t first, Stream stream) {
  DecodeGrads grads{images_of(p.boxes, first, maps.images),
                    images_of(p.scores, first, maps.images),
                    images_of(p.given_scores, first, maps.images),
                    {},
                    {}};
  for (int i = 0; i < maps.levels; ++i) {
    const std::int64_t before = first * maps.level[i].anchors();
    grads.logits[i] = static_cast<T*>(p.logits_grad[i]) + before * maps.classes;
    grads.codes[i] = static_cast<T*>(p.codes_grad[i]) + before * maps.codes_per_anchor();
  }
  FD_LAUNCH((decode_backward_kernel<T, ArithmeticOf<T>>), Dim3(ceil_div(maps.anchors, kDecodeThreads), maps.images),
            kDecodeThreads, 0, stream, maps, grads);
}

}  // namespace

void decode_cuda(const DecodeParams& p, Stream stream) {
  if (p.maps.anchors == 0) return;
  for (std::int64_t first = 0; first < p.maps.images; first += kMostImages) {
    const std::int64_t count = p.maps.images - first < kMostImages ? p.maps.images - first : kMostImages;
    const HeadMaps maps = images_of(p.maps, first, count);
    dispatch_float_or_double(maps.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      if (p.backward) {
        backward<T>(p, maps, first, stream);
      } else {
        forward<T>(maps, images_of(p.boxes, first, count), images_of(p.scores, first, count), stream);
      }
    });
  }
}

}  // namespace fastdet
