// SPDX-License-Identifier: Apache-2.0
// Forward, and the backward kernel over rows: gradients of locations and weights, and notes for grad_value.
#pragma once

#include "ops/ms_deform_attn/ms_deform_attn_unit.cuh"

namespace fastdet::ms_deform_attn {

// Unit: one query and head. Reads its samples, four corners each; writes out [B, Q, M D]. A group issues the loads of kAhead
// samples before it uses any. Sums in A, in the same order as on the CPU.
template <typename T, int kLanes, bool kVector, int kAhead>
__global__ FD_LAUNCH_BOUNDS(kThreads, kBlocks) void ms_deform_attn_kernel(MsDeformAttnParams p) {
  using A = ArithmeticOf<T>;
  FD_SHARED(LevelNumbers<A>, levels, MsDeformAttnParams::kMaxLevels);
  load_levels(p, levels);
  const UnitThread<kLanes> unit(p);
  const RowIndex at = row_index(p, unit.row);
  const TensorView& v = p.value;
  const T* const head = v.as<const T>() + at.image * v.stride[0] + at.head * v.stride[2];
  const int n = static_cast<int>(p.samples());
  Softmax<A> softmax = {A(0), A(1)};
  if (p.fused) softmax = row_softmax<kLanes, A>(p, at, unit.group);

  for (std::int64_t first = 0; first < p.channels(); first += 4 * kLanes) {
    A sums[4] = {A(0), A(0), A(0), A(0)};
    for (int begin = unit.group; begin < n; begin += kSums * kAhead) {
      Pack<T> pixels[kAhead][4];
      A taps[kAhead][4];
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        const int t = begin + kSums * ahead;
        const Corners<A> corners = sample_corners(p, read_sample(p, levels, at, t < n ? t : begin, softmax));
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const bool there = t < n && corners.token[c] >= 0;
          taps[ahead][c] = t < n ? corners.tap[c] : A(0);
          pixels[ahead][c] = load_channels<T, kLanes, kVector>(head + (there ? corners.token[c] * v.stride[1] : 0), v.stride[3],
                                                               first, unit.lane, p.channels(), there);
        }
      }
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        const Pack<T>(&pixel)[4] = pixels[ahead];
        const A(&tap)[4] = taps[ahead];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[i] += mix(tap[0], widen(pixel[0].v[i]), tap[1], widen(pixel[1].v[i]), tap[2], widen(pixel[2].v[i]), tap[3],
                         widen(pixel[3].v[i]));
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = sum_groups<kLanes>(sums[i]);
    if (unit.active && unit.group == 0) {
      store_channels<T, kLanes, kVector>(static_cast<T*>(p.out) + unit.row * p.channels(), first, unit.lane, p.channels(), sums);
    }
  }
}

// Dot of a gradient with one pixel from the thread's partial sums, in every lane of the group.
template <int kLanes, bool kVector, typename A>
FD_D A reduce_dot(A (&sums)[4]) {
  if constexpr (kVector) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += __shfl_xor_sync(kAllThreads, sums[i], step);
    }
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
  } else {
    A sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllThreads, sum, step);
    return sum;
  }
}

template <typename T, int kLanes, bool kVector, typename A>
FD_D SampleGradient<A> gradient_of(const MsDeformAttnParams& p, const RowIndex& at, int lane, const Sample<A>& s,
                                   const Corners<A>& corners) {
  const TensorView &v = p.value, &g = p.grad_out;
  const T* const head = v.as<const T>() + at.image * v.stride[0] + at.head * v.stride[2];
  const T* const grad = g.as<const T>() + at.image * g.stride[0] + at.query * g.stride[1] + at.head * p.channels() * g.stride[2];
  A dots[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const bool there = corners.token[c] >= 0;
    A sums[4] = {A(0), A(0), A(0), A(0)};
    for (std::int64_t first = 0; first < p.channels(); first += 4 * kLanes) {
      const Pack<T> factor = load_channels<T, kLanes, kVector>(grad, g.stride[2], first, lane, p.channels(), true);
      const Pack<T> pixel = load_channels<T, kLanes, kVector>(head + (there ? corners.token[c] * v.stride[1] : 0), v.stride[3],
                                                              first, lane, p.channels(), there);
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += widen(factor.v[i]) * widen(pixel.v[i]);
    }
    const A dot = reduce_dot<kLanes, kVector>(sums);
    dots[c] = there ? dot : A(0);
  }
  const bool moves = !p.discrete && s.place.counts != 0;
  return sample_gradient(s.weight, s.place.fx, s.place.fy, s.width, s.height, dots[0], dots[1], dots[2], dots[3], moves);
}

