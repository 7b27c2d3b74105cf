// SPDX-License-Identifier: Apache-2.0
// Kernels of SimOTA: collect, compact, choose, settle; price instead of the last when costs are wanted. Whatever order blocks
// and threads run in, results are the same bits: lists are ordered by unique keys, and atomics only count and take minima.
#pragma once

#include <climits>

#include "core/launch.h"
#include "ops/sim_ota/sim_ota_layout.h"
#include "ops/sim_ota/sim_ota_math.h"

namespace fastdet::sim_ota {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kStagedRows = 64;  // ground truths in shared memory at once
constexpr int kChooseThreads = 128;
constexpr int kListLength = 10;  // keys a thread keeps in registers: one pass serves a top-k of up to this

FD_D std::int64_t block_image(std::int64_t per_image) { return static_cast<std::int64_t>(blockIdx.x) / per_image; }
FD_D std::int64_t block_part(std::int64_t per_image) { return static_cast<std::int64_t>(blockIdx.x) % per_image; }

FD_D Box candidate_box(const DeviceLayout& w, std::int64_t at) { return {w.x1[at], w.y1[at], w.x2[at], w.y2[at]}; }

FD_D bool candidate_inside(const SimOtaParams& p, const DeviceLayout& w, std::int64_t at, const GroundTruth& gt) {
  if (p.listed) return true;
  return in_box(w.x[at], w.y[at], gt.box) & in_center(w.x[at], w.y[at], w.reach[at], gt.center_x, gt.center_y);
}

FD_D float objectness_at(const SimOtaParams& p, std::int64_t image, std::int64_t prior) {
  return sigmoid_exact(load_float(p.objectness, image * p.objectness.stride[0] + prior * p.objectness.stride[1]));
}

FD_D float score_at(const SimOtaParams& p, std::int64_t image, std::int64_t prior, std::int64_t label, float objectness) {
  const std::int64_t at = image * p.scores.stride[0] + prior * p.scores.stride[1] + label * p.scores.stride[2];
  return joint_score(load_float(p.scores, at), objectness);
}

FD_D Box box_at(const SimOtaParams& p, std::int64_t image, std::int64_t prior) {
  const std::int64_t at = image * p.boxes.stride[0] + prior * p.boxes.stride[1], step = p.boxes.stride[2];
  return {load_float(p.boxes, at), load_float(p.boxes, at + step), load_float(p.boxes, at + 2 * step),
          load_float(p.boxes, at + 3 * step)};
}

struct Point {
  float x, y, stride;
};

FD_D Point point_at(const SimOtaParams& p, std::int64_t prior) {
  if (p.listed) return {0.0f, 0.0f, 0.0f};
  const float* point = p.points.as<const float>() + prior * p.points.stride[0];
  return {point[0], point[p.points.stride[1]], p.strides.as<const float>()[prior * p.strides.stride[0]]};
}

// Rank of this thread among the threads of the block whose flag is set, and how many there are. Needs a warp_counts entry per
// warp; the caller separates uses of it by a barrier.
FD_D int block_rank(bool flag, std::int32_t* warp_counts, int* total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const unsigned votes = __ballot_sync(kAllLanes, flag);
  if (lane == 0) warp_counts[warp] = __popc(votes);
  __syncthreads();
  int before = 0;
  *total = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) {
    if (i < warp) before += warp_counts[i];
    *total += warp_counts[i];
  }
  return before + __popc(votes & ((1u << lane) - 1u));
}

// Sum over the block, the same in every thread. Begins with a barrier, so scratch (an entry per warp) may be used again and
// again.
FD_D int block_sum(int value, std::int32_t* scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  int sum = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) sum += scratch[i];
  return sum;
}

FD_D std::uint64_t warp_min(std::uint64_t key) {
  unsigned long long least = key;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, least, step);
    least = other < least ? other : least;
  }
  return least;
}

