// SPDX-License-Identifier: Apache-2.0
// Kernels of the aligned IoU losses: losses and gradients with a sum for each block, the sum of those, and the product of the
// backward pass. Sums are taken in the order that box_iou_loss_math.h states; no atomics.
#pragma once

#include "core/launch.h"
#include "ops/box_iou_loss/box_iou_loss.h"
#include "ops/box_iou_loss/box_iou_loss_math.h"

namespace fastdet::aligned_iou {

// Sum over the block by halving; the result is in thread 0. Begins and ends without a barrier: `sums` holds kBlock numbers that
// nobody else uses.
FD_D double sum_of_block(double value, double* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = value;
  __syncthreads();
  for (int half = static_cast<int>(kBlock) / 2; half > 0; half /= 2) {
    if (thread < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  return sums[0];
}

// Block: kBlock pairs, a thread each. Writes the gradients that are wanted [N, k], and either the losses [N] or the sum of the
// block [blocks].
template <IouKind K, typename T>
__global__ FD_LAUNCH_BOUNDS(kBlock, 1) void box_iou_loss_kernel(BoxIouLossParams p, IouForm<T> form) {
  FD_SHARED(double, sums, kBlock);
  constexpr int count = Measure<K, T>::kNumbers;
  const std::int64_t n = p.pairs(), i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  T loss = T{0};
  if (i < n) {
    T pred[count], target[count], grad_pred[count], grad_target[count];
    load_row(p.pred, i * p.pred.stride[0], p.pred.stride[1], pred);
    load_row(p.target, i * p.target.stride[0], p.target.stride[1], target);
    const T weight = p.weight.data != nullptr ? load_number<T>(p.weight, i * p.weight.stride[0]) : T{1};
    const T scale = gradient_scale<T>(p.reduction == Reduction::kMean, n);
    loss = pair_loss<K>(p.rules.format, form, pred, target, weight, scale, grad_pred, grad_target);
    for (int k = 0; k < count; ++k) {
      if (p.grad_pred != nullptr) static_cast<T*>(p.grad_pred)[i * count + k] = grad_pred[k];
      if (p.grad_target != nullptr) static_cast<T*>(p.grad_target)[i * count + k] = grad_target[k];
    }
    if (p.reduction == Reduction::kNone) static_cast<T*>(p.loss)[i] = loss;
  }
  if (p.reduction == Reduction::kNone) return;  // the whole block
  const double sum = sum_of_block(static_cast<double>(loss), sums);
  if (threadIdx.x == 0) static_cast<double*>(p.workspace)[blockIdx.x] = sum;
}

// One block: adds the sums of all blocks. Writes the loss [1].
template <typename T>
__global__ FD_LAUNCH_BOUNDS(kBlock) void box_iou_loss_reduce_kernel(BoxIouLossParams p, std::int64_t blocks) {
  FD_SHARED(double, sums, kBlock);
  double lane = 0.0;
  for (std::int64_t b = threadIdx.x; b < blocks; b += kBlock) lane += static_cast<const double*>(p.workspace)[b];
  const double sum = sum_of_block(lane, sums);
  if (threadIdx.x == 0) {
    *static_cast<T*>(p.loss) = static_cast<T>(reduced_loss(sum, p.reduction == Reduction::kMean, p.pairs()));
  }
}

// Thread: one number of a kept gradient [N, k], times the gradient of its loss.
template <typename T>
__global__ FD_LAUNCH_BOUNDS(kBlock) void box_iou_loss_multiply_kernel(TensorView grad_loss, TensorView kept, void* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= kept.shape[0] * kept.shape[1]) return;  // numel() would index the shape at run time, through a stack frame
  const std::int64_t step = grad_loss.ndim == 0 ? 0 : grad_loss.stride[0];
  const std::int64_t row = i / kept.shape[1], at = row * kept.stride[0] + i % kept.shape[1] * kept.stride[1];
  static_cast<T*>(out)[i] = grad_loss.as<const T>()[row * step] * kept.as<const T>()[at];
}

}  // namespace fastdet::aligned_iou
