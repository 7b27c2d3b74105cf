// SPDX-License-Identifier: Apache-2.0
// The walk of suppression on CUDA: one block per image visits candidates in order, a chunk at a time. Beside selection's words a
// Source has
//
//   Box box(task, image, anchor)                         for the measures of core/suppression.h; others say what they read
//   std::int64_t competes(task, image, number, anchor)   class or group, what decides who competes; 0 when nobody is told apart
//
// A Measure, passed by value, tells which box makes another fall: types Kept, what is remembered of a kept box, and Item, what
// comparisons use; Kept load(source, task, image, anchor); Item item(Kept); bool suppresses(better Item, Item); Box
// corners(Item), for the rows of the result. The layout's `item` is sizeof(Kept).
#pragma once

#include "core/selection_kernels.cuh"
#include "core/walk_measure.h"

namespace fastdet {

constexpr int kWalkChunk = 128;  // candidates decided at once

template <typename Measure>
struct WalkChunk {
  typename Measure::Kept box[kWalkChunk];
  typename Measure::Item item[kWalkChunk];
  std::int64_t label[kWalkChunk];  // class or group, what decides who competes; 0 for everybody when nobody is told apart
  std::uint64_t key[kWalkChunk];
  std::uint32_t alive[4];              // candidates not yet fallen, one bit each
  std::uint32_t falls[kWalkChunk][4];  // later candidates that fall when this one is kept
  std::int32_t kept[kWalkChunk];       // numbers inside the chunk of those kept, in order
  std::int32_t kept_count;
};

constexpr int kWalkSlices = kSelectionThreads / kWalkChunk;

// Loads candidates [begin, begin + kWalkChunk); returns whether any is left.
template <typename Measure, typename Source>
FD_D bool walk_load_chunk(const SelectionTask& task, const Measure& measure, const Source& source, std::int64_t image,
                          const std::uint64_t* keys, std::int64_t begin, WalkChunk<Measure>* chunk) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 4) chunk->alive[t] = 0u;
  __syncthreads();
  if (t < kWalkChunk) {
    const std::uint64_t key = begin + t < task.layout.keys() ? keys[begin + t] : 0u;
    chunk->key[t] = key;
    if (key != 0u) {
      const std::int64_t number = candidate_number(key);
      const std::int64_t anchor = task.rule.anchor_of(number);
      const typename Measure::Kept box = measure.load(source, task, image, anchor);
      chunk->box[t] = box;
      chunk->item[t] = measure.item(box);
      chunk->label[t] = source.competes(task, image, number, anchor);
      atomicOr(&chunk->alive[t / 32], 1u << (t % 32));
    }
  }
  __syncthreads();
  return chunk->key[0] != 0u;
}

// Fells candidates that overlap a box kept from earlier chunks. Thread (candidate, slice) looks at every kWalkSlices-th kept box.
template <typename Measure>
FD_D void walk_against_kept(const SelectionTask& task, const Measure& measure, std::int64_t image, std::int64_t kept,
                            WalkChunk<Measure>* chunk) {
  const int candidate = static_cast<int>(threadIdx.x) % kWalkChunk, slice = static_cast<int>(threadIdx.x) / kWalkChunk;
  if (chunk->key[candidate] != 0u) {
    const typename Measure::Item item = chunk->item[candidate];
    const std::int64_t label = chunk->label[candidate];
    const auto* kept_boxes = task.template kept_box<typename Measure::Kept>(image);
    const std::int64_t* kept_labels = task.kept_label(image);
    for (std::int64_t i = slice; i < kept; i += kWalkSlices) {
      if (kept_labels[i] == label && measure.suppresses(measure.item(kept_boxes[i]), item)) {
        atomicAnd(&chunk->alive[candidate / 32], ~(1u << (candidate % 32)));
        break;
      }
    }
  }
  __syncthreads();
}

