// SPDX-License-Identifier: Apache-2.0
// CPU: the samples of one query and head side by side, so that places and weights are computed as vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/numeric.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_layout.h"
#include "ops/ms_deform_attn/ms_deform_attn_math.h"

namespace fastdet::ms_deform_attn {

// Loops over samples go in steps of this many, so that they are whole vectors; what is behind the last sample is not a number
// and reaches no pixel.
constexpr int kStep = 16;
constexpr int kMaxSamples = MsDeformAttnParams::kMaxSamples;
static_assert(kMaxSamples % kStep == 0);
constexpr int kRowWidth = kMaxSamples + kStep;  // arrays a power of two apart would share few places of the nearest cache

// What does not depend on query or head: the level of each sample, spread over arrays. Made once per call.
template <typename A>
struct SampleTable {
  A width[kRowWidth] = {}, height[kRowWidth] = {};
  std::int32_t pixels_x[kRowWidth] = {}, pixels_y[kRowWidth] = {}, start[kRowWidth] = {};
  std::int32_t cell_start[kRowWidth] = {};
  LevelNumbers<A> numbers[MsDeformAttnParams::kMaxLevels];
  std::int64_t first_cell[MsDeformAttnParams::kMaxLevels];
  std::int64_t cells = 0;
  int samples = 0;

  explicit SampleTable(const MsDeformAttnParams& p) : samples(static_cast<int>(p.samples())) {
    int t = 0;
    for (int l = 0; l < p.levels; ++l) {
      numbers[l] = load_level_numbers<A>(p, l);
      const Level& level = numbers[l].level;
      first_cell[l] = cells;
      for (; t < p.point_end[l]; ++t) {
        width[t] = numbers[l].width, height[t] = numbers[l].height;
        pixels_x[t] = level.width, pixels_y[t] = level.height, start[t] = level.start;
        cell_start[t] = static_cast<std::int32_t>(cells);
      }
      cells += level_cells(level);
    }
  }
};

// Index of a row in [B, Q, M].
struct RowPlace {
  std::int64_t b, q, m;
};

// One row: the samples of a query and head.
template <typename A>
struct Row {
  RowPlace place;
  A x[kRowWidth], y[kRowWidth];  // locations
  A weight[kRowWidth];
  A size_x[kRowWidth], size_y[kRowWidth];  // fused: of the reference, or of a pixel
  A fx[kRowWidth], fy[kRowWidth];
  A tap[4][kRowWidth];               // weight times share, 0 outside
  std::int32_t token[4][kRowWidth];  // -1: outside
  const void* pixel[kRowWidth][4];   // of each corner; zeros where outside
  std::int32_t cell[kRowWidth];      // -1: does not count
};

// Of another dtype; seldom, and not worth a copy in every loop that asks for it.
template <typename A>
void load_converted(const TensorView& view, std::int64_t at, std::int64_t stride, int n, A* out) {
  for (int i = 0; i < n; ++i) out[i] = load_number<A>(view, at + i * stride);
}

template <typename A>
FD_HD void load_numbers(const TensorView& view, std::int64_t at, std::int64_t stride, int n, A* out) {
  if (item_size(view.dtype) != sizeof(A)) return load_converted(view, at, stride, n, out);
  const A* const from = view.as<const A>() + at;
  if (stride == 1) {
    for (int i = 0; i < n; ++i) out[i] = from[i];
  } else if (stride == 2) {  // x or y of adjacent pairs
    for (int i = 0; i < n; ++i) out[i] = from[2 * i];
  } else {
    for (int i = 0; i < n; ++i) out[i] = from[i * stride];
  }
}

// In whole steps: what is behind the last logit must not be a number, and stays so.
template <typename A>
FD_HD void softmax(A* logits, int n) {
  A largest[kStep];
  for (int i = 0; i < kStep; ++i) largest[i] = -std::numeric_limits<A>::infinity();
  for (int step = 0; step < n; step += kStep) {
    for (int i = 0; i < kStep; ++i) largest[i] = logits[step + i] > largest[i] ? logits[step + i] : largest[i];
  }
  for (int width = kStep / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) largest[i] = largest[i + width] > largest[i] ? largest[i + width] : largest[i];
  }
  for (int step = 0; step < n; step += kStep) {
    for (int i = step; i < step + kStep; ++i) logits[i] = exp_exact(logits[i] - largest[0]);
  }
  A sum[kSums] = {};
  int t = 0;
  for (; t + kSums <= n; t += kSums) {
    for (int i = 0; i < kSums; ++i) sum[i] += logits[t + i];
  }
  for (int i = 0; t + i < n; ++i) sum[i] += logits[t + i];
  const A inverse = reciprocal((sum[0] + sum[2]) + (sum[1] + sum[3]));
  for (int step = 0; step < n; step += kStep) {
    for (int i = step; i < step + kStep; ++i) logits[i] = logits[i] * inverse;
  }
}

