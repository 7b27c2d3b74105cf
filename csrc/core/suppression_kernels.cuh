// SPDX-License-Identifier: Apache-2.0
// The walk of suppression on CUDA: one block per image visits candidates in order, a chunk at a time. Beside selection's words a
// Source has
//
//   Box box(task, image, anchor)
//   std::int64_t competes(task, image, number, anchor)   class or group, what decides who competes; 0 when nobody is told apart
#pragma once

#include "core/selection_kernels.cuh"

namespace fastdet {

constexpr int kWalkChunk = 128;  // candidates decided at once

struct WalkChunk {
  Box box[kWalkChunk];
  float area[kWalkChunk];
  std::int64_t label[kWalkChunk];  // class or group, what decides who competes; 0 for everybody when nobody is told apart
  std::uint64_t key[kWalkChunk];
  std::uint32_t alive[4];              // candidates not yet fallen, one bit each
  std::uint32_t falls[kWalkChunk][4];  // later candidates that fall when this one is kept
  std::int32_t kept[kWalkChunk];       // numbers inside the chunk of those kept, in order
  std::int32_t kept_count;
};

constexpr int kWalkSlices = kSelectionThreads / kWalkChunk;

// Loads candidates [begin, begin + kWalkChunk); returns whether any is left.
template <typename Source>
FD_D bool walk_load_chunk(const SelectionTask& task, const Source& source, std::int64_t image, const std::uint64_t* keys,
                          std::int64_t begin, WalkChunk* chunk) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 4) chunk->alive[t] = 0u;
  __syncthreads();
  if (t < kWalkChunk) {
    const std::uint64_t key = begin + t < task.layout.keys() ? keys[begin + t] : 0u;
    chunk->key[t] = key;
    if (key != 0u) {
      const std::int64_t number = candidate_number(key);
      const std::int64_t anchor = task.rule.anchor_of(number);
      const Box box = source.box(task, image, anchor);
      chunk->box[t] = box;
      chunk->area[t] = box_area(box);
      chunk->label[t] = source.competes(task, image, number, anchor);
      atomicOr(&chunk->alive[t / 32], 1u << (t % 32));
    }
  }
  __syncthreads();
  return chunk->key[0] != 0u;
}

// Fells candidates that overlap a box kept from earlier chunks. Thread (candidate, slice) looks at every kWalkSlices-th kept box.
FD_D void walk_against_kept(const SelectionTask& task, float threshold, std::int64_t image, std::int64_t kept, WalkChunk* chunk) {
  const int candidate = static_cast<int>(threadIdx.x) % kWalkChunk, slice = static_cast<int>(threadIdx.x) / kWalkChunk;
  if (chunk->key[candidate] != 0u) {
    const Box box = chunk->box[candidate];
    const float area = chunk->area[candidate];
    const std::int64_t label = chunk->label[candidate];
    const Box* kept_boxes = task.kept_box(image);
    const std::int64_t* kept_labels = task.kept_label(image);
    for (std::int64_t i = slice; i < kept; i += kWalkSlices) {
      if (kept_labels[i] == label && suppresses(kept_boxes[i], box_area(kept_boxes[i]), box, area, threshold)) {
        atomicAnd(&chunk->alive[candidate / 32], ~(1u << (candidate % 32)));
        break;
      }
    }
  }
  __syncthreads();
}

// Rows of the chunk's own overlap matrix: thread (candidate, half) makes two of the four words.
FD_D void walk_against_itself(float threshold, WalkChunk* chunk) {
  const int candidate = static_cast<int>(threadIdx.x) % kWalkChunk, slice = static_cast<int>(threadIdx.x) / kWalkChunk;
  for (int word = slice; word < 4; word += kWalkSlices) {
    std::uint32_t falls = 0u;
    if (chunk->key[candidate] != 0u) {
      for (int bit = 0; bit < 32; ++bit) {
        const int later = 32 * word + bit;
        if (later <= candidate || chunk->key[later] == 0u || chunk->label[later] != chunk->label[candidate]) continue;
        if (suppresses(chunk->box[candidate], chunk->area[candidate], chunk->box[later], chunk->area[later], threshold)) {
          falls |= 1u << bit;
        }
      }
    }
    chunk->falls[candidate][word] = falls;
  }
  __syncthreads();
}

// One thread visits the survivors in order; at most `room` are kept.
FD_D void walk_resolve(WalkChunk* chunk, std::int64_t room) {
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
template <typename Source>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void suppression_walk_kernel(SelectionTask task, Source source, float threshold,
                                                                            bool from_sorted) {
  FD_SHARED(WalkChunk, chunk, 1);
  const std::int64_t image = blockIdx.y;
  const int t = static_cast<int>(threadIdx.x);
  const std::uint64_t* keys = from_sorted ? task.sorted(image) : task.keys(image);
  std::int64_t kept = 0;
  for (std::int64_t begin = 0; begin < task.layout.keys() && kept < task.rule.max_det; begin += kWalkChunk) {
    if (!walk_load_chunk(task, source, image, keys, begin, chunk)) break;
    walk_against_kept(task, threshold, image, kept, chunk);
    walk_against_itself(threshold, chunk);
    walk_resolve(chunk, task.rule.max_det - kept);
    const std::int32_t fresh = chunk->kept_count;
    if (t < fresh) {
      const int candidate = chunk->kept[t];
      const std::uint64_t key = chunk->key[candidate];
      const std::int64_t number = candidate_number(key);
      const std::int64_t anchor = task.rule.anchor_of(number);
      task.kept_box(image)[kept + t] = chunk->box[candidate];
      task.kept_label(image)[kept + t] = chunk->label[candidate];
      task.rows.write(image * task.rule.max_det + kept + t, chunk->box[candidate], candidate_score(key),
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
template <typename Source>
void suppress_selected(const SelectionTask& task, const Source& source, std::int64_t images, bool sorted, Stream stream) {
  FD_LAUNCH(suppression_walk_kernel<Source>, Dim3(1, images), kSelectionThreads, 0, stream, task, source,
            round_down(task.rule.iou_threshold), sorted);
}

}  // namespace fastdet