// Block: 256 priors of one image, a thread each; then 8 threads per reached prior for its class sum, thread j adding classes
// j, j + 8, ... in float64. Reads points, ground truths through shared memory, boxes, scores of reached priors only. Writes
// class_sum (NaN where not valid) and the tile's count of valid priors; resets takers and num_pos.
template <typename T>
__global__ FD_LAUNCH_BOUNDS(kPriorsPerBlock) void sim_ota_collect_kernel(SimOtaParams p, DeviceLayout w) {
  FD_SHARED(GroundTruth, staged, kStagedRows);
  FD_SHARED(std::int32_t, reached_priors, kPriorsPerBlock);
  FD_SHARED(std::int32_t, warp_counts, kPriorsPerBlock / kWarp);
  FD_SHARED(std::int32_t, valid_count, 1);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t image = block_image(w.tiles), tile = block_part(w.tiles);
  const std::int64_t first = tile * kPriorsPerBlock, prior = first + thread, offset = image * p.priors();
  if (thread == 0) valid_count[0] = 0;

  bool usable = prior < p.priors(), reached = false;
  Point point = {0.0f, 0.0f, 0.0f};
  const std::int64_t source = usable ? source_of(p, image, prior) : -1;
  usable = source >= 0;
  if (usable) {
    point = point_at(p, prior);
    usable = is_finite(point.x) && is_finite(point.y) && is_finite(point.stride) && box_finite(box_at(p, image, source)) &&
             is_finite(load_float(p.objectness, image * p.objectness.stride[0] + source * p.objectness.stride[1]));
  }
  const float reach = p.center_radius * point.stride;
  const std::int64_t rows = load_count(p.gt_count, image, p.rows());
  for (std::int64_t begin = 0; begin < rows; begin += kStagedRows) {
    if (thread < kStagedRows && begin + thread < rows) {
      GroundTruth gt;
      const bool matches = load_ground_truth(p.gt_boxes, p.gt_labels, p.classes(), image, begin + thread, &gt);
      const float nan = bit_cast<float>(0x7fc00000u);  // compares false with everything
      if (!matches) gt = {{nan, nan, nan, nan}, nan, nan, nan, -1};
      staged[thread] = gt;
    }
    __syncthreads();
    const int size = static_cast<int>(rows - begin < kStagedRows ? rows - begin : kStagedRows);
    for (int i = 0; i < size; ++i) {
      reached |= (p.listed & (staged[i].label >= 0)) | in_box(point.x, point.y, staged[i].box) |
                 in_center(point.x, point.y, reach, staged[i].center_x, staged[i].center_y);
    }
    if (__syncthreads_and(reached || !usable)) break;
  }

  const bool hit = usable && reached;
  int hits = 0;
  const int rank = block_rank(hit, warp_counts, &hits);
  if (hit) reached_priors[rank] = thread;
  if (prior < p.priors()) {
    if (!hit) w.class_sum[offset + prior] = bit_cast<double>(std::uint64_t{0x7ff8000000000000u});
    w.takers[offset + prior] = 0;
    w.first_taker[offset + prior] = INT_MAX;
  }
  __syncthreads();

  const int group = thread / kLanes, lane = thread % kLanes, groups = static_cast<int>(kPriorsPerBlock) / kLanes;
  for (int begin = 0; begin < hits; begin += groups) {
    const bool active = begin + group < hits;
    const std::int64_t at = active ? first + reached_priors[begin + group] : first;
    LaneSum lane_sum;
    if (active) {
      const std::int64_t from = source_of(p, image, at);
      const float objectness = objectness_at(p, image, from);
      const T* row = p.scores.as<const T>() + image * p.scores.stride[0] + from * p.scores.stride[1];
      for (std::int64_t c = lane; c < p.classes(); c += kLanes) lane_sum.add(to_float(row[c * p.scores.stride[2]]), objectness);
    }
    double sum = lane_sum.total();
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (active && lane == 0) {
      w.class_sum[offset + at] = sum;
      if (sum == sum) atomicAdd(&valid_count[0], 1);
    }
  }
  __syncthreads();
  if (thread == 0) {
    w.tile_count[image * w.tiles + tile] = valid_count[0];
    if (tile == 0 && !p.want_cost) p.num_pos[image] = 0;
  }
}