// Adds a sample's part of grad_value by float atomics: the order is nobody's. Only where the caller asked for it.
template <typename T, int kLanes, bool kVector, typename A>
FD_D void scatter_sample(const MsDeformAttnParams& p, A* sums, const RowIndex& at, int lane, const Corners<A>& corners) {
  const TensorView& g = p.grad_out;
  const T* const grad = g.as<const T>() + at.image * g.stride[0] + at.query * g.stride[1] + at.head * p.channels() * g.stride[2];
  for (int c = 0; c < 4; ++c) {
    if (corners.token[c] < 0) continue;
    A* const row = sums + ((at.image * p.tokens() + corners.token[c]) * p.heads() + at.head) * p.channels();
    for (std::int64_t first = 0; first < p.channels(); first += 4 * kLanes) {
      const Pack<T> factor = load_channels<T, kLanes, kVector>(grad, g.stride[2], first, lane, p.channels(), true);
      for (int i = 0; i < 4; ++i) {
        const std::int64_t d = channel<kLanes, kVector>(first, lane, i);
        if (d < p.channels()) atomicAdd(&row[d], corners.tap[c] * widen(factor.v[i]));
      }
    }
  }
}

// Writes down what the lists of grad_value need of a sample, and counts it in its cell.
template <typename A>
FD_D void note_sample(const MsDeformAttnParams& p, const ValueLists<A>& lists, const LevelNumbers<A>* levels, const RowIndex& at,
                      int t, const Sample<A>& s, const Corners<A>& corners) {
  const std::int64_t head = at.image * p.heads() + at.head;
  const std::int64_t sample = head * lists.per_head + at.query * p.samples() + t;
  std::int64_t cell = -1;
  if (s.place.counts != 0) {
    cell = cell_of(s.level, s.place.x, s.place.y);
    for (int level = 0; level < s.level_number; ++level) cell += level_cells(levels[level].level);
    if (cell >= lists.max_cells) cell = -1;  // levels that overlap, which only the host could have refused
  }
  if (cell >= 0) atomicAdd(&lists.ends[head * lists.max_cells + cell], 1);
  lists.cell[sample] = static_cast<std::int32_t>(cell);
  lists.taps[sample] = {{corners.tap[0], corners.tap[1], corners.tap[2], corners.tap[3]}};
}

// Unit: one query and head. Writes gradients of its locations and weights (offsets and logits), and either notes for the lists of
// grad_value or, not deterministic, adds to the sums of grad_value.
template <typename T, int kLanes, bool kVector>
__global__ FD_LAUNCH_BOUNDS(kThreads, kBlocks) void ms_deform_attn_rows_kernel(MsDeformAttnParams p,
                                                                               DeviceLayout<ArithmeticOf<T>> w) {
  using A = ArithmeticOf<T>;
  FD_SHARED(LevelNumbers<A>, levels, MsDeformAttnParams::kMaxLevels);
  load_levels(p, levels);
  const UnitThread<kLanes> unit(p);
  const RowIndex at = row_index(p, unit.row);
  const int n = static_cast<int>(p.samples());
  const bool dots_wanted = p.grad_locations != nullptr || p.grad_weights != nullptr;
  const bool writes = unit.active && unit.lane == 0;
  Softmax<A> softmax = {A(0), A(1)};
  if (p.fused) softmax = row_softmax<kLanes, A>(p, at, unit.group);

  A weighted = A(0);
  for (int step = 0; step < n; step += kSums) {
    const int own = step + unit.group, t = own < n ? own : step;
    const bool mine = own < n;
    const Sample<A> s = read_sample(p, levels, at, t, softmax);
    const Corners<A> corners = sample_corners(p, s);
    const std::int64_t index = unit.row * n + t;
    if (dots_wanted) {
      const SampleGradient<A> g = gradient_of<T, kLanes, kVector>(p, at, unit.lane, s, corners);
      if (mine) weighted += s.weight * g.weight;
      A x = g.x, y = g.y;
      if (p.fused && p.references.shape[3] == 4) {
        x = offset_gradient_of_box(s.size_x, s.share, static_cast<A>(p.offset_scale), x);
        y = offset_gradient_of_box(s.size_y, s.share, static_cast<A>(p.offset_scale), y);
      } else if (p.fused) {
        x = offset_gradient_of_point(s.size_x, x);
        y = offset_gradient_of_point(s.size_y, y);
      }
      if (writes && mine && p.grad_locations != nullptr) {
        store_number(p.grad_locations, p.locations.dtype, 2 * index, x);
        store_number(p.grad_locations, p.locations.dtype, 2 * index + 1, y);
      }
      if (writes && mine && p.fused) w.weight_grads[index] = g.weight;
      if (writes && mine && !p.fused && p.grad_weights != nullptr) store_number(p.grad_weights, p.weights.dtype, index, g.weight);
    }
    if (p.grad_value == nullptr || !mine || !unit.active) continue;
    if (!p.deterministic) {
      scatter_sample<T, kLanes, kVector>(p, w.sums, at, unit.lane, corners);
    } else if (unit.lane == 0) {
      note_sample(p, w.lists, levels, at, t, s, corners);
    }
  }
  if (!p.fused || p.grad_weights == nullptr) return;
  const A total = sum_groups<kLanes>(weighted);
  for (int t = unit.group; t < n; t += kSums) {
    if (!writes) continue;
    const std::int64_t index = unit.row * n + t;
    const A weight = exp_exact(weight_at<A>(p, at, t) - softmax.largest) * softmax.inverse;
    store_number(p.grad_weights, p.weights.dtype, index, weight * (w.weight_grads[index] - total));
  }
}

}  // namespace fastdet::ms_deform_attn
