// SPDX-License-Identifier: Apache-2.0
// Three steps: rows (locations, weights; notes for the third), lists (samples of each image and head by cell), values (each token
// sums the samples of the four cells around it). No two threads write to one place, and every sum has one order.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_rows.h"

namespace fastdet {
namespace ms_deform_attn {
namespace {

template <typename A>
struct Backward {
  const MsDeformAttnParams& p;
  const SampleTable<A>& table;
  const HostLayout<A> lists;
  const A* grad_out;  // [B, Q, M D]
};

// Dots of a gradient with the four pixels of each sample, as the last four partial sums.
template <typename A>
struct Dots {
  A corner[4][kMaxSamples][4];

  FD_HD A at(int c, int t) const { return (corner[c][t][0] + corner[c][t][2]) + (corner[c][t][1] + corner[c][t][3]); }
};

// Halves 32 partial sums down to 4.
template <typename A>
FD_HD void halve(A* sums, A* last) {
  for (int i = 0; i < 16; ++i) sums[i] += sums[i + 16];
  for (int i = 0; i < 8; ++i) sums[i] += sums[i + 8];
  for (int i = 0; i < 4; ++i) last[i] = sums[i] + sums[i + 4];
}

// 32 adjacent channels: left to itself, the compiler takes partial sums apart one by one.
template <typename T, typename A>
FD_HD void dot_samples(const A* FD_RESTRICT grad, const Row<A>& row, int n, Dots<A>* FD_RESTRICT dots) {
  using Vector = typename Eight<A>::Vector;
  using Low = typename Eight<A>::Low;
  Vector g[4];
  for (int i = 0; i < 4; ++i) load_eight<A>(grad + 8 * i, &g[i]);
  for (int t = 0; t < n; ++t) {
    for (int c = 0; c < 4; ++c) {
      const T* const v = static_cast<const T*>(row.pixel[t][c]);
      Vector v0, v1, v2, v3;
      load_eight<A>(v, &v0), load_eight<A>(v + 8, &v1), load_eight<A>(v + 16, &v2), load_eight<A>(v + 24, &v3);
      const Vector sums = (g[0] * v0 + g[2] * v2) + (g[1] * v1 + g[3] * v3);
      Low low, high;
      memcpy(&low, &sums, sizeof(low));
      memcpy(&high, reinterpret_cast<const char*>(&sums) + sizeof(low), sizeof(high));
      const Low last = low + high;
      memcpy(dots->corner[c][t], &last, sizeof(last));
    }
  }
}

// Any number of channels at any stride.
template <typename T, typename A>
FD_HD void dot_samples_strided(const A* grad, const T* head, std::int64_t token_stride, std::int64_t channel_stride,
                               std::int64_t channels, const Row<A>& row, int n, Dots<A>* dots) {
  for (int t = 0; t < n; ++t) {
    for (int c = 0; c < 4; ++c) {
      A sums[kDotWidth] = {};
      if (const std::int32_t token = row.token[c][t]; token >= 0) {
        const T* const v = head + token * token_stride;
        for (std::int64_t first = 0; first < channels; first += kDotWidth) {
          const int width = static_cast<int>(std::min<std::int64_t>(kDotWidth, channels - first));
          for (int d = 0; d < width; ++d) sums[d] += grad[first + d] * static_cast<A>(widen(v[(first + d) * channel_stride]));
        }
      }
      halve(sums, dots->corner[c][t]);
    }
  }
}

template <typename T, typename A>
FD_HD void dot_row(const Backward<A>& work, const A* grad, const Row<A>& row, Dots<A>* dots) {
  const TensorView& v = work.p.value;
  const T* const head = v.as<const T>() + row.place.b * v.stride[0] + row.place.m * v.stride[2];
  const std::int64_t channels = work.p.channels();
  const int n = work.table.samples;
  if (v.stride[3] == 1 && channels == 32) return dot_samples<T>(grad, row, n, dots);
  dot_samples_strided(grad, head, v.stride[1], v.stride[3], channels, row, n, dots);
}

// Gradients of one row's locations and weights from its dots; `row` gives its x, y and tap[0] for them.
template <typename A>
FD_HD void differentiate_row(const Backward<A>& work, const Dots<A>& dots, Row<A>* row) {
  const bool discrete = work.p.discrete;
  const SampleTable<A>& table = work.table;
  for (int step = 0; step < table.samples; step += kStep) {
    for (int t = step; t < step + kStep; ++t) {
      const A d0 = row->token[0][t] < 0 ? A(0) : dots.at(0, t), d1 = row->token[1][t] < 0 ? A(0) : dots.at(1, t);
      const A d2 = row->token[2][t] < 0 ? A(0) : dots.at(2, t), d3 = row->token[3][t] < 0 ? A(0) : dots.at(3, t);
      const bool moves = !discrete & (row->cell[t] >= 0);
      const SampleGradient<A> g =
          sample_gradient(row->weight[t], row->fx[t], row->fy[t], table.width[t], table.height[t], d0, d1, d2, d3, moves);
      row->x[t] = g.x, row->y[t] = g.y, row->tap[0][t] = g.weight;
    }
  }
  if (!work.p.fused) return;
  A sum[kSums] = {};
  for (int t = 0; t < table.samples; ++t) sum[t % kSums] += row->weight[t] * row->tap[0][t];
  const A total = (sum[0] + sum[2]) + (sum[1] + sum[3]);
  const bool box = work.p.references.shape[3] == 4;
  const A scale = static_cast<A>(work.p.offset_scale);
  for (int level = 0, t = 0; level < work.p.levels; ++level) {
    const A share = table.numbers[level].share;
    for (; t < work.p.point_end[level]; ++t) {
      row->tap[0][t] = row->weight[t] * (row->tap[0][t] - total);
      row->x[t] = box ? offset_gradient_of_box(row->size_x[t], share, scale, row->x[t])
                      : offset_gradient_of_point(row->size_x[t], row->x[t]);
      row->y[t] = box ? offset_gradient_of_box(row->size_y[t], share, scale, row->y[t])
                      : offset_gradient_of_point(row->size_y[t], row->y[t]);
    }
  }
}

template <typename A>
FD_HD void store_row(const MsDeformAttnParams& p, std::int64_t first, int n, const Row<A>& row) {
  if (p.grad_locations != nullptr) {
    for (int t = 0; t < n; ++t) {
      store_number(p.grad_locations, p.locations.dtype, 2 * (first + t), row.x[t]);
      store_number(p.grad_locations, p.locations.dtype, 2 * (first + t) + 1, row.y[t]);
    }
  }
  if (p.grad_weights != nullptr) {
    for (int t = 0; t < n; ++t) store_number(p.grad_weights, p.weights.dtype, first + t, row.tap[0][t]);
  }
}

template <typename T, typename A>
FD_HD void backward_rows(const Backward<A>& work, std::int64_t begin, std::int64_t end) {
  const MsDeformAttnParams& p = work.p;
  const int n = work.table.samples;
  const bool dots_wanted = p.grad_locations != nullptr || p.grad_weights != nullptr;
  Dots<A> dots;
  for_rows<T>(p, work.table, begin, end, [&](std::int64_t i, Row<A>* row) FD_INLINE_LAMBDA {
    const RowPlace& place = row->place;
    if (p.grad_value != nullptr) {
      const std::int64_t at = (place.b * p.heads() + place.m) * work.lists.per_head + place.q * n;
      for (int t = 0; t < n; ++t) {
        work.lists.taps[at + t] = {{row->tap[0][t], row->tap[1][t], row->tap[2][t], row->tap[3][t]}};
        work.lists.cell[at + t] = row->cell[t];
      }
    }
    if (!dots_wanted) return;
    for (int t = n; t % kStep != 0; ++t) {
      for (int c = 0; c < 4; ++c) memset(dots.corner[c][t], 0, sizeof(dots.corner[c][t]));
    }
    dot_row<T>(work, work.grad_out + i * p.channels(), *row, &dots);
    differentiate_row(work, dots, row);
    store_row(p, i * n, n, *row);
  });
}

// Counting sort of the samples of one image and head by cell; equal cells keep the order of samples.
template <typename A>
void sort_head(const Backward<A>& work, std::int64_t head) {
  const HostLayout<A>& lists = work.lists;
  const std::int64_t samples = work.table.samples;
  const Taps<A>* const taps = lists.taps + head * lists.per_head;
  const std::int32_t* const cell = lists.cell + head * lists.per_head;
  ListedTaps<A>* const list = lists.list + head * lists.per_head;
  std::int32_t* const ends = lists.ends + head * lists.max_cells;
  std::fill(ends, ends + work.table.cells, 0);
  for (std::int64_t i = 0; i < lists.per_head; ++i) {
    if (cell[i] >= 0) ++ends[cell[i]];
  }
  std::int32_t before = 0;
  for (std::int64_t c = 0; c < work.table.cells; ++c) {
    const std::int32_t count = ends[c];
    ends[c] = before;  // where its next sample goes; behind its last one in the end
    before += count;
  }
  for (std::int64_t q = 0, i = 0; q < work.p.queries(); ++q) {
    for (std::int64_t t = 0; t < samples; ++t, ++i) {
      if (cell[i] >= 0) list[ends[cell[i]]++] = {taps[i], static_cast<std::int32_t>(q)};
    }
  }
}

// The lists of two adjacent cells lie one behind the other; `middle` is where the second begins.
template <typename A>
struct CellPair {
  const ListedTaps<A>* begin;
  std::int64_t middle, size;
};

// Calls add(tap, gradient) for the samples that have the token as corner 3, 2, 1, 0, in this order. One loop, since its end is
// what a processor guesses wrong.
template <typename A, typename Add>
FD_HD void for_samples(const CellPair<A>& above, const CellPair<A>& beside, const A* grad, std::int64_t grad_stride,
                       const Add& add) {
  for (std::int64_t i = 0; i < above.size + beside.size; ++i) {
    const bool first = i < above.size;
    const std::int64_t at = first ? i : i - above.size;
    const ListedTaps<A>& listed = (first ? above.begin : beside.begin)[at];
    const std::int64_t corner = (first ? 2 : 0) + (at < (first ? above.middle : beside.middle) ? 1 : 0);
    add(listed.taps.corner[corner], grad + listed.query * grad_stride);
  }
}

// Sums of one token and head: 8 kVectors channels.
template <int kVectors, typename T, typename A>
FD_HD void sum_token(const CellPair<A>& above, const CellPair<A>& beside, const A* FD_RESTRICT grad, std::int64_t grad_stride,
                     T* FD_RESTRICT out) {
  typename Eight<A>::Vector sums[kVectors] = {};
  for_samples(above, beside, grad, grad_stride, [&](A tap, const A* g) FD_INLINE_LAMBDA {
    for (int i = 0; i < kVectors; ++i) {
      typename Eight<A>::Vector factor;
      memcpy(&factor, g + 8 * i, sizeof(factor));
      sums[i] += tap * factor;
    }
  });
  for (int i = 0; i < kVectors; ++i) {
    A numbers[8];
    memcpy(numbers, &sums[i], sizeof(numbers));
    for (int d = 0; d < 8; ++d) out[8 * i + d] = narrow<T>(numbers[d]);
  }
}

template <typename T, typename A>
FD_HD void sum_channel(const CellPair<A>& above, const CellPair<A>& beside, const A* grad, std::int64_t grad_stride, T* out) {
  A sum = A(0);
  for_samples(above, beside, grad, grad_stride, [&](A tap, const A* g) FD_INLINE_LAMBDA { sum += tap * *g; });
  *out = narrow<T>(sum);
}

template <typename T, typename A>
FD_HD void sum_level(const Backward<A>& work, std::int64_t b, std::int64_t m, int level, std::int64_t begin, std::int64_t end) {
  const MsDeformAttnParams& p = work.p;
  const HostLayout<A>& lists = work.lists;
  const Level size = work.table.numbers[level].level;
  const std::int64_t head = b * p.heads() + m, channels = p.channels(), row_cells = size.width + 1;
  const ListedTaps<A>* const list = lists.list + head * lists.per_head;
  const std::int32_t* const ends = lists.ends + head * lists.max_cells;
  const std::int64_t grad_stride = p.heads() * channels;
  const A* const grad = work.grad_out + (b * p.queries() * p.heads() + m) * channels;
  std::int64_t y = (begin - size.start) / size.width, x = (begin - size.start) % size.width;
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t cell = work.table.first_cell[level] + (y + 1) * row_cells + x + 1;  // of corner 0
    const std::int64_t over = cell - row_cells;
    const std::int64_t first_above = over < 2 ? 0 : ends[over - 2], first_beside = ends[cell - 2];
    CellPair<A> above = {list + first_above, ends[over - 1] - first_above, ends[over] - first_above};
    CellPair<A> beside = {list + first_beside, ends[cell - 1] - first_beside, ends[cell] - first_beside};
    if (p.discrete) above.size = 0, beside = {list + ends[cell - 1], 0, ends[cell] - ends[cell - 1]};
    T* const out = static_cast<T*>(p.grad_value) + ((b * p.tokens() + token) * p.heads() + m) * channels;
    std::int64_t d = 0;
    for (; channels - d >= 32; d += 32) sum_token<4>(above, beside, grad + d, grad_stride, out + d);
    for (; channels - d >= 8; d += 8) sum_token<1>(above, beside, grad + d, grad_stride, out + d);
    for (; d < channels; ++d) sum_channel(above, beside, grad + d, grad_stride, out + d);
    if (++x == size.width) x = 0, ++y;
  }
}

// Tokens in blocks: all heads of one before the next, so that memory is written front to back.
template <typename T, typename A>
FD_HD void sum_tokens(const Backward<A>& work, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBlock = 64;
  const std::int64_t tokens = work.p.tokens();
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t b = i / tokens, from = i % tokens;
    const std::int64_t to = std::min({tokens, from + end - i, from + kBlock});
    for (int level = 0; level < work.p.levels; ++level) {
      const Level size = work.table.numbers[level].level;
      const std::int64_t first = std::max<std::int64_t>(from, size.start);
      const std::int64_t last = std::min(to, size.start + static_cast<std::int64_t>(size.width) * size.height);
      if (first >= last) continue;
      for (std::int64_t m = 0; m < work.p.heads(); ++m) sum_level<T>(work, b, m, level, first, last);
    }
    i += to - from;
  }
}

#define FD_BACKWARD(name, T, A, CLONES)                                                                                          \
  CLONES void rows_##name(const Backward<A>& work, std::int64_t begin, std::int64_t end) { backward_rows<T>(work, begin, end); } \
  CLONES void tokens_##name(const Backward<A>& work, std::int64_t begin, std::int64_t end) { sum_tokens<T>(work, begin, end); }
FD_BACKWARD(half, Half, float, FD_TARGET_CLONES)
FD_BACKWARD(bfloat16, BFloat16, float, FD_TARGET_CLONES)
FD_BACKWARD(float, float, float, FD_TARGET_CLONES)
FD_BACKWARD(double, double, double, )
#undef FD_BACKWARD

template <typename A>
using Step = void (*)(const Backward<A>&, std::int64_t, std::int64_t);

Step<float> rows_step(DType dtype, float) {
  return dtype == DType::kFloat16 ? rows_half : dtype == DType::kBFloat16 ? rows_bfloat16 : rows_float;
}
Step<float> tokens_step(DType dtype, float) {
  return dtype == DType::kFloat16 ? tokens_half : dtype == DType::kBFloat16 ? tokens_bfloat16 : tokens_float;
}
Step<double> rows_step(DType, double) { return rows_double; }
Step<double> tokens_step(DType, double) { return tokens_double; }

// grad_out as contiguous A: itself, or a copy.
template <typename A>
const A* widened_gradient(const MsDeformAttnParams& p, A* copy) {
  const TensorView& g = p.grad_out;
  constexpr DType wide = std::is_same_v<A, double> ? DType::kFloat64 : DType::kFloat32;
  if (g.dtype == wide && g.contiguous()) return g.as<const A>();
  const std::int64_t width = g.shape[2], queries = g.shape[1];
  parallel_for(g.shape[0] * queries, ceil_div(std::int64_t{1} << 14, width + 1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t at = i / queries * g.stride[0] + i % queries * g.stride[1];
      for (std::int64_t d = 0; d < width; ++d) copy[i * width + d] = load_number<A>(g, at + d * g.stride[2]);
    }
  });
  return copy;
}

