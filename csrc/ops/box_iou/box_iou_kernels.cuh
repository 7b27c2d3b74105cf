// SPDX-License-Identifier: Apache-2.0
// Kernels of the pairwise IoU family: the result, and a gradient for each of the two sets of boxes, which is computed anew from
// the boxes. Sums are taken in the order that box_iou_math.h states; no atomics.
#pragma once

#include "core/launch.h"
#include "ops/box_iou/box_iou.h"
#include "ops/box_iou/box_iou_math.h"

namespace fastdet::pairwise_iou {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStagedRows = 32;  // rows that a block of the forward kernel compares with its columns

template <IouKind K, typename T>
FD_D typename Measure<K, T>::Item item_at(const IouRules& rules, const TensorView& boxes, std::int64_t image, std::int64_t i,
                                          const IouForm<T>& form) {
  T numbers[Measure<K, T>::kNumbers];
  load_row(boxes, image * boxes.stride[0] + i * boxes.stride[1], boxes.stride[2], numbers);
  return Measure<K, T>::item(rules.format, numbers, form);
}

// Block: 256 columns, a thread each, against kStagedRows rows of one image, which are prepared once into shared memory. Writes
// out [B, M, N], neighbouring threads side by side.
template <IouKind K, typename T>
__global__ FD_LAUNCH_BOUNDS(kThreads, 1) void box_iou_kernel(BoxIouParams p, IouForm<T> form) {
  using Item = typename Measure<K, T>::Item;
  FD_SHARED(Item, staged, kStagedRows);
  const std::int64_t m = p.rows(), n = p.columns();
  const std::int64_t tiles = ceil_div(n, kThreads), blocks = ceil_div(m, kStagedRows), at = blockIdx.x;
  const std::int64_t image = at / (blocks * tiles), row = at / tiles % blocks * kStagedRows;
  const std::int64_t column = at % tiles * kThreads + threadIdx.x;
  const int height = static_cast<int>(m - row < kStagedRows ? m - row : kStagedRows);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < height) staged[thread] = item_at<K, T>(p.rules, p.boxes1, image, row + thread, form);
  __syncthreads();
  if (column >= n) return;
  const Item item = item_at<K, T>(p.rules, p.boxes2, image, column, form);
  T* out = static_cast<T*>(p.out) + (image * m + row) * n + column;
  for (int r = 0; r < height; ++r) out[r * n] = Measure<K, T>::value(staged[r], item, form);
}

// Block: one row of one image. Its 8 warps take the tiles of kTile columns in turn, lanes adding as box_iou_math.h says; after
// each round one thread per number adds the sums of the warps in order. Writes grad1 [B, M, k].
template <IouKind K, typename T>
__global__ FD_LAUNCH_BOUNDS(kThreads, 1) void box_iou_backward1_kernel(BoxIouParams p, IouForm<T> form) {
  using M = Measure<K, T>;
  FD_SHARED(T, tile_sums, kWarps * M::kNumbers);
  const std::int64_t m = p.rows(), n = p.columns(), tiles = ceil_div(n, kTile);
  const std::int64_t image = static_cast<std::int64_t>(blockIdx.x) / m, row = static_cast<std::int64_t>(blockIdx.x) % m;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const typename M::Item item = item_at<K, T>(p.rules, p.boxes1, image, row, form);
  const T* grad = p.grad.as<const T>() + image * p.grad.stride[0] + row * p.grad.stride[1];
  T total = T{0};
  for (std::int64_t round = 0; round < tiles; round += kWarps) {
    T sums[M::kNumbers] = {};
    const std::int64_t first = (round + warp) * kTile, last = first + kTile < n ? first + kTile : n;
    for (std::int64_t j = first + lane; j < last; j += 32) {
      T ours[M::kNumbers], theirs[M::kNumbers];
      M::gradient(p.rules.format, item, item_at<K, T>(p.rules, p.boxes2, image, j, form), form, ours, theirs);
      const T g = grad[j * p.grad.stride[2]];
      for (int k = 0; k < M::kNumbers; ++k) sums[k] += g * ours[k];
    }
    for (int k = 0; k < M::kNumbers; ++k) {
      for (int half = 16; half > 0; half /= 2) sums[k] += __shfl_xor_sync(kAllLanes, sums[k], half);
      if (lane == 0) tile_sums[warp * M::kNumbers + k] = sums[k];
    }
    __syncthreads();
    if (thread < M::kNumbers) {
      for (int w = 0; w < kWarps && round + w < tiles; ++w) total += tile_sums[w * M::kNumbers + thread];
    }
    __syncthreads();
  }
  if (thread < M::kNumbers) {
    store_number(p.grad1, p.boxes1.dtype, static_cast<std::int64_t>(blockIdx.x) * M::kNumbers + thread, total);
  }
}

// Block: 32 columns of one image, a lane each; its 8 warps take pieces of kRows rows in turn; after each round the first warp
// adds the sums of all in order. Writes grad2 [B, N, k].
template <IouKind K, typename T>
__global__ FD_LAUNCH_BOUNDS(kThreads, 1) void box_iou_backward2_kernel(BoxIouParams p, IouForm<T> form) {
  using M = Measure<K, T>;
  FD_SHARED(T, piece_sums, kWarps * M::kNumbers * 32);
  const std::int64_t m = p.rows(), n = p.columns(), groups = ceil_div(n, 32), pieces = ceil_div(m, kRows);
  const std::int64_t image = static_cast<std::int64_t>(blockIdx.x) / groups;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) % groups * 32 + lane;
  const bool exists = column < n;
  const typename M::Item item = item_at<K, T>(p.rules, p.boxes2, image, exists ? column : 0, form);
  const T* grad = p.grad.as<const T>() + image * p.grad.stride[0] + (exists ? column : 0) * p.grad.stride[2];
  T total[M::kNumbers] = {};
  for (std::int64_t round = 0; round < pieces; round += kWarps) {
    T sums[M::kNumbers] = {};
    const std::int64_t first = (round + warp) * kRows, last = first + kRows < m ? first + kRows : m;
    for (std::int64_t i = first; exists && i < last; ++i) {
      T ours[M::kNumbers], theirs[M::kNumbers];
      M::gradient(p.rules.format, item_at<K, T>(p.rules, p.boxes1, image, i, form), item, form, ours, theirs);
      const T g = grad[i * p.grad.stride[1]];
      for (int k = 0; k < M::kNumbers; ++k) sums[k] += g * theirs[k];
    }
    for (int k = 0; k < M::kNumbers; ++k) piece_sums[(warp * M::kNumbers + k) * 32 + lane] = sums[k];
    __syncthreads();
    for (int w = 0; warp == 0 && w < kWarps && round + w < pieces; ++w) {
      for (int k = 0; k < M::kNumbers; ++k) total[k] += piece_sums[(w * M::kNumbers + k) * 32 + lane];
    }
    __syncthreads();
  }
  if (warp != 0 || !exists) return;
  for (int k = 0; k < M::kNumbers; ++k) {
    store_number(p.grad2, p.boxes2.dtype, (image * n + column) * M::kNumbers + k, total[k]);
  }
}

}  // namespace fastdet::pairwise_iou
