// SPDX-License-Identifier: Apache-2.0
// Kernels that choose the best candidates of an image. In order: histograms that find the score of the last candidate to take,
// compaction in the order of numbers, sort by runs and merges. Grid y is the image everywhere; nothing depends on the order of
// blocks or threads. A Source says where scores and boxes come from; it is passed to kernels by value:
//
//   std::uint32_t column_key(task, image, anchor, column)   score_key of one column, 0 if it is no candidate
//   bool usable(task, image, anchor)                        whether the anchor's box may be one
#pragma once

#include "core/launch.h"
#include "core/numeric.h"
#include "core/selection.h"

namespace fastdet {

constexpr int kSelectionThreads = 256;
constexpr int kSelectionBlocks = 4;  // wanted on a multiprocessor; by itself ptxas aims at eight and spills (sm_90, sm_100)

// Everything the kernels need, by value.
struct SelectionTask {
  CandidateRule rule;
  SelectionLayout layout;
  unsigned char* workspace;
  std::uint32_t selected;   // K: how many candidates are chosen
  std::uint32_t threshold;  // candidates have a greater score key
  CandidateRows rows;

  template <typename T>
  FD_D T* part(std::int64_t image, std::int64_t offset) const {
    return reinterpret_cast<T*>(workspace + image * layout.bytes() + offset);
  }
  FD_D std::uint64_t* keys(std::int64_t image) const { return part<std::uint64_t>(image, layout.keys_at()); }
  FD_D std::uint64_t* sorted(std::int64_t image) const { return part<std::uint64_t>(image, layout.sorted_at()); }
  FD_D std::uint32_t* best_key(std::int64_t image) const { return part<std::uint32_t>(image, layout.best_key_at()); }
  FD_D std::int32_t* best_label(std::int64_t image) const { return part<std::int32_t>(image, layout.best_label_at()); }
  FD_D std::uint32_t* histogram(std::int64_t image, int pass) const {
    return part<std::uint32_t>(image, layout.histogram_at()) + pass * kSelectionBins;
  }
  FD_D std::uint32_t* above(std::int64_t image) const { return part<std::uint32_t>(image, layout.above_at()); }
  FD_D std::uint32_t* equal(std::int64_t image) const { return part<std::uint32_t>(image, layout.equal_at()); }
  template <typename Kept>
  FD_D Kept* kept_box(std::int64_t image) const {
    return part<Kept>(image, layout.kept_box_at());
  }
  FD_D std::int64_t* kept_label(std::int64_t image) const { return part<std::int64_t>(image, layout.kept_label_at()); }
  FD_D std::int32_t label(std::int64_t image, std::int64_t number) const { return rule.label_of(number, best_label(image)); }
};

inline SelectionTask selection_task(const CandidateRule& rule, const SelectionLayout& layout, double score_threshold,
                                    void* workspace, const CandidateRows& rows) {
  return {rule,
          layout,
          static_cast<unsigned char*>(workspace),
          static_cast<std::uint32_t>(rule.selected()),
          threshold_key(score_threshold),
          rows};
}

// The part of a Source that reads dense scores [B, N, C], any strides.
template <typename TScore>
struct ScoreColumns {
  TensorView scores;

