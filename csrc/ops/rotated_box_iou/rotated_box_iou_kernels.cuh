// SPDX-License-Identifier: Apache-2.0
// Kernels of the overlap of rotated boxes: all pairs, and row by row.
#pragma once

#include "core/launch.h"
#include "ops/rotated_box_iou/rotated_box_iou.h"
#include "ops/rotated_box_iou/rotated_box_iou_math.h"

namespace fastdet::rotated_iou {

constexpr int kThreads = 256;
constexpr int kStagedRows = 32;  // rows that a block compares with its columns

template <typename M>
FD_D typename M::Item item_at(const TensorView& boxes, std::int64_t image, std::int64_t i, const Form<typename M::Number>& form) {
  typename M::Number numbers[kNumbers];
  load_row(boxes, image * boxes.stride[0] + i * boxes.stride[1], boxes.stride[2], numbers);
  return M::item(numbers, form);
}

// Block: 256 columns, a thread each, against kStagedRows rows of one image, which are prepared once into shared memory. Writes
// out [B, M, N], neighbouring threads side by side.
template <typename M>
__global__ FD_LAUNCH_BOUNDS(kThreads, 1) void rotated_pairs_kernel(RotatedBoxIouParams p, Form<typename M::Number> form) {
  using T = typename M::Number;
  FD_SHARED(typename M::Item, staged, kStagedRows);
  const std::int64_t m = p.rows(), n = p.columns();
  const std::int64_t tiles = ceil_div(n, kThreads), blocks = ceil_div(m, kStagedRows), at = blockIdx.x;
  const std::int64_t image = at / (blocks * tiles), row = at / tiles % blocks * kStagedRows;
  const std::int64_t column = at % tiles * kThreads + threadIdx.x;
  const int height = static_cast<int>(m - row < kStagedRows ? m - row : kStagedRows);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < height) staged[thread] = item_at<M>(p.boxes1, image, row + thread, form);
  __syncthreads();
  if (column >= n) return;
  const typename M::Item item = item_at<M>(p.boxes2, image, column, form);
  T* out = static_cast<T*>(p.out) + (image * m + row) * n + column;
  for (int r = 0; r < height; ++r) out[r * n] = M::value(staged[r], item, form);
}

// One thread per row of one image. Writes out [B, M].
template <typename M>
__global__ FD_LAUNCH_BOUNDS(kThreads, 1) void rotated_aligned_kernel(RotatedBoxIouParams p, Form<typename M::Number> form) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.images() * p.rows()) return;
  const std::int64_t image = i / p.rows(), row = i % p.rows();
  const typename M::Item first = item_at<M>(p.boxes1, image, row, form), second = item_at<M>(p.boxes2, image, row, form);
  static_cast<typename M::Number*>(p.out)[i] = M::value(first, second, form);
}

}  // namespace fastdet::rotated_iou
