// SPDX-License-Identifier: Apache-2.0
// Kernels of NMS. In order: best class of each anchor, histograms that find the score of the last candidate to take, compaction,
// sort by runs and merges, and the walk. Grid y is the image everywhere; nothing depends on the order of blocks or threads.
#pragma once

#include "core/launch.h"
#include "core/numeric.h"
#include "ops/nms/nms.h"
#include "ops/nms/nms_layout.h"
#include "ops/nms/nms_math.h"

namespace fastdet {

constexpr int kNmsThreads = 256;
constexpr int kNmsBlocks = 4;   // wanted on a multiprocessor; by itself ptxas aims at eight and spills for it (sm_90, sm_100)
constexpr int kNmsChunk = 128;  // candidates the walk decides at once

// Everything a kernel needs, by value.
struct NmsTask {
  TensorView boxes, scores, groups;
  NmsLayout layout;
  unsigned char* workspace;
  std::int64_t columns, candidates;
  std::uint32_t selected;   // K: how many candidates may enter the walk
  std::uint32_t threshold;  // candidates have a greater score key
  float iou_threshold;
  bool multi_label, by_label, by_group;
  std::int64_t max_det;
  TensorView out_boxes, out_scores, out_labels, out_index, out_count;

  template <typename T>
  FD_D T* part(std::int64_t image, std::int64_t offset) const {
    return reinterpret_cast<T*>(workspace + image * layout.bytes() + offset);
  }
  FD_D std::uint64_t* keys(std::int64_t image) const { return part<std::uint64_t>(image, layout.keys_at()); }
  FD_D std::uint64_t* sorted(std::int64_t image) const { return part<std::uint64_t>(image, layout.sorted_at()); }
  FD_D std::uint32_t* best_key(std::int64_t image) const { return part<std::uint32_t>(image, layout.best_key_at()); }
  FD_D std::int32_t* best_label(std::int64_t image) const { return part<std::int32_t>(image, layout.best_label_at()); }
  FD_D std::uint32_t* histogram(std::int64_t image, int pass) const {
    return part<std::uint32_t>(image, layout.histogram_at()) + pass * kNmsBins;
  }
  FD_D std::uint32_t* above(std::int64_t image) const { return part<std::uint32_t>(image, layout.above_at()); }
  FD_D std::uint32_t* equal(std::int64_t image) const { return part<std::uint32_t>(image, layout.equal_at()); }
  FD_D Box* kept_box(std::int64_t image) const { return part<Box>(image, layout.kept_box_at()); }
  FD_D std::int64_t* kept_label(std::int64_t image) const { return part<std::int64_t>(image, layout.kept_label_at()); }
};

template <typename T>
FD_D Box task_box(const NmsTask& task, std::int64_t image, std::int64_t anchor) {
  const T* boxes = task.boxes.as<const T>() + image * task.boxes.stride[0] + anchor * task.boxes.stride[1];
  return load_box(boxes, task.boxes.stride[2]);
}

// Score key of a candidate, 0 when it does not pass the threshold or its box is not finite.
template <typename TBox, typename TScore>
FD_D std::uint32_t candidate_score_key(const NmsTask& task, std::int64_t image, std::int64_t number) {
  std::int64_t anchor = number;
  std::uint32_t key;
  if (task.multi_label) {
    anchor = number / task.columns;
    const TensorView& scores = task.scores;
    const std::int64_t column = number - anchor * task.columns;
    const std::int64_t at = image * scores.stride[0] + anchor * scores.stride[1] + column * scores.stride[2];
    key = score_key(to_float(scores.as<const TScore>()[at]));
  } else {
    key = task.best_key(image)[anchor];
  }
  if (key <= task.threshold) return 0u;
  return box_finite(task_box<TBox>(task, image, anchor)) ? key : 0u;
}

// Clears the histograms and, unless multi_label, finds each anchor's best column. Grid x covers anchors (at least one block).
template <typename TScore>
__global__ FD_LAUNCH_BOUNDS(kNmsThreads) void nms_prepare_kernel(NmsTask task) {
  const std::int64_t image = blockIdx.y;
  if (blockIdx.x == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < kNmsBins * kNmsHistograms; i += kNmsThreads) task.histogram(image, 0)[i] = 0u;
  }
  const std::int64_t anchor = static_cast<std::int64_t>(blockIdx.x) * kNmsThreads + threadIdx.x;
  if (task.multi_label || anchor >= task.layout.anchors) return;
  const TScore* scores = task.scores.as<const TScore>() + image * task.scores.stride[0] + anchor * task.scores.stride[1];
  std::uint32_t best = 0u;
  std::int32_t label = 0;
  for (std::int64_t c = 0; c < task.columns; ++c) {
    const std::uint32_t key = score_key(to_float(scores[c * task.scores.stride[2]]));
    if (key > best) {
      best = key;
      label = static_cast<std::int32_t>(c);
    }
  }
  task.best_key(image)[anchor] = best;
  task.best_label(image)[anchor] = label;
}

