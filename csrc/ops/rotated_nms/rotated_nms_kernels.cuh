// SPDX-License-Identifier: Apache-2.0
// Beside the walk of core/suppression_kernels.cuh: preparing all boxes, and the fast semantics, where every candidate is compared
// with every better one. One picture.
#pragma once

#include "core/suppression_kernels.cuh"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_math.h"

namespace fastdet {

constexpr int kRotatedTile = 128;   // better boxes in shared memory at once
constexpr int kRotatedSpan = 1024;  // better boxes that one block looks at

// Prepared boxes [N], by number, and who has fallen [N], by place in the order.
template <typename M>
struct RotatedSource {
  ScoredBoxes in;
  typename M::Kept* items;
  std::uint32_t* fallen;

  FD_D std::int64_t competes(const SelectionTask&, std::int64_t, std::int64_t, std::int64_t anchor) const {
    return in.group(anchor);
  }
};

// One thread per box.
template <typename M>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_prepare_kernel(RotatedSource<M> source, M measure) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
  if (i >= source.in.count()) return;
  float row[5];
  source.in.row(i, row);
  source.items[i] = M::prepare(row, measure.rule);
  source.fallen[i] = 0u;
}

// Block (x, y) compares kSelectionThreads candidates of the order, one a thread, with the better ones of spans y, y + gridDim.y,
// ...
template <typename M>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_fast_kernel(SelectionTask task, RotatedSource<M> source, M measure,
                                                                        bool from_sorted) {
  FD_SHARED(typename M::Item, tile, kRotatedTile);
  FD_SHARED(std::int64_t, groups, kRotatedTile);
  const int t = static_cast<int>(threadIdx.x);
  const std::uint64_t* keys = from_sorted ? task.sorted(0) : task.keys(0);
  const std::int64_t count = source.in.count();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads, mine = first + t;
  const std::int64_t most = first + kSelectionThreads < count ? first + kSelectionThreads : count;
  const std::uint64_t key = mine < count ? keys[mine] : 0u;
  const std::int64_t number = key != 0u ? static_cast<std::int64_t>(candidate_number(key)) : 0;
  const typename M::Item item = source.items[number];
  const std::int64_t group = source.in.group(number);
  bool standing = key != 0u;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.y) * kRotatedSpan;
  for (std::int64_t span = static_cast<std::int64_t>(blockIdx.y) * kRotatedSpan; span < most; span += step) {
    for (std::int64_t begin = span; begin < span + kRotatedSpan && begin < most; begin += kRotatedTile) {
      const std::uint64_t other = t < kRotatedTile && begin + t < most ? keys[begin + t] : 0u;
      if (other != 0u) {
        tile[t] = source.items[candidate_number(other)];
        groups[t] = source.in.group(candidate_number(other));
      }
      __syncthreads();
      const std::int64_t before = mine - begin < kRotatedTile ? mine - begin : kRotatedTile;
      for (std::int64_t i = 0; i < before && standing; ++i) {
        standing = groups[i] != group || !measure.suppresses(tile[i], item);
      }
      __syncthreads();
    }
  }
  if (key != 0u && !standing) atomicOr(&source.fallen[mine], 1u);
}

// One block lists what stands, in order.
template <typename M>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_list_kernel(SelectionTask task, RotatedSource<M> source,
                                                                        bool from_sorted) {
  FD_SHARED(std::uint32_t, sums, kSelectionThreads / 32 + 1);
  const std::uint64_t* keys = from_sorted ? task.sorted(0) : task.keys(0);
  const std::int64_t count = source.in.count();
  std::int64_t kept = 0;
  for (std::int64_t begin = 0; begin < count; begin += kSelectionThreads) {
    const std::int64_t i = begin + threadIdx.x;
    const std::uint64_t key = i < count ? keys[i] : 0u;
    const bool standing = key != 0u && source.fallen[i] == 0u;
    std::uint32_t total;
    const std::uint32_t place = block_exclusive_sum(standing ? 1u : 0u, sums, &total);
    if (standing) {
      task.rows.write(kept + place, {0.0f, 0.0f, 0.0f, 0.0f}, candidate_score(key), 0,
                      static_cast<std::int64_t>(candidate_number(key)));
    }
    kept += total;
  }
  for (std::int64_t d = kept + threadIdx.x; d < count; d += kSelectionThreads) task.rows.clear(d);
  if (threadIdx.x == 0) task.rows.count.as<std::int32_t>()[0] = static_cast<std::int32_t>(kept);
}

}  // namespace fastdet
