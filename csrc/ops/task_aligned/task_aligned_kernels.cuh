// SPDX-License-Identifier: Apache-2.0
// Kernels of task-aligned assignment: prepare, choose, settle, keep, write; price instead of the last three when costs are
// wanted. Whatever order blocks and threads run in, results are the same bits: everything is ordered by unique keys, and atomics
// only count and take minima.
#pragma once

#include <climits>

#include "core/assign_kernels.cuh"
#include "ops/task_aligned/task_aligned_layout.h"
#include "ops/task_aligned/task_aligned_math.h"

namespace fastdet::task_aligned {

constexpr int kKeepWarps = 4;  // ground truths of a block

FD_D float infinity() { return bit_cast<float>(0x7f800000u); }

FD_D Box point_at(const TaskAlignedParams& p, std::int64_t anchor) {
  const float* point = p.points.as<const float>() + anchor * p.points.stride[0];
  const float x = point[0], y = point[p.points.stride[1]];
  return {x, y, x, y};
}

FD_D float warp_max(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value = larger(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

template <IouKind K>
FD_D typename Measure<K, float>::Item item_at(const DeviceLayout& w, std::int64_t at) {
  return Measure<K, float>::at(w.items, w.pitch, at);
}

// Block: 256 anchors of one image, a thread each. Writes their prepared boxes; resets takers, first_taker, num_pos; the blocks
// of the first image also write the corners that hold the points of each warp.
template <IouKind K>
__global__ FD_LAUNCH_BOUNDS(kAnchorsPerBlock) void task_aligned_prepare_kernel(TaskAlignedParams p, DeviceLayout w) {
  using M = Measure<K, float>;
  const std::int64_t image = block_image(w.tiles), anchor = block_part(w.tiles) * kAnchorsPerBlock + threadIdx.x;
  const std::int64_t at = image * p.anchors() + anchor;
  const bool exists = anchor < p.anchors();
  if (threadIdx.x == 0 && block_part(w.tiles) == 0 && !p.want_cost) p.num_pos[image] = 0;
  if (image == 0) {
    Box hull = {infinity(), infinity(), -infinity(), -infinity()};
    if (exists) {
      const Box point = point_at(p, anchor);
      hull = {smaller(hull.x1, point.x1), smaller(hull.y1, point.y1), larger(hull.x2, point.x1), larger(hull.y2, point.y1)};
    }
    hull = {-warp_max(-hull.x1), -warp_max(-hull.y1), warp_max(hull.x2), warp_max(hull.y2)};
    if (exists && threadIdx.x % kWarp == 0) w.hull[anchor / kAnchorsPerHull] = hull;
  }
  if (!exists) return;
  float v[M::kNumbers];
  load_row(p.boxes, image * p.boxes.stride[0] + anchor * p.boxes.stride[1], p.boxes.stride[2], v);
  M::put(M::item(BoxFormat::kXyxy, v, p.form), w.items, w.pitch, at);
  w.takers[at] = 0;
  w.first_taker[at] = INT_MAX;
}

// Block: one ground truth of one image. Its warps visit the hulls that its region meets, a lane per anchor, and the block takes
// the anchors of the largest metrics: adds to their takers and lowers first_taker, or marks them with want_cost.
template <IouKind K>
__global__ FD_LAUNCH_BOUNDS(kChooseThreads) void task_aligned_choose_kernel(TaskAlignedParams p, DeviceLayout w) {
  FD_SHARED(std::uint64_t, keys, 2 * kChooseThreads / kWarp);
  const std::int64_t image = block_image(p.rows()), row = block_part(p.rows());
  const std::int64_t offset = image * p.anchors();
  GroundTruth<K> gt = {};
  // The whole block returns or stays.
  if (row >= load_count(p.gt_count, image, p.rows()) || !load_ground_truth<K>(p, image, row, &gt)) return;
  const auto scan = [&](const auto& visit) {
    for (std::int64_t hull = threadIdx.x / kWarp; hull < w.hulls; hull += kChooseThreads / kWarp) {
      if (!hull_meets(w.hull[hull], gt.region.bounds)) continue;
      const std::int64_t anchor = hull * kAnchorsPerHull + threadIdx.x % kWarp;
      if (anchor >= p.anchors()) continue;
      const Box point = point_at(p, anchor);
      if (!in_region<K>(point.x1, point.y1, gt.region)) continue;
      const float overlap = pair_overlap<K>(item_at<K>(w, offset + anchor), gt, p.form);
      const float metric = pair_metric(p, load_score(p, image, anchor, gt.label), overlap);
      if (metric > 0.0f && overlap > 0.0f) visit(falling_key(metric, static_cast<std::int32_t>(anchor)));
    }
  };
  const auto take = [&](std::uint64_t key) {
    if (threadIdx.x != 0) return;
    const std::int64_t at = offset + key_index(key);
    if (p.want_cost) {
      p.chosen[at * p.rows() + row] = true;
    } else {
      atomicAdd(&w.takers[at], 1);
      atomicMin(&w.first_taker[at], static_cast<std::int32_t>(row));
    }
  };
  take_smallest(p.topk, keys, scan, take);
}

// The first of all ground truths for an anchor by the rule for conflicts, found by one warp.
template <IouKind K>
FD_D std::int32_t first_row(const TaskAlignedParams& p, const DeviceLayout& w, std::int64_t image, std::int64_t anchor) {
  const std::int64_t rows = load_count(p.gt_count, image, p.rows());
  const Box point = point_at(p, anchor);
  std::uint64_t best = kNoKey;
  for (std::int64_t row = threadIdx.x % kWarp; row < rows; row += kWarp) {
    GroundTruth<K> gt = {};
    if (!load_ground_truth<K>(p, image, row, &gt)) continue;
    if (p.conflict != ConflictRule::kOverlapAnywhere && !in_region<K>(point.x1, point.y1, gt.region)) continue;
    float value = pair_overlap<K>(item_at<K>(w, image * p.anchors() + anchor), gt, p.form);
    if (p.conflict == ConflictRule::kMetric) value = pair_metric(p, load_score(p, image, anchor, gt.label), value);
    const std::uint64_t key = falling_key(value, static_cast<std::int32_t>(row));
    best = key < best ? key : best;
  }
  return key_index(warp_min(best));
}

// Block: 256 anchors of one image, a thread each; an anchor with several takers is settled by its whole warp. Writes the owner
// (in first_taker) and the metric and overlap with it.
template <IouKind K>
__global__ FD_LAUNCH_BOUNDS(kAnchorsPerBlock, 1) void task_aligned_settle_kernel(TaskAlignedParams p, DeviceLayout w) {
  const std::int64_t image = block_image(w.tiles), anchor = block_part(w.tiles) * kAnchorsPerBlock + threadIdx.x;
  const std::int64_t at = image * p.anchors() + anchor;
  const bool exists = anchor < p.anchors();
  const std::int32_t takers = exists ? w.takers[at] : 0;
  const std::int32_t row = settled_row(takers > 1, takers > 0 ? w.first_taker[at] : -1,
                                       [&](int step) { return first_row<K>(p, w, image, anchor + step); });
  if (!exists) return;
  w.first_taker[at] = row;
  if (row < 0) return;
  GroundTruth<K> gt = {};
  load_ground_truth<K>(p, image, row, &gt);
  const float overlap = pair_overlap<K>(item_at<K>(w, at), gt, p.form);
  w.overlap[at] = overlap;
  w.metric[at] = pair_metric(p, load_score(p, image, anchor, gt.label), overlap);
}

// Warp: one ground truth of one image. Over the anchors that it owns: the key of the last one that it keeps, then the largest
// metric and overlap of those.
__global__ FD_LAUNCH_BOUNDS(kKeepWarps* kWarp) void task_aligned_keep_kernel(TaskAlignedParams p, DeviceLayout w) {
  const std::int64_t truth = static_cast<std::int64_t>(blockIdx.x) * kKeepWarps + threadIdx.x / kWarp;
  if (truth >= p.images() * p.rows()) return;  // by whole warps
  const std::int64_t offset = truth / p.rows() * p.anchors();
  const std::int32_t row = static_cast<std::int32_t>(truth % p.rows());
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (row >= load_count(p.gt_count, truth / p.rows(), p.rows())) return;
  std::uint64_t last = p.second_topk > 0 ? 0 : kNoKey;
  for (std::int64_t taken = 0; taken < p.second_topk; ++taken) {
    std::uint64_t next = kNoKey;
    for (std::int64_t a = lane; a < p.anchors(); a += kWarp) {
      if (w.first_taker[offset + a] != row) continue;
      const std::uint64_t key = falling_key(w.metric[offset + a], static_cast<std::int32_t>(a));
      if (key > last && key < next) next = key;
    }
    last = warp_min(next);
    if (last == kNoKey) break;
  }
  float best_metric = 0.0f, best_overlap = 0.0f;
  for (std::int64_t a = lane; a < p.anchors(); a += kWarp) {
    if (w.first_taker[offset + a] != row) continue;
    if (falling_key(w.metric[offset + a], static_cast<std::int32_t>(a)) > last) continue;
    best_metric = larger(best_metric, w.metric[offset + a]);
    best_overlap = larger(best_overlap, w.overlap[offset + a]);
  }
  best_metric = warp_max(best_metric);
  best_overlap = warp_max(best_overlap);
  if (lane != 0) return;
  w.last_key[truth] = last;
  w.best_metric[truth] = best_metric;
  w.best_overlap[truth] = best_overlap;
}

// Block: 256 anchors of one image, a thread each. Writes all results.
__global__ FD_LAUNCH_BOUNDS(kAnchorsPerBlock) void task_aligned_write_kernel(TaskAlignedParams p, DeviceLayout w) {
  const std::int64_t image = block_image(w.tiles), anchor = block_part(w.tiles) * kAnchorsPerBlock + threadIdx.x;
  const std::int64_t at = image * p.anchors() + anchor;
  const bool exists = anchor < p.anchors();
  std::int32_t row = exists ? w.first_taker[at] : -1;
  const std::int64_t truth = image * p.rows() + row;
  if (row >= 0 && falling_key(w.metric[at], static_cast<std::int32_t>(anchor)) > w.last_key[truth]) row = -1;
  const int positives = __popc(__ballot_sync(kAllLanes, row >= 0));
  if (threadIdx.x % kWarp == 0 && positives > 0) atomicAdd(&p.num_pos[image], positives);
  if (!exists) return;
  std::int64_t label = p.classes();
  float score = 0.0f;
  if (row >= 0) {
    label = load_integer(p.gt_labels, image * p.gt_labels.stride[0] + row * p.gt_labels.stride[1]);
    score = target_score_of(p.target_score, w.metric[at], w.overlap[at], w.best_metric[truth], w.best_overlap[truth], p.eps);
  }
  p.matched_gt[at] = row;
  p.labels[at] = static_cast<std::int32_t>(label);
  p.label_scores[at] = score;
}

// Thread: one (anchor, ground truth) pair of one image. Writes metric, overlap, inside; clears chosen.
template <IouKind K>
__global__ FD_LAUNCH_BOUNDS(kAnchorsPerBlock) void task_aligned_price_kernel(TaskAlignedParams p, DeviceLayout w) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kAnchorsPerBlock + threadIdx.x;
  if (pair >= p.images() * p.anchors() * p.rows()) return;
  const std::int64_t at = pair / p.rows(), row = pair % p.rows(), image = at / p.anchors(), anchor = at % p.anchors();
  GroundTruth<K> gt = {};
  float overlap = 0.0f, metric = 0.0f;
  bool inside = false;
  if (row < load_count(p.gt_count, image, p.rows()) && load_ground_truth<K>(p, image, row, &gt)) {
    const Box point = point_at(p, anchor);
    inside = in_region<K>(point.x1, point.y1, gt.region);
    overlap = pair_overlap<K>(item_at<K>(w, at), gt, p.form);
    metric = pair_metric(p, load_score(p, image, anchor, gt.label), overlap);
  }
  p.metric[pair] = metric;
  p.overlap[pair] = overlap;
  p.inside[pair] = inside;
  p.chosen[pair] = false;
}

}  // namespace fastdet::task_aligned