// Where the K-th best score lies, found by three histograms of 11, 11 and 10 bits.
struct NmsCut {
  std::uint32_t prefix;  // leading bits known so far
  std::uint32_t wanted;  // candidates still to take among those with this prefix
};

FD_D int nms_shift(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }
FD_D std::uint32_t nms_bin(std::uint32_t key, int pass) { return (key >> nms_shift(pass)) & (pass == 2 ? 1023u : 2047u); }

// Reads the histograms of the passes before `passes`; every thread of the block gets the same answer. `sums` holds kNmsThreads.
// Each thread owns 8 neighbouring bins, counted from the top.
FD_D NmsCut nms_cut(const NmsTask& task, std::int64_t image, int passes, std::uint32_t* sums, NmsCut* found) {
  constexpr int per_thread = kNmsBins / kNmsThreads;
  const int thread = static_cast<int>(threadIdx.x);
  NmsCut cut{0u, task.selected};
  for (int pass = 0; pass < passes; ++pass) {
    const std::uint32_t* histogram = task.histogram(image, pass);
    std::uint32_t mine = 0u;
    for (int i = 0; i < per_thread; ++i) mine += histogram[kNmsBins - 1 - (thread * per_thread + i)];
    sums[thread] = mine;
    if (thread == 0) *found = {cut.prefix, 0u};
    __syncthreads();
    std::uint32_t before = 0u;
    for (int i = 0; i < thread; ++i) before += sums[i];
    // Exactly one thread finds the bin in which the wanted one lies; none if there are fewer candidates than wanted.
    if (before < cut.wanted && before + mine >= cut.wanted) {
      for (int i = 0; i < per_thread; ++i) {
        const int bin = kNmsBins - 1 - (thread * per_thread + i);
        if (before + histogram[bin] >= cut.wanted) {
          *found = {cut.prefix | (static_cast<std::uint32_t>(bin) << nms_shift(pass)), cut.wanted - before};
          break;
        }
        before += histogram[bin];
      }
    }
    __syncthreads();
    cut = *found;
    __syncthreads();
    if (cut.wanted == 0u) return cut;
  }
  return cut;
}

// Counts the candidates of one tile by the bits of this pass, among those that share the prefix found so far.
template <typename TBox, typename TScore>
__global__ FD_LAUNCH_BOUNDS(kNmsThreads, kNmsBlocks) void nms_histogram_kernel(NmsTask task, int pass) {
  FD_SHARED(std::uint32_t, counts, kNmsBins);
  FD_SHARED(std::uint32_t, sums, kNmsThreads);
  FD_SHARED(NmsCut, found, 1);
  const std::int64_t image = blockIdx.y;
  const NmsCut cut = nms_cut(task, image, pass, sums, found);
  if (pass > 0 && cut.wanted == 0u) return;  // fewer candidates than K: all are taken
  for (int i = static_cast<int>(threadIdx.x); i < kNmsBins; i += kNmsThreads) counts[i] = 0u;
  __syncthreads();
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kNmsTile;
  for (std::int64_t i = begin + threadIdx.x; i < begin + kNmsTile && i < task.candidates; i += kNmsThreads) {
    const std::uint32_t key = candidate_score_key<TBox, TScore>(task, image, i);
    if (key == 0u) continue;
    if (pass > 0 && (key >> nms_shift(pass - 1)) != (cut.prefix >> nms_shift(pass - 1))) continue;
    atomicAdd(&counts[nms_bin(key, pass)], 1u);
  }
  __syncthreads();
  std::uint32_t* histogram = task.histogram(image, pass);
  for (int i = static_cast<int>(threadIdx.x); i < kNmsBins; i += kNmsThreads) {
    if (counts[i] != 0u) atomicAdd(&histogram[i], counts[i]);
  }
}

