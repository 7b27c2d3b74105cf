// SPDX-License-Identifier: Apache-2.0
// Every candidate of the order is compared with all better ones, twice: for its greatest IoU, then for its greatest loss. One
// picture.
#pragma once

#include "core/selection_kernels.cuh"
#include "ops/matrix_nms/matrix_nms.h"
#include "ops/matrix_nms/matrix_nms_math.h"

namespace fastdet {

constexpr int kMatrixTile = 128;   // better boxes in shared memory at once
constexpr int kMatrixSpan = 1024;  // better boxes that one block looks at

// Per place in the order; maxima of non-negative numbers do not depend on the order in which they come.
struct MatrixSource {
  ScoredBoxes in;
  std::int32_t* most;  // bits of the greatest IoU with a better one
  std::int32_t* loss;

  FD_D Box box(const SelectionTask&, std::int64_t, std::int64_t anchor) const { return in.box(anchor); }
};

struct MatrixTile {
  Box box[kMatrixTile];
  float area[kMatrixTile];
  float most[kMatrixTile];
  std::int64_t group[kMatrixTile];
};

static __global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void matrix_clear_kernel(MatrixSource source) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
  if (i >= source.in.count()) return;
  source.most[i] = 0;
  source.loss[i] = 0;
}

// Block (x, y) compares kSelectionThreads candidates of the order, one a thread, with the better ones of spans y, y + gridDim.y,
// ... kLoss: the second look.
template <bool kLoss, typename Decay>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void matrix_compare_kernel(SelectionTask task, MatrixSource source, Decay decay,
                                                                          bool from_sorted) {
  FD_SHARED(MatrixTile, tile, 1);
  const int t = static_cast<int>(threadIdx.x);
  const std::uint64_t* keys = from_sorted ? task.sorted(0) : task.keys(0);
  const std::int64_t count = source.in.count();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads, mine = first + t;
  const std::int64_t most = first + kSelectionThreads < count ? first + kSelectionThreads : count;
  const std::uint64_t key = mine < count ? keys[mine] : 0u;
  const std::int64_t number = key != 0u ? static_cast<std::int64_t>(candidate_number(key)) : 0;
  const Box box = source.in.box(number);
  const float area = box_area(box);
  const std::int64_t group = source.in.group(number);
  std::int32_t found = 0;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.y) * kMatrixSpan;
  for (std::int64_t span = static_cast<std::int64_t>(blockIdx.y) * kMatrixSpan; span < most; span += step) {
    for (std::int64_t begin = span; begin < span + kMatrixSpan && begin < most; begin += kMatrixTile) {
      const std::uint64_t other = t < kMatrixTile && begin + t < most ? keys[begin + t] : 0u;
      if (other != 0u) {
        tile->box[t] = source.in.box(candidate_number(other));
        tile->area[t] = box_area(tile->box[t]);
        tile->most[t] = kLoss ? bit_cast<float>(source.most[begin + t]) : 0.0f;
        tile->group[t] = source.in.group(candidate_number(other));
      }
      __syncthreads();
      const std::int64_t better = mine - begin < kMatrixTile ? mine - begin : kMatrixTile;
      for (std::int64_t i = 0; i < better && key != 0u; ++i) {
        const float common = box_intersection(tile->box[i], box);
        if (!(common > 0.0f) || tile->group[i] != group) continue;
        const float iou = matrix_overlap(common, tile->area[i], area);
        const std::int32_t value = kLoss ? decay.loss(iou, tile->most[i]) : matrix_bits(iou);
        found = found < value ? value : found;
      }
      __syncthreads();
    }
  }
  if (found > 0) atomicMax(kLoss ? &source.loss[mine] : &source.most[mine], found);
}

// New keys, into task.keys(): what is left of the scores, 0 where that is not above the threshold.
template <typename Decay>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void matrix_rescore_kernel(SelectionTask task, MatrixSource source, Decay decay,
                                                                          bool from_sorted) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
  if (i >= task.layout.keys()) return;
  const std::uint64_t key = from_sorted ? task.sorted(0)[i] : task.keys(0)[i];
  std::uint64_t fresh = 0u;
  if (key != 0u) {
    const std::uint32_t score = score_key(candidate_score(key) * decay.factor(source.loss[i]));
    if (score > task.threshold) fresh = candidate_key(score, candidate_number(key));
  }
  task.keys(0)[i] = fresh;
}

}  // namespace fastdet
