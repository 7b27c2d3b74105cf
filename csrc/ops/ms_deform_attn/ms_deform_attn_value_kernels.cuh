// SPDX-License-Identifier: Apache-2.0
// grad_value without float atomics: samples of each image and head are sorted by cell (count, scan, fill, order), then each token
// sums the samples of the four cells around it. Equal cells keep the order of samples, so nothing depends on that of threads.
#pragma once

#include "ops/ms_deform_attn/ms_deform_attn_unit.cuh"

namespace fastdet::ms_deform_attn {

constexpr int kWarp = 32;

// Thread: one number.
template <typename A>
__global__ FD_LAUNCH_BOUNDS(kThreads) void ms_deform_attn_clear_kernel(A* data, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) data[i] = A(0);
}

// Thread: one number of grad_value, from its sum.
template <typename T>
__global__ FD_LAUNCH_BOUNDS(kThreads) void ms_deform_attn_narrow_kernel(const float* sums, T* out, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = narrow<T>(sums[i]);
}

FD_D std::int64_t count_cells(const MsDeformAttnParams& p, const LevelNumbers<float>* levels, std::int64_t most) {
  std::int64_t cells = 0;
  for (int level = 0; level < p.levels; ++level) cells += level_cells(levels[level].level);
  return cells < most ? cells : most;
}

// Block: one image and head. Counts of cells become the place of each cell's first sample.
template <typename A>
__global__ FD_LAUNCH_BOUNDS(kThreads) void ms_deform_attn_scan_kernel(MsDeformAttnParams p, ValueLists<A> lists) {
  FD_SHARED(LevelNumbers<float>, levels, MsDeformAttnParams::kMaxLevels);
  FD_SHARED(std::int32_t, warp_sums, kThreads / kWarp);
  load_levels(p, levels);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  std::int32_t* const ends = lists.ends + static_cast<std::int64_t>(blockIdx.x) * lists.max_cells;
  const std::int64_t cells = count_cells(p, levels, lists.max_cells);
  std::int32_t before = 0;
  for (std::int64_t begin = 0; begin < cells; begin += kThreads) {
    const bool exists = begin + thread < cells;
    const std::int32_t count = exists ? ends[begin + thread] : 0;
    std::int32_t sum = count;  // of this lane and the lower ones
    for (int step = 1; step < kWarp; step *= 2) {
      const std::int32_t other = __shfl_up_sync(kAllThreads, sum, static_cast<unsigned>(step));
      if (lane >= step) sum += other;
    }
    if (lane == kWarp - 1) warp_sums[warp] = sum;
    __syncthreads();
    std::int32_t total = 0;
    for (int i = 0; i < kThreads / kWarp; ++i) {
      if (i < warp) sum += warp_sums[i];
      total += warp_sums[i];
    }
    if (exists) ends[begin + thread] = before + sum - count;
    before += total;
    __syncthreads();
  }
}

// Thread: one sample, put into its cell's list in no particular order. Afterwards `ends` are the ends of the lists.
template <typename A>
__global__ FD_LAUNCH_BOUNDS(kThreads) void ms_deform_attn_fill_kernel(MsDeformAttnParams p, ValueLists<A> lists) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.images() * p.heads() * lists.per_head) return;
  const std::int64_t head = i / lists.per_head, sample = i % lists.per_head;
  const std::int32_t cell = lists.cell[i];
  if (cell < 0) return;
  const std::int32_t place = atomicAdd(&lists.ends[head * lists.max_cells + cell], 1);
  lists.list[head * lists.per_head + place] = {static_cast<std::int32_t>(sample),
                                               static_cast<std::int32_t>(sample / p.samples())};
}

// A list of up to 32 entries put in the order of samples by one warp: each lane finds the rank of its entry.
FD_D void order_short(Entry* list, int n, int lane) {
  const Entry entry = lane < n ? list[lane] : Entry{0, 0};
  int rank = 0;
  for (int i = 0; i < n; ++i) rank += __shfl_sync(kAllThreads, entry.sample, i) < entry.sample ? 1 : 0;
  __syncwarp();  // shuffles do not order memory: all entries are read before one is written
  if (lane < n) list[rank] = entry;
}

// A longer list, made anew from all samples of its level in order: no slower for lists of any length.
FD_D void collect_long(const MsDeformAttnParams& p, const std::int32_t* cells, std::int32_t cell, int level, Entry* list,
                       int lane) {
  const int first = level == 0 ? 0 : p.point_end[level - 1], points = p.point_end[level] - first;
  const std::int64_t candidates = p.queries() * points;
  std::int64_t written = 0;
  for (std::int64_t begin = 0; begin < candidates; begin += kWarp) {
    const std::int64_t i = begin + lane;
    std::int64_t query = 0, sample = 0;
    bool found = false;
    if (i < candidates) {
      query = i / points;
      sample = query * p.samples() + first + i % points;
      found = cells[sample] == cell;
    }
    const unsigned votes = __ballot_sync(kAllThreads, found);
    if (found) {
      list[written + __popc(votes & ((1u << lane) - 1u))] = {static_cast<std::int32_t>(sample), static_cast<std::int32_t>(query)};
    }
    written += __popc(votes);
  }
}