// Per tile: how many candidates lie above the cut score and how many exactly on it. `passes` is 0 when all are taken.
template <typename TBox, typename TScore>
__global__ FD_LAUNCH_BOUNDS(kNmsThreads, kNmsBlocks) void nms_count_kernel(NmsTask task, int passes) {
  FD_SHARED(std::uint32_t, sums, kNmsThreads);
  FD_SHARED(NmsCut, found, 1);
  FD_SHARED(std::uint32_t, totals, 2);
  const std::int64_t image = blockIdx.y;
  const NmsCut cut = nms_cut(task, image, passes, sums, found);
  const std::uint32_t score = passes > 0 && cut.wanted > 0u ? cut.prefix : 0u;
  if (threadIdx.x < 2) totals[threadIdx.x] = 0u;
  __syncthreads();
  std::uint32_t above = 0u, equal = 0u;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kNmsTile;
  for (std::int64_t i = begin + threadIdx.x; i < begin + kNmsTile && i < task.candidates; i += kNmsThreads) {
    const std::uint32_t key = candidate_score_key<TBox, TScore>(task, image, i);
    above += key > score ? 1u : 0u;
    equal += key == score && key != 0u ? 1u : 0u;
  }
  if (above != 0u) atomicAdd(&totals[0], above);
  if (equal != 0u) atomicAdd(&totals[1], equal);
  __syncthreads();
  if (threadIdx.x == 0) {
    task.above(image)[blockIdx.x] = totals[0];
    task.equal(image)[blockIdx.x] = totals[1];
  }
}

// Exclusive sum of `value` over the block; *total gets the whole. `sums` holds kNmsThreads / 32 + 1.
FD_D std::uint32_t block_exclusive_sum(std::uint32_t value, std::uint32_t* sums, std::uint32_t* total) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  std::uint32_t inclusive = value;
  for (unsigned step = 1; step < 32; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(0xffffffffu, inclusive, step);
    if (lane >= step) inclusive += other;
  }
  if (lane == 31) sums[warp] = inclusive;
  __syncthreads();
  if (threadIdx.x == 0) {
    std::uint32_t running = 0u;
    for (unsigned w = 0; w < kNmsThreads / 32; ++w) {
      const std::uint32_t mine = sums[w];
      sums[w] = running;
      running += mine;
    }
    sums[kNmsThreads / 32] = running;
  }
  __syncthreads();
  const std::uint32_t result = sums[warp] + inclusive - value;
  *total = sums[kNmsThreads / 32];
  __syncthreads();
  return result;
}

