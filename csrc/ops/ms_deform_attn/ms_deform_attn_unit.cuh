// SPDX-License-Identifier: Apache-2.0
// What the kernels have in common. A unit of 4 kLanes threads works on one query and head: four groups take the samples t, t + 4,
// ..., the lanes of a group share the channels, four at a time: adjacent ones by one load (kVector), else one every kLanes.
#pragma once

#include "core/launch.h"
#include "core/numeric.h"
#include "ops/ms_deform_attn/ms_deform_attn_layout.h"
#include "ops/ms_deform_attn/ms_deform_attn_math.h"

namespace fastdet::ms_deform_attn {

constexpr int kThreads = 128;
constexpr int kBlocks = 3;  // wanted on a multiprocessor: left to itself, the compiler wants more and spills
constexpr unsigned kAllThreads = 0xffffffffu;

// Four channels.
template <typename T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Pack {
  T v[4];
};

// Reads the levels into shared memory; a barrier.
template <typename A>
FD_D void load_levels(const MsDeformAttnParams& p, LevelNumbers<A>* levels) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < p.levels) levels[thread] = load_level_numbers<A>(p, thread);
  __syncthreads();
}

FD_D int level_of(const MsDeformAttnParams& p, int t) {
  int level = 0;
  while (level + 1 < p.levels && t >= p.point_end[level]) ++level;
  return level;
}

struct RowIndex {
  std::int64_t image, query, head;
};
FD_D RowIndex row_index(const MsDeformAttnParams& p, std::int64_t row) {
  return {row / p.heads() / p.queries(), row / p.heads() % p.queries(), row % p.heads()};
}

// This thread's place in its unit.
template <int kLanes>
struct UnitThread {
  std::int64_t row;
  bool active;  // units past the last row take part in shuffles, and work on row 0
  int lane, group;

  FD_D explicit UnitThread(const MsDeformAttnParams& p) {
    const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    row = thread / (kSums * kLanes);
    active = row < p.rows();
    row = active ? row : 0;
    lane = static_cast<int>(threadIdx.x) % kLanes;
    group = static_cast<int>(threadIdx.x) / kLanes % kSums;
  }
};

// (0 + 2) + (1 + 3) over the groups of a unit, in every thread.
template <int kLanes, typename A>
FD_D A sum_groups(A value) {
  value += __shfl_xor_sync(kAllThreads, value, 2 * kLanes);
  return value + __shfl_xor_sync(kAllThreads, value, kLanes);
}

template <typename A>
FD_D A weight_at(const MsDeformAttnParams& p, const RowIndex& at, int t) {
  const TensorView& w = p.weights;
  return load_number<A>(w, at.image * w.stride[0] + at.query * w.stride[1] + at.head * w.stride[2] + t * w.stride[3]);
}

// Largest logit of a row, and one over its sum of exponentials.
template <typename A>
struct Softmax {
  A largest, inverse;
};
template <int kLanes, typename A>
FD_D Softmax<A> row_softmax(const MsDeformAttnParams& p, const RowIndex& at, int group) {
  const int n = static_cast<int>(p.samples());
  A largest = -static_cast<A>(bit_cast<float>(0x7f800000u));
  for (int t = group; t < n; t += kSums) {
    const A logit = weight_at<A>(p, at, t);
    largest = logit > largest ? logit : largest;
  }
  for (int step = 2 * kLanes; step >= kLanes; step /= 2) {
    const A other = __shfl_xor_sync(kAllThreads, largest, step);
    largest = other > largest ? other : largest;
  }
  A sum = A(0);
  for (int t = group; t < n; t += kSums) sum += exp_exact(weight_at<A>(p, at, t) - largest);
  return {largest, reciprocal(sum_groups<kLanes>(sum))};
}

// One sample: where it lies and what it weighs; and what the gradients of fused inputs need.
template <typename A>
struct Sample {
  Place<A> place;
  Level level;
  int level_number;
  A weight, width, height;
  A share, size_x, size_y;  // fused only
};

