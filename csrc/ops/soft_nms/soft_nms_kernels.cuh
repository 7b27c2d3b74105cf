// SPDX-License-Identifier: Apache-2.0
// One block chooses boxes one after the other: every thread lowers the scores of its own boxes and keeps the best of them.
#pragma once

#include "core/launch.h"
#include "ops/soft_nms/soft_nms.h"
#include "ops/soft_nms/soft_nms_math.h"

namespace fastdet {

constexpr int kSoftThreads = 512;
constexpr int kSoftLanes = 32;

struct SoftTask {
  ScoredBoxes in;
  SoftRule rule;
  CandidateRows rows;
  Box* boxes;     // [N]
  float* scores;  // [N], 0: out
};

// The greatest of all threads' keys, the same in every thread. `keys` holds kSoftThreads, `few` kSoftLanes.
FD_D std::uint64_t soft_best(std::uint64_t mine, std::uint64_t* keys, std::uint64_t* few) {
  const int t = static_cast<int>(threadIdx.x);
  keys[t] = mine;
  __syncthreads();
  if (t < kSoftLanes) {
    for (int i = t + kSoftLanes; i < kSoftThreads; i += kSoftLanes) mine = keys[i] > mine ? keys[i] : mine;
    few[t] = mine;
  }
  __syncthreads();
  std::uint64_t best = few[0];
  for (int i = 1; i < kSoftLanes; ++i) best = few[i] > best ? few[i] : best;
  return best;
}

template <bool kGaussian>
__global__ FD_LAUNCH_BOUNDS(kSoftThreads, 1) void soft_nms_kernel(SoftTask task) {
  FD_SHARED(std::uint64_t, keys, kSoftThreads);
  FD_SHARED(std::uint64_t, few, kSoftLanes);
  const std::int64_t count = task.in.count(), t = threadIdx.x;
  std::uint64_t mine = 0u;
  for (std::int64_t i = t; i < count; i += kSoftThreads) {
    const std::uint32_t key = task.in.key(i);
    const float score = key != 0u ? order_key_value(key) : 0.0f;
    task.boxes[i] = task.in.box(i);
    task.scores[i] = score > task.rule.score_threshold ? score : 0.0f;
    if (task.scores[i] > 0.0f) {
      const std::uint64_t candidate = candidate_key(key, static_cast<std::uint32_t>(i));
      mine = candidate > mine ? candidate : mine;
    }
  }
  std::int64_t kept = 0;
  for (std::uint64_t best = soft_best(mine, keys, few); best != 0u; best = soft_best(mine, keys, few)) {
    const std::int64_t chosen = static_cast<std::int64_t>(candidate_number(best));
    if (t == 0) task.rows.write(kept, {0.0f, 0.0f, 0.0f, 0.0f}, candidate_score(best), 0, chosen);
    ++kept;
    const Box box = task.boxes[chosen];
    const float area = box_area(box);
    const std::int64_t group = task.in.group(chosen);
    mine = 0u;
    for (std::int64_t i = t; i < count; i += kSoftThreads) {
      float score = task.scores[i];
      if (!(score > 0.0f)) continue;
      if (i == chosen) {
        task.scores[i] = 0.0f;
        continue;
      }
      const float common = box_intersection(box, task.boxes[i]);
      if (common > 0.0f && task.in.group(i) == group) {
        score = soft_score<kGaussian>(score, common, area, box_area(task.boxes[i]), task.rule);
        task.scores[i] = score;
        if (!(score > 0.0f)) continue;
      }
      const std::uint64_t candidate = candidate_key(score_key(score), static_cast<std::uint32_t>(i));
      mine = candidate > mine ? candidate : mine;
    }
  }
  for (std::int64_t d = kept + t; d < count; d += kSoftThreads) task.rows.clear(d);
  if (t == 0) task.rows.count.as<std::int32_t>()[0] = static_cast<std::int32_t>(kept);
}

}  // namespace fastdet
