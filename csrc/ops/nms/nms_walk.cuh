// SPDX-License-Identifier: Apache-2.0
// The walk: one block per image visits candidates in order, a chunk at a time.
#pragma once

#include "ops/nms/nms_kernels.cuh"

namespace fastdet {

struct NmsChunk {
  Box box[kNmsChunk];
  float area[kNmsChunk];
  std::int64_t label[kNmsChunk];  // class or group, what decides who competes; 0 for everybody when nobody is told apart
  std::uint64_t key[kNmsChunk];
  std::uint32_t alive[4];             // candidates not yet fallen, one bit each
  std::uint32_t falls[kNmsChunk][4];  // later candidates that fall when this one is kept
  std::int32_t kept[kNmsChunk];       // numbers inside the chunk of those kept, in order
  std::int32_t kept_count;
};

constexpr int kNmsSlices = kNmsThreads / kNmsChunk;

// Loads candidates [begin, begin + kNmsChunk); returns whether any is left.
template <typename TBox>
FD_D bool nms_load_chunk(const NmsTask& task, std::int64_t image, const std::uint64_t* keys, std::int64_t begin,
                         NmsChunk* chunk) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 4) chunk->alive[t] = 0u;
  __syncthreads();
  if (t < kNmsChunk) {
    const std::uint64_t key = begin + t < task.layout.keys() ? keys[begin + t] : 0u;
    chunk->key[t] = key;
    if (key != 0u) {
      const std::int64_t number = candidate_number(key);
      const std::int64_t anchor = task.multi_label ? number / task.columns : number;
      const Box box = task_box<TBox>(task, image, anchor);
      chunk->box[t] = box;
      chunk->area[t] = box_area(box);
      std::int64_t label = 0;
      if (task.by_group) label = load_group(task.groups, image, anchor);
      if (task.by_label) label = task.multi_label ? number - anchor * task.columns : task.best_label(image)[anchor];
      chunk->label[t] = label;
      atomicOr(&chunk->alive[t / 32], 1u << (t % 32));
    }
  }
  __syncthreads();
  return chunk->key[0] != 0u;
}

// Fells candidates that overlap a box kept from earlier chunks. Thread (candidate, slice) looks at every kNmsSlices-th kept box.
FD_D void nms_against_kept(const NmsTask& task, std::int64_t image, std::int64_t kept, NmsChunk* chunk) {
  const int candidate = static_cast<int>(threadIdx.x) % kNmsChunk, slice = static_cast<int>(threadIdx.x) / kNmsChunk;
  if (chunk->key[candidate] != 0u) {
    const Box box = chunk->box[candidate];
    const float area = chunk->area[candidate];
    const std::int64_t label = chunk->label[candidate];
    const Box* kept_boxes = task.kept_box(image);
    const std::int64_t* kept_labels = task.kept_label(image);
    for (std::int64_t i = slice; i < kept; i += kNmsSlices) {
      if (kept_labels[i] == label && suppresses(kept_boxes[i], box_area(kept_boxes[i]), box, area, task.iou_threshold)) {
        atomicAnd(&chunk->alive[candidate / 32], ~(1u << (candidate % 32)));
        break;
      }
    }
  }
  __syncthreads();
}

// Rows of the chunk's own overlap matrix: thread (candidate, half) makes two of the four words.
FD_D void nms_against_itself(const NmsTask& task, NmsChunk* chunk) {
  const int candidate = static_cast<int>(threadIdx.x) % kNmsChunk, slice = static_cast<int>(threadIdx.x) / kNmsChunk;
  for (int word = slice; word < 4; word += kNmsSlices) {
    std::uint32_t falls = 0u;
    if (chunk->key[candidate] != 0u) {
      for (int bit = 0; bit < 32; ++bit) {
        const int later = 32 * word + bit;
        if (later <= candidate || chunk->key[later] == 0u || chunk->label[later] != chunk->label[candidate]) continue;
        if (suppresses(chunk->box[candidate], chunk->area[candidate], chunk->box[later], chunk->area[later],
                       task.iou_threshold)) {
          falls |= 1u << bit;
        }
      }
    }
    chunk->falls[candidate][word] = falls;
  }
  __syncthreads();
}

// One thread visits the survivors in order; at most `room` are kept.
FD_D void nms_resolve(NmsChunk* chunk, std::int64_t room) {
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

FD_D void nms_write_row(const NmsTask& task, std::int64_t at, const Box& box, float score, std::int32_t label,
                        std::int64_t anchor) {
  if (task.out_boxes.data != nullptr) task.out_boxes.as<Box>()[at] = box;
  if (task.out_scores.data != nullptr) task.out_scores.as<float>()[at] = score;
  if (task.out_labels.data != nullptr) task.out_labels.as<std::int32_t>()[at] = label;
  if (task.out_index.dtype == DType::kInt32) {
    task.out_index.as<std::int32_t>()[at] = static_cast<std::int32_t>(anchor);
  } else {
    task.out_index.as<std::int64_t>()[at] = anchor;
  }
}

// Block y of the grid owns image y: its kept list (global memory, read through the cache) and its rows of the result.
template <typename TBox>
__global__ FD_LAUNCH_BOUNDS(kNmsThreads) void nms_walk_kernel(NmsTask task, bool from_sorted) {
  FD_SHARED(NmsChunk, chunk, 1);
  const std::int64_t image = blockIdx.y;
  const int t = static_cast<int>(threadIdx.x);
  const std::uint64_t* keys = from_sorted ? task.sorted(image) : task.keys(image);
  std::int64_t kept = 0;
  for (std::int64_t begin = 0; begin < task.layout.keys() && kept < task.max_det; begin += kNmsChunk) {
    if (!nms_load_chunk<TBox>(task, image, keys, begin, chunk)) break;
    nms_against_kept(task, image, kept, chunk);
    nms_against_itself(task, chunk);
    nms_resolve(chunk, task.max_det - kept);
    const std::int32_t fresh = chunk->kept_count;
    if (t < fresh) {
      const int candidate = chunk->kept[t];
      const std::uint64_t key = chunk->key[candidate];
      const std::int64_t number = candidate_number(key);
      const std::int64_t anchor = task.multi_label ? number / task.columns : number;
      task.kept_box(image)[kept + t] = chunk->box[candidate];
      task.kept_label(image)[kept + t] = chunk->label[candidate];
      const std::int64_t label = task.multi_label ? number - anchor * task.columns : task.best_label(image)[anchor];
      nms_write_row(task, image * task.max_det + kept + t, chunk->box[candidate], candidate_score(key),
                    static_cast<std::int32_t>(label), anchor);
    }
    kept += fresh;
    __syncthreads();
  }
  for (std::int64_t d = kept + t; d < task.max_det; d += kNmsThreads) {
    nms_write_row(task, image * task.max_det + d, {0.0f, 0.0f, 0.0f, 0.0f}, 0.0f, -1, -1);
  }
  if (t == 0) task.out_count.as<std::int32_t>()[image] = static_cast<std::int32_t>(kept);
}

}  // namespace fastdet