// Block: the same 256 priors. Writes those that are valid to the image's columns, in order: after all of the tiles before.
__global__ FD_LAUNCH_BOUNDS(kPriorsPerBlock) void sim_ota_compact_kernel(SimOtaParams p, DeviceLayout w) {
  FD_SHARED(std::int32_t, scratch, kPriorsPerBlock / kWarp);
  FD_SHARED(std::int32_t, warp_counts, kPriorsPerBlock / kWarp);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t image = block_image(w.tiles), tile = block_part(w.tiles);
  const std::int64_t prior = tile * kPriorsPerBlock + thread, offset = image * p.priors();
  int before = 0;
  for (std::int64_t i = thread; i < tile; i += kPriorsPerBlock) before += w.tile_count[image * w.tiles + i];
  before = block_sum(before, scratch);

  bool valid = false;
  if (prior < p.priors()) {
    const double class_sum = w.class_sum[offset + prior];
    valid = class_sum == class_sum;
    if (p.want_cost) p.valid[offset + prior] = valid;
  }
  int total = 0;
  const int rank = block_rank(valid, warp_counts, &total);
  if (thread == 0 && tile == w.tiles - 1) w.count[image] = before + total;
  if (!valid) return;
  const std::int64_t at = offset + before + rank;
  const std::int64_t source = source_of(p, image, prior);
  const Box box = box_at(p, image, source);
  const Point point = point_at(p, prior);
  w.index[at] = static_cast<std::int32_t>(prior);
  w.source[at] = static_cast<std::int32_t>(source);
  w.objectness[at] = objectness_at(p, image, source);
  w.x1[at] = box.x1, w.y1[at] = box.y1, w.x2[at] = box.x2, w.y2[at] = box.y2;
  w.x[at] = point.x, w.y[at] = point.y, w.reach[at] = p.center_radius * point.stride;
}

// Calls take(key) in every thread for the `wanted` smallest of key_at(0 .. n), in rising order; fewer if they run out. Keys are
// unique and above 0; kNoKey is none. Each thread keeps its own kListLength smallest in registers; more than that takes another
// scan. scratch: two entries per warp.
template <typename KeyAt, typename Take>
FD_D void take_smallest(std::int64_t n, std::int64_t wanted, std::uint64_t* scratch, const KeyAt& key_at, const Take& take) {
  constexpr int warps = kChooseThreads / kWarp;
  std::uint64_t last = 0;
  int side = 0;
  __syncthreads();  // the caller, or a call before, may still read scratch
  for (std::int64_t taken = 0; taken < wanted;) {
    std::uint64_t list[kListLength];
#pragma unroll
    for (int i = 0; i < kListLength; ++i) list[i] = kNoKey;
    for (std::int64_t j = threadIdx.x; j < n; j += kChooseThreads) {
      const std::uint64_t key = key_at(j);
      if (key <= last || key >= list[kListLength - 1]) continue;
      list[kListLength - 1] = key;
#pragma unroll
      for (int i = kListLength - 1; i > 0; --i) {
        if (list[i] < list[i - 1]) {
          const std::uint64_t smaller_key = list[i];
          list[i] = list[i - 1];
          list[i - 1] = smaller_key;
        }
      }
    }
    for (int round = 0; round < kListLength && taken < wanted; ++round, ++taken) {
      // Two sides in turn: one barrier a round, and nobody overwrites what another still reads.
      side ^= warps;
      const std::uint64_t least = warp_min(list[0]);
      if (threadIdx.x % kWarp == 0) scratch[side + static_cast<int>(threadIdx.x) / kWarp] = least;
      __syncthreads();
      std::uint64_t winner = scratch[side];
#pragma unroll
      for (int i = 1; i < warps; ++i) winner = scratch[side + i] < winner ? scratch[side + i] : winner;
      if (winner == kNoKey) return;
      if (list[0] == winner) {
#pragma unroll
        for (int i = 1; i < kListLength; ++i) list[i - 1] = list[i];
        list[kListLength - 1] = kNoKey;
      }
      take(winner);
      last = winner;
    }
  }
}