// Writes the keys of the candidates taken: all above the cut, and the first `wanted` on it. The last tile clears the rest.
template <typename TBox, typename TScore>
__global__ FD_LAUNCH_BOUNDS(kNmsThreads, kNmsBlocks) void nms_compact_kernel(NmsTask task, int passes) {
  FD_SHARED(std::uint32_t, sums, kNmsThreads);
  FD_SHARED(NmsCut, found, 1);
  FD_SHARED(std::uint32_t, starts, 4);
  const std::int64_t image = blockIdx.y;
  const NmsCut cut = nms_cut(task, image, passes, sums, found);
  const bool all = passes == 0 || cut.wanted == 0u;
  const std::uint32_t score = all ? 0u : cut.prefix;
  if (threadIdx.x < 4) starts[threadIdx.x] = 0u;
  __syncthreads();
  // Candidates above in earlier tiles, on the cut in earlier tiles, above in all tiles.
  for (std::int64_t i = threadIdx.x; i < task.layout.tiles; i += kNmsThreads) {
    if (i < blockIdx.x) {
      atomicAdd(&starts[0], task.above(image)[i]);
      atomicAdd(&starts[1], task.equal(image)[i]);
    }
    atomicAdd(&starts[2], task.above(image)[i]);
  }
  __syncthreads();
  std::uint32_t above_at = starts[0], equal_at = starts[1];
  const std::uint32_t first_equal = starts[2];
  std::uint64_t* keys = task.keys(image);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kNmsTile;
  for (int step = 0; step < kNmsTile; step += kNmsThreads) {
    const std::int64_t number = begin + step + threadIdx.x;
    const std::uint32_t key = number < task.candidates ? candidate_score_key<TBox, TScore>(task, image, number) : 0u;
    const std::uint32_t is_above = key > score ? 1u : 0u;
    const std::uint32_t is_equal = !all && key == score && key != 0u ? 1u : 0u;
    std::uint32_t above_total, equal_total;
    const std::uint32_t above_rank = above_at + block_exclusive_sum(is_above, sums, &above_total);
    const std::uint32_t equal_rank = equal_at + block_exclusive_sum(is_equal, sums, &equal_total);
    const std::uint64_t full = candidate_key(key, static_cast<std::uint32_t>(number));
    if (is_above != 0u) keys[above_rank] = full;
    if (is_equal != 0u && equal_rank < cut.wanted) keys[first_equal + equal_rank] = full;
    above_at += above_total;
    equal_at += equal_total;
  }
  if (blockIdx.x != gridDim.x - 1) return;
  const std::int64_t filled = all ? first_equal : first_equal + cut.wanted;
  for (std::int64_t i = filled + threadIdx.x; i < task.layout.keys(); i += kNmsThreads) keys[i] = 0u;
}

// Sorts one run of kNmsRun keys in shared memory, falling, by a bitonic network.
__global__ FD_LAUNCH_BOUNDS(kNmsThreads) void nms_sort_kernel(NmsTask task) {
  FD_SHARED(std::uint64_t, run, kNmsRun);
  std::uint64_t* keys = task.keys(blockIdx.y) + static_cast<std::int64_t>(blockIdx.x) * kNmsRun;
  for (int i = static_cast<int>(threadIdx.x); i < kNmsRun; i += kNmsThreads) run[i] = keys[i];
  __syncthreads();
  for (int size = 2; size <= kNmsRun; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < kNmsRun / 2; i += kNmsThreads) {
        const int low = 2 * i - (i & (stride - 1));
        const bool falling = (low & size) == 0;
        const std::uint64_t a = run[low], b = run[low + stride];
        if ((a < b) == falling) {
          run[low] = b;
          run[low + stride] = a;
        }
      }
      __syncthreads();
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < kNmsRun; i += kNmsThreads) keys[i] = run[i];
}

// Merges neighbouring sorted stretches of `length` keys. Keys are distinct but for the zeros at the end, so each one's place is
// its own offset plus its rank in the other stretch; among equal zeros the left ones come first.
__global__ FD_LAUNCH_BOUNDS(kNmsThreads) void nms_merge_kernel(NmsTask task, std::int64_t length, bool from_sorted) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kNmsThreads + threadIdx.x;
  const std::int64_t count = task.layout.keys();
  if (i >= count) return;
  const std::uint64_t* from = from_sorted ? task.sorted(blockIdx.y) : task.keys(blockIdx.y);
  std::uint64_t* to = from_sorted ? task.keys(blockIdx.y) : task.sorted(blockIdx.y);
  const std::int64_t pair = i / (2 * length) * (2 * length);
  const bool left = i < pair + length;
  const std::int64_t other = left ? pair + length : pair;
  const std::uint64_t key = from[i];
  // Keys of the other stretch that come before this one.
  std::int64_t low = 0, high = other < count ? (other + length < count ? length : count - other) : 0;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    const bool before = left ? from[other + middle] > key : from[other + middle] >= key;
    low = before ? middle + 1 : low;
    high = before ? high : middle;
  }
  to[left ? i + low : i - length + low] = key;
}

}  // namespace fastdet
