// SPDX-License-Identifier: Apache-2.0
// Kernels of dynamic-k matching: collect, compact, choose, settle; price instead of the last when costs are wanted. An assigner
// gives its Rule (core/ota.h) and launches them by ota_cuda<Rule>.
#pragma once

#include <climits>

#include "core/assign_kernels.cuh"
#include "core/dispatch.h"
#include "core/ota_layout.h"

namespace fastdet {
namespace ota {

constexpr int kStagedRows = 64;  // ground truths in shared memory at once

FD_D Box candidate_box(const DeviceLayout& w, std::int64_t at) { return {w.x1[at], w.y1[at], w.x2[at], w.y2[at]}; }

FD_D bool candidate_inside(const OtaParams& p, const DeviceLayout& w, std::int64_t at, const GroundTruth& gt) {
  if (p.listed) return true;
  return in_box(w.x[at], w.y[at], gt.box) & in_center(w.x[at], w.y[at], w.reach[at], gt.center_x, gt.center_y);
}

template <typename Rule>
FD_D float probability_at(const typename Rule::Params& p, std::int64_t image, std::int64_t prior, std::int64_t label,
                          float factor) {
  const std::int64_t at = image * p.scores.stride[0] + prior * p.scores.stride[1] + label * p.scores.stride[2];
  return Rule::probability(load_number<float>(p.scores, at), factor);
}

FD_D Box box_at(const OtaParams& p, std::int64_t image, std::int64_t prior) {
  const std::int64_t at = image * p.boxes.stride[0] + prior * p.boxes.stride[1], step = p.boxes.stride[2];
  float corner[4];
  load_row(p.boxes, at, step, corner);
  return {corner[0], corner[1], corner[2], corner[3]};
}

struct Point {
  float x, y, stride;
};

FD_D Point point_at(const OtaParams& p, std::int64_t prior) {
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

// Block: 256 priors of one image, a thread each; then 8 threads per reached prior for its class sum, thread j adding classes
// j, j + 8, ... in float64. Reads points, ground truths through shared memory, boxes, scores of reached priors only. Writes
// class_sum (NaN where not valid) and the tile's count of valid priors; resets takers and num_pos.
template <typename Rule, typename T>
__global__ FD_LAUNCH_BOUNDS(kTile) void ota_collect_kernel(typename Rule::Params p, DeviceLayout w) {
  FD_SHARED(GroundTruth, staged, kStagedRows);
  FD_SHARED(std::int32_t, reached_priors, kTile);
  FD_SHARED(std::int32_t, warp_counts, kTile / kWarp);
  FD_SHARED(std::int32_t, valid_count, 1);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t image = block_image(w.tiles), tile = block_part(w.tiles);
  const std::int64_t first = tile * kTile, prior = first + thread, offset = image * p.priors();
  if (thread == 0) valid_count[0] = 0;

  bool usable = prior < p.priors(), reached = false;
  Point point = {0.0f, 0.0f, 0.0f};
  const std::int64_t source = usable ? source_of(p, image, prior) : -1;
  usable = source >= 0;
  if (usable) {
    point = point_at(p, prior);
    usable = is_finite(point.x) && is_finite(point.y) && is_finite(point.stride) && box_finite(box_at(p, image, source)) &&
             Rule::usable(p, image, source);
  }
  const float reach = p.center_radius * point.stride;
  const std::int64_t rows = load_count(p.gt_count, image, p.rows());
  for (std::int64_t begin = 0; begin < rows; begin += kStagedRows) {
    if (thread < kStagedRows && begin + thread < rows) {
      GroundTruth gt;
      const bool matches = load_ground_truth(p, image, begin + thread, &gt);
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

  const int group = thread / kLanes, lane = thread % kLanes, groups = static_cast<int>(kTile) / kLanes;
  for (int begin = 0; begin < hits; begin += groups) {
    const bool active = begin + group < hits;
    const std::int64_t at = active ? first + reached_priors[begin + group] : first;
    typename Rule::LaneSum lane_sum;
    if (active) {
      const std::int64_t from = source_of(p, image, at);
      const float factor = Rule::factor(p, image, from);
      const T* row = p.scores.template as<const T>() + image * p.scores.stride[0] + from * p.scores.stride[1];
      for (std::int64_t c = lane; c < p.classes(); c += kLanes) lane_sum.add(to_float(row[c * p.scores.stride[2]]), factor);
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
template <typename Rule>
__global__ FD_LAUNCH_BOUNDS(kTile) void ota_compact_kernel(typename Rule::Params p, DeviceLayout w) {
  FD_SHARED(std::int32_t, scratch, kTile / kWarp);
  FD_SHARED(std::int32_t, warp_counts, kTile / kWarp);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t image = block_image(w.tiles), tile = block_part(w.tiles);
  const std::int64_t prior = tile * kTile + thread, offset = image * p.priors();
  int before = 0;
  for (std::int64_t i = thread; i < tile; i += kTile) before += w.tile_count[image * w.tiles + i];
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
  w.factor[at] = Rule::factor(p, image, source);
  w.x1[at] = box.x1, w.y1[at] = box.y1, w.x2[at] = box.x2, w.y2[at] = box.y2;
  w.x[at] = point.x, w.y[at] = point.y, w.reach[at] = p.center_radius * point.stride;
}

// Block: one ground truth of one image, over that image's valid priors. Sums the largest IoUs to k, then takes the k cheapest
// priors: adds to their takers and lowers first_taker. Where enough priors lie inside, only those are priced, since the others
// come after. With want_cost it stops after k.
template <typename Rule>
__global__ FD_LAUNCH_BOUNDS(kChooseThreads, 1) void ota_choose_kernel(typename Rule::Params p, DeviceLayout w) {
  FD_SHARED(std::uint64_t, keys, 2 * kChooseThreads / kWarp);
  FD_SHARED(std::int32_t, sums, kChooseThreads / kWarp);
  const std::int64_t image = block_image(p.rows()), row = block_part(p.rows());
  const std::int64_t offset = image * p.priors(), n = w.count[image];
  GroundTruth gt = {};
  // The whole block returns or stays.
  const bool matches = row < load_count(p.gt_count, image, p.rows()) && n > 0 && load_ground_truth(p, image, row, &gt);
  if (!matches) {
    if (p.want_cost && threadIdx.x == 0) p.dynamic_k[image * p.rows() + row] = 0;
    return;
  }

  double iou_sum = 0.0;
  const auto scan_ious = [&](const auto& visit) {
    for (std::int64_t j = threadIdx.x; j < n; j += kChooseThreads) {
      const float iou = pair_iou(candidate_box(w, offset + j), gt.box, gt.area, Rule::kMinUnion);
      // Rising keys are falling IoUs; an IoU of 0 adds nothing.
      if (iou > 0.0f) visit(static_cast<std::uint64_t>(~order_key(iou)) << 32 | static_cast<std::uint64_t>(j));
    }
  };
  take_smallest(p.topk, keys, scan_ious, [&](std::uint64_t key) {
    iou_sum += static_cast<double>(order_key_value(~static_cast<std::uint32_t>(key >> 32)));
  });
  const int k = dynamic_k(iou_sum);
  if (p.want_cost) {
    if (threadIdx.x == 0) p.dynamic_k[image * p.rows() + row] = k;
    return;
  }

  int inside_count = 0;
  for (std::int64_t j = threadIdx.x; j < n; j += kChooseThreads) inside_count += candidate_inside(p, w, offset + j, gt) ? 1 : 0;
  const bool only_inside = block_sum(inside_count, sums) >= k;
  const auto scan_costs = [&](const auto& visit) {
    for (std::int64_t j = threadIdx.x; j < n; j += kChooseThreads) {
      const bool inside = candidate_inside(p, w, offset + j, gt);
      if (only_inside && !inside) continue;
      const std::int32_t prior = w.index[offset + j];
      const float iou = pair_iou(candidate_box(w, offset + j), gt.box, gt.area, Rule::kMinUnion);
      const bool counts = Rule::kScoreCountsApart || iou > 0.0f;
      const float score = counts ? probability_at<Rule>(p, image, w.source[offset + j], gt.label, w.factor[offset + j]) : 0.0f;
      visit(pair_key(inside, pair_cost<Rule>(w.class_sum[offset + prior], score, iou, p.class_weight, p.iou_weight), prior));
    }
  };
  take_smallest(k, keys, scan_costs, [&](std::uint64_t key) {
    if (threadIdx.x != 0) return;
    const std::int64_t at = offset + key_index(key);
    atomicAdd(&w.takers[at], 1);
    atomicMin(&w.first_taker[at], static_cast<std::int32_t>(row));
  });
}

// The cheapest ground truth of all for a prior, found by one warp.
template <typename Rule>
FD_D std::int32_t cheapest_row(const typename Rule::Params& p, const DeviceLayout& w, std::int64_t image, std::int64_t prior) {
  const std::int64_t rows = load_count(p.gt_count, image, p.rows());
  const std::int64_t source = source_of(p, image, prior);
  const Box box = box_at(p, image, source);
  const float factor = Rule::factor(p, image, source);
  const Point point = point_at(p, prior);
  const float reach = p.center_radius * point.stride;
  std::uint64_t best = kNoKey;
  for (std::int64_t row = threadIdx.x % kWarp; row < rows; row += kWarp) {
    GroundTruth gt;
    if (!load_ground_truth(p, image, row, &gt)) continue;
    const bool inside =
        p.listed | (in_box(point.x, point.y, gt.box) & in_center(point.x, point.y, reach, gt.center_x, gt.center_y));
    if (!inside && best < kFirstOutside) continue;
    const float score = probability_at<Rule>(p, image, source, gt.label, factor);
    const float iou = pair_iou(box, gt.box, gt.area, Rule::kMinUnion);
    const float cost = pair_cost<Rule>(w.class_sum[image * p.priors() + prior], score, iou, p.class_weight, p.iou_weight);
    const std::uint64_t key = pair_key(inside, cost, static_cast<std::int32_t>(row));
    best = key < best ? key : best;
  }
  return key_index(warp_min(best));
}

// Block: 256 priors of one image, a thread each; a prior with several takers is settled by its whole warp. Writes all results.
template <typename Rule>
__global__ FD_LAUNCH_BOUNDS(kTile) void ota_settle_kernel(typename Rule::Params p, DeviceLayout w) {
  const std::int64_t image = block_image(w.tiles), first = block_part(w.tiles) * kTile;
  const std::int64_t prior = first + threadIdx.x, at = image * p.priors() + prior;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool exists = prior < p.priors();
  const std::int32_t takers = exists ? w.takers[at] : 0;
  const std::int32_t row = settled_row(takers > 1, takers > 0 ? w.first_taker[at] : -1,
                                       [&](int step) { return cheapest_row<Rule>(p, w, image, prior + step); });
  const int positives = __popc(__ballot_sync(kAllLanes, row >= 0));
  if (lane == 0 && positives > 0) atomicAdd(&p.num_pos[image], positives);
  if (!exists) return;
  GroundTruth gt;
  gt.label = static_cast<std::int32_t>(p.classes());
  float iou = 0.0f;
  if (row >= 0) {
    load_ground_truth(p, image, row, &gt);
    iou = pair_iou(box_at(p, image, source_of(p, image, prior)), gt.box, gt.area, Rule::kMinUnion);
  }
  p.matched_gt[at] = row;
  p.labels[at] = gt.label;
  p.label_scores[at] = iou;
}

// Thread: one (prior, ground truth) pair of one image. Writes cost, iou, inside.
template <typename Rule>
__global__ FD_LAUNCH_BOUNDS(kTile) void ota_price_kernel(typename Rule::Params p, DeviceLayout w) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kTile + threadIdx.x;
  if (pair >= p.images() * p.priors() * p.rows()) return;
  const std::int64_t at = pair / p.rows(), row = pair % p.rows(), image = at / p.priors(), prior = at % p.priors();
  const double class_sum = w.class_sum[at];
  GroundTruth gt;
  if (class_sum != class_sum || row >= load_count(p.gt_count, image, p.rows()) || !load_ground_truth(p, image, row, &gt)) {
    p.cost[pair] = bit_cast<float>(0x7f800000u);
    p.iou[pair] = 0.0f;
    p.inside[pair] = false;
    return;
  }
  const Point point = point_at(p, prior);
  const std::int64_t source = source_of(p, image, prior);
  const float iou = pair_iou(box_at(p, image, source), gt.box, gt.area, Rule::kMinUnion);
  const float score = probability_at<Rule>(p, image, source, gt.label, Rule::factor(p, image, source));
  p.cost[pair] = pair_cost<Rule>(class_sum, score, iou, p.class_weight, p.iou_weight);
  p.iou[pair] = iou;
  p.inside[pair] = p.listed || in_box(point.x, point.y, gt.box) &
                                   in_center(point.x, point.y, p.center_radius * point.stride, gt.center_x, gt.center_y);
}

}  // namespace ota

template <typename Rule>
void ota_cuda(const typename Rule::Params& p, Stream stream) {
  using namespace ota;
  if (p.images() == 0) return;
  std::size_t bytes = 0;
  const DeviceLayout w = device_layout(p, &bytes);
  const std::int64_t tiles = p.images() * w.tiles, ground_truths = p.images() * p.rows();
  dispatch_float(p.scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    FD_LAUNCH((ota_collect_kernel<Rule, T>), tiles, kTile, 0, stream, p, w);
  });
  FD_LAUNCH((ota_compact_kernel<Rule>), tiles, kTile, 0, stream, p, w);
  if (ground_truths > 0) FD_LAUNCH((ota_choose_kernel<Rule>), ground_truths, kChooseThreads, 0, stream, p, w);
  if (!p.want_cost) {
    FD_LAUNCH((ota_settle_kernel<Rule>), tiles, kTile, 0, stream, p, w);
  } else if (const std::int64_t pairs = ground_truths * p.priors(); pairs > 0) {
    FD_LAUNCH((ota_price_kernel<Rule>), ceil_div(pairs, kTile), kTile, 0, stream, p, w);
  }
}

}  // namespace fastdet