// Block: one ground truth of one image, over that image's valid priors. Sums the largest IoUs to k, then takes the k cheapest
// priors: adds to their takers and lowers first_taker. Where enough priors lie inside, only those are priced, since the others
// come after. With want_cost it stops after k.
__global__ FD_LAUNCH_BOUNDS(kChooseThreads, 1) void sim_ota_choose_kernel(SimOtaParams p, DeviceLayout w) {
  FD_SHARED(std::uint64_t, keys, 2 * kChooseThreads / kWarp);
  FD_SHARED(std::int32_t, sums, kChooseThreads / kWarp);
  const std::int64_t image = block_image(p.rows()), row = block_part(p.rows());
  const std::int64_t offset = image * p.priors(), n = w.count[image];
  GroundTruth gt = {};
  // The whole block returns or stays.
  const bool matches = row < load_count(p.gt_count, image, p.rows()) && n > 0 &&
                       load_ground_truth(p.gt_boxes, p.gt_labels, p.classes(), image, row, &gt);
  if (!matches) {
    if (p.want_cost && threadIdx.x == 0) p.dynamic_k[image * p.rows() + row] = 0;
    return;
  }

  double iou_sum = 0.0;
  take_smallest(
      n, p.topk, keys,
      [&](std::int64_t j) {
        const float iou = pair_iou(candidate_box(w, offset + j), gt.box, gt.area);
        // Rising keys are falling IoUs; an IoU of 0 adds nothing.
        return iou > 0.0f ? static_cast<std::uint64_t>(~order_key(iou)) << 32 | static_cast<std::uint64_t>(j) : kNoKey;
      },
      [&](std::uint64_t key) { iou_sum += static_cast<double>(order_key_value(~static_cast<std::uint32_t>(key >> 32))); });
  const int k = dynamic_k(iou_sum);
  if (p.want_cost) {
    if (threadIdx.x == 0) p.dynamic_k[image * p.rows() + row] = k;
    return;
  }

  int inside_count = 0;
  for (std::int64_t j = threadIdx.x; j < n; j += kChooseThreads) inside_count += candidate_inside(p, w, offset + j, gt) ? 1 : 0;
  const bool only_inside = block_sum(inside_count, sums) >= k;
  take_smallest(
      n, k, keys,
      [&](std::int64_t j) {
        const bool inside = candidate_inside(p, w, offset + j, gt);
        if (only_inside && !inside) return kNoKey;
        const std::int32_t prior = w.index[offset + j];
        const float iou = pair_iou(candidate_box(w, offset + j), gt.box, gt.area);
        const double class_sum = w.class_sum[offset + prior];
        const float score = score_at(p, image, w.source[offset + j], gt.label, w.objectness[offset + j]);
        const float cost = pair_cost(class_sum, score, iou, p.class_weight, p.iou_weight);
        return pair_key(inside, cost, prior);
      },
      [&](std::uint64_t key) {
        if (threadIdx.x != 0) return;
        const std::int64_t at = offset + key_index(key);
        atomicAdd(&w.takers[at], 1);
        atomicMin(&w.first_taker[at], static_cast<std::int32_t>(row));
      });
}

