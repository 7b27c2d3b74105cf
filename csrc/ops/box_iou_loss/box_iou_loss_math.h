// SPDX-License-Identifier: Apache-2.0
// What a pair contributes, and in which order losses are summed, the same on the CPU and on CUDA. Sums are float64 in two levels:
// blocks of kBlock pairs by halving; then kBlock lanes, lane l adding the sums of blocks l, l + kBlock, ..., again by halving.
#pragma once

#include <cstdint>

#include "core/iou_measure.h"

namespace fastdet::aligned_iou {

constexpr std::int64_t kBlock = 256;

// Loss of one pair times its weight, and the gradients times weight and scale.
template <IouKind K, typename T>
FD_HD T pair_loss(BoxFormat format, const IouForm<T>& form, const T (&pred)[Measure<K, T>::kNumbers],
                  const T (&target)[Measure<K, T>::kNumbers], T weight, T scale, T (&grad_pred)[Measure<K, T>::kNumbers],
                  T (&grad_target)[Measure<K, T>::kNumbers]) {
  using M = Measure<K, T>;
  const T value = M::gradient(format, M::item(format, pred, form), M::item(format, target, form), form, grad_pred, grad_target);
  const T factor = -(weight * scale);
  for (int k = 0; k < M::kNumbers; ++k) {
    grad_pred[k] = factor * grad_pred[k];
    grad_target[k] = factor * grad_target[k];
  }
  return weight * (T{1} - value);
}

// What every gradient is multiplied by: 1, or 1 / N for the mean.
template <typename T>
FD_HD T gradient_scale(bool mean, std::int64_t pairs) {
  return mean && pairs > 0 ? T{1} / static_cast<T>(pairs) : T{1};
}

FD_HD double reduced_loss(double sum, bool mean, std::int64_t pairs) {
  return mean && pairs > 0 ? sum / static_cast<double>(pairs) : sum;
}

}  // namespace fastdet::aligned_iou