template <typename A>
void run(const MsDeformAttnParams& p) {
  std::size_t bytes = 0;
  const HostLayout<A> layout = host_layout<A>(p, &bytes);
  const SampleTable<A> table(p);
  const Backward<A> work{p, table, layout, widened_gradient(p, layout.grad_out)};
  const std::int64_t cost = std::max<std::int64_t>(1, p.samples() * (p.channels() + 8));
  const Step<A> rows = rows_step(p.value.dtype, A(0)), tokens = tokens_step(p.value.dtype, A(0));
  parallel_for(p.rows(), ceil_div(std::int64_t{1} << 15, cost),
               [&](std::int64_t begin, std::int64_t end) { rows(work, begin, end); });
  if (p.grad_value == nullptr) return;
  parallel_for(p.images() * p.heads(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) sort_head(work, head);
  });
  parallel_for(p.images() * p.tokens(), 128, [&](std::int64_t begin, std::int64_t end) { tokens(work, begin, end); });
}

}  // namespace
}  // namespace ms_deform_attn

void ms_deform_attn_backward_cpu(const MsDeformAttnParams& p) {
  if (p.value.dtype == DType::kFloat64) {
    ms_deform_attn::run<double>(p);
  } else {
    ms_deform_attn::run<float>(p);
  }
}

}  // namespace fastdet