// Rows of the chunk's own overlap matrix: thread (candidate, half) makes two of the four words.
template <typename Measure>
FD_D void walk_against_itself(const Measure& measure, WalkChunk<Measure>* chunk) {
  const int candidate = static_cast<int>(threadIdx.x) % kWalkChunk, slice = static_cast<int>(threadIdx.x) / kWalkChunk;
  for (int word = slice; word < 4; word += kWalkSlices) {
    std::uint32_t falls = 0u;
    if (chunk->key[candidate] != 0u) {
      for (int bit = 0; bit < 32; ++bit) {
        const int later = 32 * word + bit;
        if (later <= candidate || chunk->key[later] == 0u || chunk->label[later] != chunk->label[candidate]) continue;
        if (measure.suppresses(chunk->item[candidate], chunk->item[later])) falls |= 1u << bit;
      }
    }
    chunk->falls[candidate][word] = falls;
  }
  __syncthreads();
}

// One thread visits the survivors in order; at most `room` are kept.
template <typename Measure>
FD_D void walk_resolve(WalkChunk<Measure>* chunk, std::int64_t room) {
  if (threadIdx.x == 0) {
    std::int32_t count = 0;
    for (int word = 0; word < 4; ++word) {
      while (chunk->alive[word] != 0u && count < room) {
        const int candidate = 32 * word + __ffs(static_cast<int>(chunk->alive[word])) - 1;
        chunk->kept[count++] = candidate;
        chunk->alive[word] &= ~(1u << (candidate % 32));
        for (int later = word; later < 4; ++later) chunk->alive[later] &= ~chunk->falls[candidate][later];
      }
    }
    chunk->kept_count = count;
  }
  __syncthreads();
}

// Block y of the grid owns image y: its kept list (global memory, read through the cache) and its rows of the result.
template <typename Measure, typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void suppression_walk_kernel(SelectionTask task, Measure measure, Source source,
                                                                            bool from_sorted) {
  FD_SHARED(WalkChunk<Measure>, chunk, 1);
  const std::int64_t image = blockIdx.y;
  const int t = static_cast<int>(threadIdx.x);
  const std::uint64_t* keys = from_sorted ? task.sorted(image) : task.keys(image);
  std::int64_t kept = 0;
  for (std::int64_t begin = 0; begin < task.layout.keys() && kept < task.rule.max_det; begin += kWalkChunk) {
    if (!walk_load_chunk(task, measure, source, image, keys, begin, chunk)) break;
    walk_against_kept(task, measure, image, kept, chunk);
    walk_against_itself(measure, chunk);
    walk_resolve(chunk, task.rule.max_det - kept);
    const std::int32_t fresh = chunk->kept_count;
    if (t < fresh) {
      const int candidate = chunk->kept[t];
      const std::uint64_t key = chunk->key[candidate];
      const std::int64_t number = candidate_number(key);
      const std::int64_t anchor = task.rule.anchor_of(number);
      task.template kept_box<typename Measure::Kept>(image)[kept + t] = chunk->box[candidate];
      task.kept_label(image)[kept + t] = chunk->label[candidate];
      task.rows.write(image * task.rule.max_det + kept + t, measure.corners(chunk->item[candidate]), candidate_score(key),
                      task.label(image, number), anchor);
    }
    kept += fresh;
    __syncthreads();
  }
  for (std::int64_t d = kept + t; d < task.rule.max_det; d += kSelectionThreads) {
    task.rows.clear(image * task.rule.max_det + d);
  }
  if (t == 0) task.rows.count.as<std::int32_t>()[image] = static_cast<std::int32_t>(kept);
}

// Suppression of the chosen, sorted keys; `sorted`: whether they lie in task.sorted().
template <typename Measure, typename Source>
void suppress_selected_by(const SelectionTask& task, const Measure& measure, const Source& source, std::int64_t images,
                          bool sorted, Stream stream) {
  FD_LAUNCH((suppression_walk_kernel<Measure, Source>), Dim3(1, images), kSelectionThreads, 0, stream, task, measure, source,
            sorted);
}

// The same with the measure that the rule names.
template <typename Source>
void suppress_selected(const SelectionTask& task, const Source& source, std::int64_t images, bool sorted, Stream stream) {
  const float threshold = round_down(task.rule.iou_threshold);
  if (task.rule.by_distance) {
    suppress_selected_by(task, BoxMeasure<true>{threshold}, source, images, sorted, stream);
  } else {
    suppress_selected_by(task, BoxMeasure<false>{threshold}, source, images, sorted, stream);
  }
}

}  // namespace fastdet