// Offsets in x and y become locations.
template <typename A>
FD_HD void move_references(const MsDeformAttnParams& p, const SampleTable<A>& table, std::int64_t b, std::int64_t q,
                           Row<A>* row) {
  const TensorView& r = p.references;
  const std::int64_t at = b * r.stride[0] + q * r.stride[1];
  const std::int64_t per_level = r.shape[2] == 1 ? 0 : r.stride[2];
  const bool box = r.shape[3] == 4;
  const A scale = static_cast<A>(p.offset_scale);
  int t = 0;
  for (int level = 0; level < p.levels; ++level) {
    const LevelNumbers<A>& numbers = table.numbers[level];
    A reference[4] = {A(0), A(0), numbers.pixel_x, numbers.pixel_y};
    for (int i = 0; i < (box ? 4 : 2); ++i) reference[i] = load_number<A>(r, at + level * per_level + i * r.stride[3]);
    for (; t < p.point_end[level]; ++t) {
      row->size_x[t] = reference[2], row->size_y[t] = reference[3];
      row->x[t] = box ? location_from_box(reference[0], reference[2], row->x[t], numbers.share, scale)
                      : location_from_point(reference[0], row->x[t], reference[2]);
      row->y[t] = box ? location_from_box(reference[1], reference[3], row->y[t], numbers.share, scale)
                      : location_from_point(reference[1], row->y[t], reference[3]);
    }
  }
}

template <int kCorner, typename A>
FD_HD void place_corner(const Place<A>& place, bool discrete, const SampleTable<A>& table, int t, Row<A>* row) {
  const std::int32_t token = corner_token<kCorner>(place, discrete, table.pixels_x[t], table.pixels_y[t], table.start[t]);
  const A tap = row->weight[t] * corner_share<kCorner>(place.fx, place.fy);
  row->token[kCorner][t] = token;
  row->tap[kCorner][t] = token < 0 ? A(0) : tap;
}

template <typename A, bool kDiscrete>
FD_HD void place_step(const SampleTable<A>& table, int step, Row<A>* row) {
  for (int t = step; t < step + kStep; ++t) {
    const Place<A> place = kDiscrete ? place_discrete(row->x[t], row->y[t], table.width[t], table.height[t])
                                     : place_bilinear(row->x[t], row->y[t], table.width[t], table.height[t]);
    place_corner<0>(place, kDiscrete, table, t, row);
    place_corner<1>(place, kDiscrete, table, t, row);
    place_corner<2>(place, kDiscrete, table, t, row);
    place_corner<3>(place, kDiscrete, table, t, row);
    const std::int32_t cell = table.cell_start[t] + (place.y + 1) * (table.pixels_x[t] + 1) + (place.x + 1);
    row->fx[t] = place.fx, row->fy[t] = place.fy;
    row->cell[t] = place.counts != 0 ? cell : -1;
  }
}

