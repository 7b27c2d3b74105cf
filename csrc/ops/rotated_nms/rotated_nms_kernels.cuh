// SPDX-License-Identifier: Apache-2.0
// Beside the walk of core/suppression_kernels.cuh: preparing all boxes, the fast semantics, where every candidate is compared
// with every better one, and rows of five numbers. Block y (z in the fast kernel) is the image everywhere.
#pragma once

#include "core/suppression_kernels.cuh"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_math.h"

namespace fastdet {

constexpr int kRotatedTile = 128;   // better boxes in shared memory at once
constexpr int kRotatedSpan = 1024;  // better boxes that one block looks at

// One picture's boxes with a score each.
struct RotatedOne : ScoredSource {
  FD_D void row(std::int64_t, std::int64_t anchor, float (&numbers)[5]) const { in.row(anchor, numbers); }
  FD_D std::int64_t competes(const SelectionTask&, std::int64_t, std::int64_t, std::int64_t anchor) const {
    return in.group(anchor);
  }
};

// A batch's boxes [B, N, 5]; with the scores [B, N, C] of its classes.
struct RotatedMany {
  TensorView boxes;

  FD_D void row(std::int64_t image, std::int64_t anchor, float (&numbers)[5]) const {
    rotated_row(boxes, image, anchor, numbers);
  }
  FD_D bool usable(const SelectionTask&, std::int64_t image, std::int64_t anchor) const {
    float numbers[5];
    row(image, anchor, numbers);
    return rotated_usable(numbers);
  }
  FD_D std::int64_t competes(const SelectionTask& task, std::int64_t image, std::int64_t number, std::int64_t) const {
    return task.rule.by_label ? task.label(image, number) : 0;
  }
};
template <typename TScore>
struct RotatedManyScored : RotatedMany, ScoreColumns<TScore> {};

// The extra part of an image's workspace: prepared boxes [N] by anchor, and who has fallen [K] by place in the order.
template <typename M>
FD_D typename M::Kept* rotated_items(const SelectionTask& task, std::int64_t image) {
  return task.part<typename M::Kept>(image, task.layout.extra_at());
}
template <typename M>
FD_D std::uint32_t* rotated_fallen(const SelectionTask& task, std::int64_t image) {
  const std::int64_t items = static_cast<std::int64_t>(sizeof(typename M::Kept)) * task.rule.anchors;
  return task.part<std::uint32_t>(image, task.layout.extra_at() + SelectionLayout::padded(items));
}

// One thread per box, and per place in the order.
template <typename M, typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_prepare_kernel(SelectionTask task, Source source, M measure) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x, image = blockIdx.y;
  if (i < task.rule.anchors) {
    float row[5];
    source.row(image, i, row);
    rotated_items<M>(task, image)[i] = M::prepare(row, measure.rule);
  }
  if (i < static_cast<std::int64_t>(task.selected)) rotated_fallen<M>(task, image)[i] = 0u;
}

// Block (x, y) compares kSelectionThreads candidates of the order, one a thread, with the better ones of spans y, y + gridDim.y,
// ...
template <typename M, typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_fast_kernel(SelectionTask task, Source source, M measure,
                                                                        bool from_sorted) {
  FD_SHARED(typename M::Item, tile, kRotatedTile);
  FD_SHARED(std::int64_t, groups, kRotatedTile);
  const int t = static_cast<int>(threadIdx.x);
  const std::int64_t image = blockIdx.z, count = task.selected;
  const std::uint64_t* keys = from_sorted ? task.sorted(image) : task.keys(image);
  const typename M::Kept* items = rotated_items<M>(task, image);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads, mine = first + t;
  if (keys[first] == 0u) return;  // fewer candidates than places
  const std::int64_t most = first + kSelectionThreads < count ? first + kSelectionThreads : count;
  const std::uint64_t key = mine < count ? keys[mine] : 0u;
  const std::int64_t number = key != 0u ? static_cast<std::int64_t>(candidate_number(key)) : 0;
  const std::int64_t anchor = task.rule.anchor_of(number);
  const typename M::Item item = items[anchor];
  const std::int64_t group = source.competes(task, image, number, anchor);
  bool standing = key != 0u;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.y) * kRotatedSpan;
  for (std::int64_t span = static_cast<std::int64_t>(blockIdx.y) * kRotatedSpan; span < most; span += step) {
    for (std::int64_t begin = span; begin < span + kRotatedSpan && begin < most; begin += kRotatedTile) {
      const std::uint64_t other = t < kRotatedTile && begin + t < most ? keys[begin + t] : 0u;
      if (other != 0u) {
        const std::int64_t better = static_cast<std::int64_t>(candidate_number(other));
        tile[t] = items[task.rule.anchor_of(better)];
        groups[t] = source.competes(task, image, better, task.rule.anchor_of(better));
      }
      __syncthreads();
      const std::int64_t before = mine - begin < kRotatedTile ? mine - begin : kRotatedTile;
      for (std::int64_t i = 0; i < before && standing; ++i) {
        standing = groups[i] != group || !measure.suppresses(tile[i], item);
      }
      __syncthreads();
    }
  }
  if (key != 0u && !standing) atomicOr(&rotated_fallen<M>(task, image)[mine], 1u);
}