  FD_D std::uint32_t column_key(const SelectionTask&, std::int64_t image, std::int64_t anchor, std::int64_t column) const {
    const std::int64_t at = image * scores.stride[0] + anchor * scores.stride[1] + column * scores.stride[2];
    return score_key(to_float(scores.as<const TScore>()[at]));
  }
};

// Score key of a candidate, 0 when it does not pass the threshold or its box is not finite.
template <typename Source>
FD_D std::uint32_t candidate_score_key(const SelectionTask& task, const Source& source, std::int64_t image, std::int64_t number) {
  const std::int64_t anchor = task.rule.anchor_of(number);
  const std::uint32_t key = task.rule.multi_label ? source.column_key(task, image, anchor, number - anchor * task.rule.columns)
                                                  : task.best_key(image)[anchor];
  if (key <= task.threshold) return 0u;
  return source.usable(task, image, anchor) ? key : 0u;
}

// The first block clears the histograms. Called by the kernel that comes before selection.
FD_D void clear_histograms(const SelectionTask& task, std::int64_t image) {
  if (blockIdx.x != 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < kSelectionBins * kSelectionHistograms; i += kSelectionThreads) {
    task.histogram(image, 0)[i] = 0u;
  }
}

// Clears the histograms and, unless multi_label, finds each anchor's best column. Grid x covers anchors (at least one block).
template <typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void selection_prepare_kernel(SelectionTask task, Source source) {
  const std::int64_t image = blockIdx.y;
  clear_histograms(task, image);
  const std::int64_t anchor = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
  if (task.rule.multi_label || anchor >= task.layout.anchors) return;
  std::uint32_t best = 0u;
  std::int32_t label = 0;
  for (std::int64_t c = 0; c < task.rule.columns; ++c) {
    const std::uint32_t key = source.column_key(task, image, anchor, c);
    if (key > best) {
      best = key;
      label = static_cast<std::int32_t>(c);
    }
  }
  task.best_key(image)[anchor] = best;
  task.best_label(image)[anchor] = label;
}

// Where the K-th best score lies, found by three histograms of 11, 11 and 10 bits.
struct SelectionCut {
  std::uint32_t prefix;  // leading bits known so far
  std::uint32_t wanted;  // candidates still to take among those with this prefix
};

FD_D int selection_shift(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }
FD_D std::uint32_t selection_bin(std::uint32_t key, int pass) {
  return (key >> selection_shift(pass)) & (pass == 2 ? 1023u : 2047u);
}

// Reads the histograms of the passes before `passes`; every thread of the block gets the same answer. `sums` holds
// kSelectionThreads. Each thread owns 8 neighbouring bins, counted from the top.
FD_D SelectionCut selection_cut(const SelectionTask& task, std::int64_t image, int passes, std::uint32_t* sums,
                                SelectionCut* found) {
  constexpr int per_thread = kSelectionBins / kSelectionThreads;
  const int thread = static_cast<int>(threadIdx.x);
  SelectionCut cut{0u, task.selected};
  for (int pass = 0; pass < passes; ++pass) {
    const std::uint32_t* histogram = task.histogram(image, pass);
    std::uint32_t mine = 0u;
    for (int i = 0; i < per_thread; ++i) mine += histogram[kSelectionBins - 1 - (thread * per_thread + i)];
    sums[thread] = mine;
    if (thread == 0) *found = {cut.prefix, 0u};
    __syncthreads();
    std::uint32_t before = 0u;
    for (int i = 0; i < thread; ++i) before += sums[i];
    // Exactly one thread finds the bin in which the wanted one lies; none if there are fewer candidates than wanted.
    if (before < cut.wanted && before + mine >= cut.wanted) {
      for (int i = 0; i < per_thread; ++i) {
        const int bin = kSelectionBins - 1 - (thread * per_thread + i);
        if (before + histogram[bin] >= cut.wanted) {
          *found = {cut.prefix | (static_cast<std::uint32_t>(bin) << selection_shift(pass)), cut.wanted - before};
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
template <typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads, kSelectionBlocks) void selection_histogram_kernel(SelectionTask task,
                                                                                                 Source source, int pass) {
  FD_SHARED(std::uint32_t, counts, kSelectionBins);
  FD_SHARED(std::uint32_t, sums, kSelectionThreads);
  FD_SHARED(SelectionCut, found, 1);
  const std::int64_t image = blockIdx.y;
  const SelectionCut cut = selection_cut(task, image, pass, sums, found);
  if (pass > 0 && cut.wanted == 0u) return;  // fewer candidates than K: all are taken
  for (int i = static_cast<int>(threadIdx.x); i < kSelectionBins; i += kSelectionThreads) counts[i] = 0u;
  __syncthreads();
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kSelectionTile;
  for (std::int64_t i = begin + threadIdx.x; i < begin + kSelectionTile && i < task.rule.candidates(); i += kSelectionThreads) {
    const std::uint32_t key = candidate_score_key(task, source, image, i);
    if (key == 0u) continue;
    if (pass > 0 && (key >> selection_shift(pass - 1)) != (cut.prefix >> selection_shift(pass - 1))) continue;
    atomicAdd(&counts[selection_bin(key, pass)], 1u);
  }
  __syncthreads();
  std::uint32_t* histogram = task.histogram(image, pass);
  for (int i = static_cast<int>(threadIdx.x); i < kSelectionBins; i += kSelectionThreads) {
    if (counts[i] != 0u) atomicAdd(&histogram[i], counts[i]);
  }
}

// Per tile: how many candidates lie above the cut score and how many exactly on it. `passes` is 0 when all are taken.
template <typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads, kSelectionBlocks) void selection_count_kernel(SelectionTask task, Source source,
                                                                                             int passes) {
  FD_SHARED(std::uint32_t, sums, kSelectionThreads);
  FD_SHARED(SelectionCut, found, 1);
  FD_SHARED(std::uint32_t, totals, 2);
  const std::int64_t image = blockIdx.y;
  const SelectionCut cut = selection_cut(task, image, passes, sums, found);
  const std::uint32_t score = passes > 0 && cut.wanted > 0u ? cut.prefix : 0u;
  if (threadIdx.x < 2) totals[threadIdx.x] = 0u;
  __syncthreads();
  std::uint32_t above = 0u, equal = 0u;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kSelectionTile;
  for (std::int64_t i = begin + threadIdx.x; i < begin + kSelectionTile && i < task.rule.candidates(); i += kSelectionThreads) {
    const std::uint32_t key = candidate_score_key(task, source, image, i);
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

// Exclusive sum of `value` over the block; *total gets the whole. `sums` holds kSelectionThreads / 32 + 1.
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
    for (unsigned w = 0; w < kSelectionThreads / 32; ++w) {
      const std::uint32_t mine = sums[w];
      sums[w] = running;
      running += mine;
    }
    sums[kSelectionThreads / 32] = running;
  }
  __syncthreads();
  const std::uint32_t result = sums[warp] + inclusive - value;
  *total = sums[kSelectionThreads / 32];
  __syncthreads();
  return result;
}

// Writes the keys of the candidates taken, in the order of their numbers: all above the cut, and the first `wanted` on it. The
// last tile clears the rest.
template <typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads, kSelectionBlocks) void selection_compact_kernel(SelectionTask task, Source source,
                                                                                               int passes) {
  FD_SHARED(std::uint32_t, sums, kSelectionThreads);
  FD_SHARED(SelectionCut, found, 1);
  FD_SHARED(std::uint32_t, starts, 2);
  const std::int64_t image = blockIdx.y;
  const SelectionCut cut = selection_cut(task, image, passes, sums, found);
  const bool all = passes == 0 || cut.wanted == 0u;
  const std::uint32_t score = all ? 0u : cut.prefix;
  if (threadIdx.x < 2) starts[threadIdx.x] = 0u;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < blockIdx.x; i += kSelectionThreads) {  // candidates in earlier tiles
    atomicAdd(&starts[0], task.above(image)[i]);
    atomicAdd(&starts[1], task.equal(image)[i]);
  }
  __syncthreads();
  std::uint32_t above_at = starts[0], equal_at = starts[1];
  std::uint64_t* keys = task.keys(image);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kSelectionTile;
  for (int step = 0; step < kSelectionTile; step += kSelectionThreads) {
    const std::int64_t number = begin + step + threadIdx.x;
    const std::uint32_t key = number < task.rule.candidates() ? candidate_score_key(task, source, image, number) : 0u;
    const std::uint32_t is_above = key > score ? 1u : 0u;
    const std::uint32_t is_equal = !all && key == score && key != 0u ? 1u : 0u;
    std::uint32_t above_total, equal_total;
    const std::uint32_t above_rank = above_at + block_exclusive_sum(is_above, sums, &above_total);
    const std::uint32_t equal_rank = equal_at + block_exclusive_sum(is_equal, sums, &equal_total);
    if (is_above != 0u || (is_equal != 0u && equal_rank < cut.wanted)) {
      const std::uint32_t taken_equal = all ? 0u : (equal_rank < cut.wanted ? equal_rank : cut.wanted);
      keys[above_rank + taken_equal] = candidate_key(key, static_cast<std::uint32_t>(number));
    }
    above_at += above_total;
    equal_at += equal_total;
  }
  if (blockIdx.x != gridDim.x - 1) return;
  const std::int64_t filled = static_cast<std::int64_t>(above_at) + (all ? 0u : cut.wanted);
  for (std::int64_t i = filled + threadIdx.x; i < task.layout.keys(); i += kSelectionThreads) keys[i] = 0u;
}

// Sorts one run of kSelectionRun keys in shared memory, falling, by a bitonic network.
static __global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void selection_sort_kernel(SelectionTask task) {
  FD_SHARED(std::uint64_t, run, kSelectionRun);
  std::uint64_t* keys = task.keys(blockIdx.y) + static_cast<std::int64_t>(blockIdx.x) * kSelectionRun;
  for (int i = static_cast<int>(threadIdx.x); i < kSelectionRun; i += kSelectionThreads) run[i] = keys[i];
  __syncthreads();
  for (int size = 2; size <= kSelectionRun; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < kSelectionRun / 2; i += kSelectionThreads) {
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
  for (int i = static_cast<int>(threadIdx.x); i < kSelectionRun; i += kSelectionThreads) keys[i] = run[i];
}

// Merges neighbouring sorted stretches of `length` keys. Keys are distinct but for the zeros at the end, so each one's place is
// its own offset plus its rank in the other stretch; among equal zeros the left ones come first.
static __global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void selection_merge_kernel(SelectionTask task, std::int64_t length,
                                                                                  bool from_sorted) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
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

// Writes the rows of the result from keys in order, without suppression. Grid x covers rows (at least one block).
template <typename Boxes>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void selection_rows_kernel(SelectionTask task, Boxes boxes, bool from_sorted) {
  const std::int64_t image = blockIdx.y;
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
  const std::uint64_t* keys = from_sorted ? task.sorted(image) : task.keys(image);
  const std::int64_t count = task.layout.keys(), at = image * task.rule.max_det + d;
  const std::uint64_t key = d < count ? keys[d] : 0u;
  if (d < task.rule.max_det) {
    if (key == 0u) {
      task.rows.clear(at);
    } else {
      const std::int64_t number = candidate_number(key), anchor = task.rule.anchor_of(number);
      task.rows.write(at, boxes.box(task, image, anchor), candidate_score(key), task.label(image, number), anchor);
    }
  }
  // Exactly one thread sees the last row that is filled, or the first if none is.
  const bool filled = d < task.rule.max_det && key != 0u;
  const bool last = filled && (d + 1 == task.rule.max_det || d + 1 >= count || keys[d + 1] == 0u);
  if (last) task.rows.count.as<std::int32_t>()[image] = static_cast<std::int32_t>(d + 1);
  if (d == 0 && !filled) task.rows.count.as<std::int32_t>()[image] = 0;
}

// Chooses the best candidates and leaves their keys in task.keys(), in the order of their numbers. The histograms are clear.
template <typename Source>
void select_candidates(const SelectionTask& task, const Source& source, std::int64_t images, Stream stream) {
  const Dim3 tiles(task.layout.tiles, images);
  const int passes = task.rule.candidates() > task.rule.max_candidates ? kSelectionHistograms : 0;
  for (int pass = 0; pass < passes; ++pass) {
    FD_LAUNCH(selection_histogram_kernel<Source>, tiles, kSelectionThreads, 0, stream, task, source, pass);
  }
  FD_LAUNCH(selection_count_kernel<Source>, tiles, kSelectionThreads, 0, stream, task, source, passes);
  FD_LAUNCH(selection_compact_kernel<Source>, tiles, kSelectionThreads, 0, stream, task, source, passes);
}

// Sorts the chosen keys, falling; returns whether they end in task.sorted().
inline bool sort_selected(const SelectionTask& task, std::int64_t images, Stream stream) {
  FD_LAUNCH(selection_sort_kernel, Dim3(task.layout.runs, images), kSelectionThreads, 0, stream, task);
  bool in_sorted = false;
  for (std::int64_t length = kSelectionRun; length < task.layout.keys(); length *= 2) {
    FD_LAUNCH(selection_merge_kernel, Dim3(ceil_div(task.layout.keys(), kSelectionThreads), images), kSelectionThreads, 0, stream,
              task, length, in_sorted);
    in_sorted = !in_sorted;
  }
  return in_sorted;
}

}  // namespace fastdet