// Warp: 32 cells of one image and head, a lane each; lists of two and more it orders together.
template <typename A>
__global__ FD_LAUNCH_BOUNDS(kThreads) void ms_deform_attn_order_kernel(MsDeformAttnParams p, ValueLists<A> lists,
                                                                       std::int64_t warps_per_head) {
  FD_SHARED(LevelNumbers<float>, levels, MsDeformAttnParams::kMaxLevels);
  load_levels(p, levels);
  const std::int64_t warp = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t head = warp / warps_per_head, cell = warp % warps_per_head * kWarp + lane;
  if (head >= p.images() * p.heads()) return;  // whole warps
  const std::int32_t* const ends = lists.ends + head * lists.max_cells;
  Entry* const list = lists.list + head * lists.per_head;
  std::int32_t begin = 0, size = 0;
  int level = 0;
  if (cell < count_cells(p, levels, lists.max_cells)) {
    begin = cell == 0 ? 0 : ends[cell - 1];
    size = ends[cell] - begin;
    std::int64_t end = level_cells(levels[0].level);
    while (cell >= end && level + 1 < p.levels) end += level_cells(levels[++level].level);
  }
  for (unsigned open = __ballot_sync(kAllThreads, size > 1); open != 0; open &= open - 1) {
    const int owner = __ffs(static_cast<int>(open)) - 1;
    const std::int32_t from = __shfl_sync(kAllThreads, begin, owner), n = __shfl_sync(kAllThreads, size, owner);
    const int owner_level = __shfl_sync(kAllThreads, level, owner);
    if (n <= kWarp) {
      order_short(list + from, n, lane);
    } else {
      collect_long(p, lists.cell + head * lists.per_head, static_cast<std::int32_t>(cell - lane + owner), owner_level,
                   list + from, lane);
    }
  }
}

// Group of kLanes threads: one token and head. Sums the samples that have it as corner 3, 2, 1, 0, in this order; writes
// grad_value.
template <typename T, int kLanes, bool kVector>
__global__ FD_LAUNCH_BOUNDS(kThreads, 1) void ms_deform_attn_value_kernel(MsDeformAttnParams p,
                                                                          ValueLists<ArithmeticOf<T>> lists) {
  using A = ArithmeticOf<T>;
  FD_SHARED(LevelNumbers<float>, levels, MsDeformAttnParams::kMaxLevels);
  load_levels(p, levels);
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  if (row >= p.images() * p.tokens() * p.heads()) return;
  const std::int64_t m = row % p.heads(), token = row / p.heads() % p.tokens(), b = row / p.heads() / p.tokens();
  const std::int64_t head = b * p.heads() + m;
  const std::int32_t* const ends = lists.ends + head * lists.max_cells;

  std::int64_t cell = -1, row_cells = 0, first_cell = 0;  // cell of corner 0
  for (int level = 0; level < p.levels && cell < 0; ++level) {
    const Level size = levels[level].level;
    const std::int64_t in_level = token - size.start;
    if (in_level >= 0 && in_level < static_cast<std::int64_t>(size.width) * size.height) {
      row_cells = size.width + 1;
      cell = first_cell + (in_level / size.width + 1) * row_cells + in_level % size.width + 1;
    }
    first_cell += level_cells(size);
  }
  if (cell >= lists.max_cells) cell = -1;

  const TensorView& g = p.grad_out;
  const T* const grad = g.as<const T>() + b * g.stride[0] + m * p.channels() * g.stride[2];
  for (std::int64_t first = 0; first < p.channels(); first += 4 * kLanes) {
    A sums[4] = {A(0), A(0), A(0), A(0)};
    for (int c = p.discrete ? 0 : 3; c >= 0 && cell >= 0; --c) {
      const std::int64_t at = cell - (c & 1) - (c >> 1) * row_cells;
      const std::int32_t end = ends[at];
      for (std::int32_t i = at == 0 ? 0 : ends[at - 1]; i < end; ++i) {
        const Entry entry = lists.list[head * lists.per_head + i];
        const A tap = lists.taps[head * lists.per_head + entry.sample].corner[c];
        const Pack<T> factor =
            load_channels<T, kLanes, kVector>(grad + entry.query * g.stride[1], g.stride[2], first, lane, p.channels(), true);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += tap * widen(factor.v[j]);
      }
    }
    store_channels<T, kLanes, kVector>(static_cast<T*>(p.grad_value) + row * p.channels(), first, lane, p.channels(), sums);
  }
}

}  // namespace fastdet::ms_deform_attn