// One block lists the first max_det that stand, in order.
template <typename M>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_list_kernel(SelectionTask task, bool from_sorted) {
  FD_SHARED(std::uint32_t, sums, kSelectionThreads / 32 + 1);
  const std::int64_t image = blockIdx.y, count = task.selected, most = task.rule.max_det;
  const std::uint64_t* keys = from_sorted ? task.sorted(image) : task.keys(image);
  const std::uint32_t* fallen = rotated_fallen<M>(task, image);
  std::int64_t kept = 0;
  for (std::int64_t begin = 0; begin < count && kept < most && keys[begin] != 0u; begin += kSelectionThreads) {
    const std::int64_t i = begin + threadIdx.x;
    const std::uint64_t key = i < count ? keys[i] : 0u;
    const bool standing = key != 0u && fallen[i] == 0u;
    std::uint32_t total;
    const std::int64_t place = kept + block_exclusive_sum(standing ? 1u : 0u, sums, &total);
    if (standing && place < most) {
      const std::int64_t number = static_cast<std::int64_t>(candidate_number(key));
      task.rows.write(image * most + place, {0.0f, 0.0f, 0.0f, 0.0f}, candidate_score(key), task.label(image, number),
                      task.rule.anchor_of(number));
    }
    kept += total;
  }
  kept = kept < most ? kept : most;
  for (std::int64_t d = kept + threadIdx.x; d < most; d += kSelectionThreads) task.rows.clear(image * most + d);
  if (threadIdx.x == 0) task.rows.count.as<std::int32_t>()[image] = static_cast<std::int32_t>(kept);
}

// One thread per row of the result: the box that its index names, zeros where it names none. Writes out [B, D, 5].
static __global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void rotated_rows_kernel(RotatedMany source, CandidateRows rows,
                                                                               std::int64_t max_det) {
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x, image = blockIdx.y;
  if (d >= max_det) return;
  const std::int64_t at = image * max_det + d, anchor = rows.index.as<std::int32_t>()[at];
  float numbers[5] = {};
  if (anchor >= 0) source.row(image, anchor, numbers);
  for (int k = 0; k < 5; ++k) rows.boxes.as<float>()[5 * at + k] = numbers[k];
}

// Suppression of the chosen, sorted keys.
template <typename M, typename Source>
void suppress_rotated(const SelectionTask& task, const Source& source, const M& measure, bool fast, std::int64_t images,
                      bool sorted, Stream stream) {
  if (!fast) return suppress_selected_by(task, measure, source, images, sorted, stream);
  const std::int64_t count = task.selected;
  if (count > 0) {
    const std::int64_t spans = ceil_div(count, std::int64_t{kRotatedSpan}), most = 65535;
    FD_LAUNCH((rotated_fast_kernel<M, Source>),
              Dim3(ceil_div(count, std::int64_t{kSelectionThreads}), spans < most ? spans : most, images), kSelectionThreads, 0,
              stream, task, source, measure, sorted);
  }
  FD_LAUNCH(rotated_list_kernel<M>, Dim3(1, images), kSelectionThreads, 0, stream, task, sorted);
}

}  // namespace fastdet