// What the caller gave for a row.
template <typename A>
FD_HD void load_row(const MsDeformAttnParams& p, std::int64_t i, Row<A>* row) {
  const std::int64_t b = i / p.heads() / p.queries(), q = i / p.heads() % p.queries(), m = i % p.heads();
  row->place = {b, q, m};
  const int n = static_cast<int>(p.samples());
  const TensorView &l = p.locations, &w = p.weights;
  const std::int64_t at = b * l.stride[0] + q * l.stride[1] + m * l.stride[2];
  load_numbers(l, at, l.stride[3], n, row->x);
  load_numbers(l, at + l.stride[4], l.stride[3], n, row->y);
  load_numbers(w, b * w.stride[0] + q * w.stride[1] + m * w.stride[2], w.stride[3], n, row->weight);
  for (int t = n; t % kStep != 0; ++t) row->x[t] = row->y[t] = row->weight[t] = std::numeric_limits<A>::quiet_NaN();
}

// Where the samples of a row lie and what they weigh.
template <typename A>
FD_HD void place_row(const MsDeformAttnParams& p, const SampleTable<A>& table, Row<A>* row) {
  const int n = table.samples;
  if (p.fused) {
    softmax(row->weight, n);
    move_references(p, table, row->place.b, row->place.q, row);
  }
  for (int step = 0; step < n; step += kStep) {
    if (p.discrete) {
      place_step<A, true>(table, step, row);
    } else {
      place_step<A, false>(table, step, row);
    }
  }
}

constexpr std::int64_t kLine = 64;  // bytes of a cache line
alignas(kLine) inline constexpr unsigned char kNoPixel[kDotWidth * sizeof(double)] = {};

// Channels of a token and head, or 32 zeros.
template <typename T>
FD_HD const T* pixel(const T* head, std::int64_t token_stride, std::int32_t token) {
  return token < 0 ? reinterpret_cast<const T*>(kNoPixel) : head + token * token_stride;
}

// Eight numbers in a register or two; GCC and clang know it, and lower it where there is no such register.
template <typename A>
struct Eight {
  typedef A Vector __attribute__((vector_size(8 * sizeof(A))));
  typedef A Low __attribute__((vector_size(4 * sizeof(A))));
};

template <typename A, typename T>
FD_HD void load_eight(const T* from, typename Eight<A>::Vector* to) {
  A numbers[8];
  for (int i = 0; i < 8; ++i) numbers[i] = widen(from[i]);
  memcpy(to, numbers, sizeof(numbers));
}

// Asks for the pixels of a row: the maps seldom lie in a near cache. Into the second one: the nearest has too few places for
// reads on their way, and would wait for each.
template <typename T, typename A>
FD_HD void ask_pixels(const MsDeformAttnParams& p, int samples, Row<A>* row) {
  const TensorView& v = p.value;
  const T* const head = v.as<const T>() + row->place.b * v.stride[0] + row->place.m * v.stride[2];
  const std::int64_t bytes = p.channels() * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t reach = std::min<std::int64_t>(reinterpret_cast<std::uintptr_t>(head) % kLine + bytes, 4 * kLine);
  for (int t = 0; t < samples; ++t) {
    for (int c = 0; c < 4; ++c) {
      const T* const at = pixel(head, v.stride[1], row->token[c][t]);
      row->pixel[t][c] = at;
      for (std::int64_t byte = 0; byte < reach; byte += kLine) __builtin_prefetch(reinterpret_cast<const char*>(at) + byte, 0, 2);
    }
  }
}

// Calls use(i, row) for rows [begin, end). A row is loaded two turns before it is used and placed one turn before: so its pixels
// have time to come, and no vector is read while parts of it are still being written.
template <typename T, typename A, typename Use>
FD_HD void for_rows(const MsDeformAttnParams& p, const SampleTable<A>& table, std::int64_t begin, std::int64_t end,
                    const Use& use) {
  Row<A> rows[3];
  for (std::int64_t i = begin; i < end + 2; ++i) {
    if (i < end) load_row(p, i, &rows[i % 3]);
    if (const std::int64_t placed = i - 1; begin <= placed && placed < end) {
      place_row(p, table, &rows[placed % 3]);
      ask_pixels<T>(p, table.samples, &rows[placed % 3]);
    }
    if (const std::int64_t used = i - 2; begin <= used) use(used, &rows[used % 3]);
  }
}

}  // namespace fastdet::ms_deform_attn