template <typename A>
FD_D Sample<A> read_sample(const MsDeformAttnParams& p, const LevelNumbers<A>* levels, const RowIndex& at, int t,
                           const Softmax<A>& softmax) {
  Sample<A> s;
  s.level_number = level_of(p, t);
  const LevelNumbers<A>& numbers = levels[s.level_number];
  s.level = numbers.level;
  s.width = numbers.width, s.height = numbers.height;
  const TensorView& l = p.locations;
  const std::int64_t first = at.image * l.stride[0] + at.query * l.stride[1] + at.head * l.stride[2] + t * l.stride[3];
  A x = load_number<A>(l, first), y = load_number<A>(l, first + l.stride[4]);
  s.weight = weight_at<A>(p, at, t);
  s.share = s.size_x = s.size_y = A(0);
  if (p.fused) {
    s.weight = exp_exact(s.weight - softmax.largest) * softmax.inverse;
    const TensorView& r = p.references;
    const std::int64_t from =
        at.image * r.stride[0] + at.query * r.stride[1] + (r.shape[2] == 1 ? 0 : s.level_number * r.stride[2]);
    const A center_x = load_number<A>(r, from), center_y = load_number<A>(r, from + r.stride[3]);
    if (r.shape[3] == 4) {
      s.share = numbers.share;
      s.size_x = load_number<A>(r, from + 2 * r.stride[3]), s.size_y = load_number<A>(r, from + 3 * r.stride[3]);
      x = location_from_box(center_x, s.size_x, x, s.share, static_cast<A>(p.offset_scale));
      y = location_from_box(center_y, s.size_y, y, s.share, static_cast<A>(p.offset_scale));
    } else {
      s.size_x = numbers.pixel_x, s.size_y = numbers.pixel_y;
      x = location_from_point(center_x, x, s.size_x);
      y = location_from_point(center_y, y, s.size_y);
    }
  }
  s.place = p.discrete ? place_discrete(x, y, s.width, s.height) : place_bilinear(x, y, s.width, s.height);
  return s;
}

// Tokens of the corners, and the sample's weight times their shares.
template <typename A>
struct Corners {
  std::int32_t token[4];
  A tap[4];
};

template <int kCorner, typename A>
FD_D void set_corner(const MsDeformAttnParams& p, const Sample<A>& s, Corners<A>* corners) {
  const std::int32_t token = corner_token<kCorner>(s.place, p.discrete, s.level.width, s.level.height, s.level.start);
  const A tap = s.weight * corner_share<kCorner>(s.place.fx, s.place.fy);
  corners->token[kCorner] = token;
  corners->tap[kCorner] = token < 0 ? A(0) : tap;
}
template <typename A>
FD_D Corners<A> sample_corners(const MsDeformAttnParams& p, const Sample<A>& s) {
  Corners<A> corners;
  set_corner<0>(p, s, &corners);
  set_corner<1>(p, s, &corners);
  set_corner<2>(p, s, &corners);
  set_corner<3>(p, s, &corners);
  return corners;
}

// The thread's channels of a chunk that begins at `first`: number i of four.
template <int kLanes, bool kVector>
FD_D std::int64_t channel(std::int64_t first, int lane, int i) {
  return kVector ? first + 4 * lane + i : first + lane + kLanes * i;
}

// Four channels of a row of `channels`; 0 past its end or where it is not `there`.
template <typename T, int kLanes, bool kVector>
FD_D Pack<T> load_channels(const T* row, std::int64_t stride, std::int64_t first, int lane, std::int64_t channels, bool there) {
  Pack<T> pack = {};
  if constexpr (kVector) {
    const std::int64_t at = first + 4 * lane;
    if (there && at < channels) pack = *reinterpret_cast<const Pack<T>*>(row + at);
  } else {
    for (int i = 0; i < 4; ++i) {
      const std::int64_t at = channel<kLanes, false>(first, lane, i);
      if (there && at < channels) pack.v[i] = row[at * stride];
    }
  }
  return pack;
}

template <typename T, int kLanes, bool kVector, typename A>
FD_D void store_channels(T* row, std::int64_t first, int lane, std::int64_t channels, const A (&values)[4]) {
  if constexpr (kVector) {
    Pack<T> pack;
    for (int i = 0; i < 4; ++i) pack.v[i] = narrow<T>(values[i]);
    if (first + 4 * lane < channels) *reinterpret_cast<Pack<T>*>(row + first + 4 * lane) = pack;
  } else {
    for (int i = 0; i < 4; ++i) {
      const std::int64_t at = channel<kLanes, false>(first, lane, i);
      if (at < channels) row[at] = narrow<T>(values[i]);
    }
  }
}

}  // namespace fastdet::ms_deform_attn
