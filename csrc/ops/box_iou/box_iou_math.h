// SPDX-License-Identifier: Apache-2.0
// How work is cut and in which order gradients are summed, the same on the CPU and on CUDA, so that both give the same bits:
// - for boxes1, over columns: in a tile of kTile columns lane l of kLanes adds columns l, l + kLanes, ...; the lanes are added by
//   halving; tiles are added in order.
// - for boxes2, over rows: within kRows rows in order; the sums of those in order.
#pragma once

#include <cstdint>

#include "core/iou_measure.h"

namespace fastdet::pairwise_iou {

constexpr std::int64_t kTile = 512, kLanes = 32, kRows = 64;

template <typename T>
FD_HD T sum_of_lanes(T* lanes) {
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// A number of a gradient, in the dtype of its box.
template <typename T>
FD_HD void store_number(void* data, DType dtype, std::int64_t at, T value) {
  switch (dtype) {
    case DType::kFloat16: static_cast<Half*>(data)[at] = to_half(static_cast<float>(value)); return;
    case DType::kBFloat16: static_cast<BFloat16*>(data)[at] = to_bfloat16(static_cast<float>(value)); return;
    case DType::kFloat64: static_cast<double*>(data)[at] = static_cast<double>(value); return;
    default: static_cast<float*>(data)[at] = static_cast<float>(value);
  }
}

}  // namespace fastdet::pairwise_iou