// The cheapest ground truth of all for a prior, found by one warp.
FD_D std::int32_t cheapest_row(const SimOtaParams& p, const DeviceLayout& w, std::int64_t image, std::int64_t prior) {
  const std::int64_t rows = load_count(p.gt_count, image, p.rows());
  const std::int64_t source = source_of(p, image, prior);
  const Box box = box_at(p, image, source);
  const float objectness = objectness_at(p, image, source);
  const Point point = point_at(p, prior);
  const float reach = p.center_radius * point.stride;
  std::uint64_t best = kNoKey;
  for (std::int64_t row = threadIdx.x % kWarp; row < rows; row += kWarp) {
    GroundTruth gt;
    if (!load_ground_truth(p.gt_boxes, p.gt_labels, p.classes(), image, row, &gt)) continue;
    const bool inside =
        p.listed | (in_box(point.x, point.y, gt.box) & in_center(point.x, point.y, reach, gt.center_x, gt.center_y));
    if (!inside && best < kFirstOutside) continue;
    const float cost = pair_cost(w.class_sum[image * p.priors() + prior], score_at(p, image, source, gt.label, objectness),
                                 pair_iou(box, gt.box, gt.area), p.class_weight, p.iou_weight);
    const std::uint64_t key = pair_key(inside, cost, static_cast<std::int32_t>(row));
    best = key < best ? key : best;
  }
  return key_index(warp_min(best));
}

// Block: 256 priors of one image, a thread each; a prior with several takers is settled by its whole warp. Writes all results.
__global__ FD_LAUNCH_BOUNDS(kPriorsPerBlock) void sim_ota_settle_kernel(SimOtaParams p, DeviceLayout w) {
  const std::int64_t image = block_image(w.tiles), first = block_part(w.tiles) * kPriorsPerBlock;
  const std::int64_t prior = first + threadIdx.x, at = image * p.priors() + prior;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool exists = prior < p.priors();
  const std::int32_t takers = exists ? w.takers[at] : 0;
  std::int32_t row = takers > 0 ? w.first_taker[at] : -1;
  for (unsigned contested = __ballot_sync(kAllLanes, takers > 1); contested != 0; contested &= contested - 1) {
    const int owner_lane = __ffs(static_cast<int>(contested)) - 1;
    const std::int32_t cheapest = cheapest_row(p, w, image, prior - lane + owner_lane);
    if (lane == owner_lane) row = cheapest;
  }
  const int positives = __popc(__ballot_sync(kAllLanes, row >= 0));
  if (lane == 0 && positives > 0) atomicAdd(&p.num_pos[image], positives);
  if (!exists) return;
  GroundTruth gt;
  gt.label = static_cast<std::int32_t>(p.classes());
  float iou = 0.0f;
  if (row >= 0) {
    load_ground_truth(p.gt_boxes, p.gt_labels, p.classes(), image, row, &gt);
    iou = pair_iou(box_at(p, image, source_of(p, image, prior)), gt.box, gt.area);
  }
  p.matched_gt[at] = row;
  p.labels[at] = gt.label;
  p.label_scores[at] = iou;
}

// Thread: one (prior, ground truth) pair of one image. Writes cost, iou, inside.
__global__ FD_LAUNCH_BOUNDS(kPriorsPerBlock) void sim_ota_price_kernel(SimOtaParams p, DeviceLayout w) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kPriorsPerBlock + threadIdx.x;
  if (pair >= p.images() * p.priors() * p.rows()) return;
  const std::int64_t at = pair / p.rows(), row = pair % p.rows(), image = at / p.priors(), prior = at % p.priors();
  const double class_sum = w.class_sum[at];
  GroundTruth gt;
  if (class_sum != class_sum || row >= load_count(p.gt_count, image, p.rows()) ||
      !load_ground_truth(p.gt_boxes, p.gt_labels, p.classes(), image, row, &gt)) {
    p.cost[pair] = bit_cast<float>(0x7f800000u);
    p.iou[pair] = 0.0f;
    p.inside[pair] = false;
    return;
  }
  const Point point = point_at(p, prior);
  const std::int64_t source = source_of(p, image, prior);
  const float iou = pair_iou(box_at(p, image, source), gt.box, gt.area);
  const float score = score_at(p, image, source, gt.label, objectness_at(p, image, source));
  p.cost[pair] = pair_cost(class_sum, score, iou, p.class_weight, p.iou_weight);
  p.iou[pair] = iou;
  p.inside[pair] = p.listed || in_box(point.x, point.y, gt.box) &
                                   in_center(point.x, point.y, p.center_radius * point.stride, gt.center_x, gt.center_y);
}

}  // namespace fastdet::sim_ota
