// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_rows.h"

namespace fastdet {
namespace ms_deform_attn {
namespace {

// 8 kVectors channels, adjacent in memory, of all samples of a row.
template <int kVectors, typename T, typename A>
FD_HD void add_samples(const Row<A>& row, int n, T* FD_RESTRICT out) {
  using Vector = typename Eight<A>::Vector;
  Vector total[kSums][kVectors];
  for (int part = 0; part < kSums; ++part) {
    Vector sum[kVectors] = {};
    for (int t = part; t < n; t += kSums) {
      const T* const v0 = static_cast<const T*>(row.pixel[t][0]);
      const T* const v1 = static_cast<const T*>(row.pixel[t][1]);
      const T* const v2 = static_cast<const T*>(row.pixel[t][2]);
      const T* const v3 = static_cast<const T*>(row.pixel[t][3]);
      const A w0 = row.tap[0][t], w1 = row.tap[1][t], w2 = row.tap[2][t], w3 = row.tap[3][t];
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        Vector p0, p1, p2, p3;
        load_eight<A>(v0 + 8 * i, &p0), load_eight<A>(v1 + 8 * i, &p1);
        load_eight<A>(v2 + 8 * i, &p2), load_eight<A>(v3 + 8 * i, &p3);
        sum[i] += (w0 * p0 + w1 * p1) + (w2 * p2 + w3 * p3);
      }
    }
    for (int i = 0; i < kVectors; ++i) total[part][i] = sum[i];
  }
  for (int i = 0; i < kVectors; ++i) {
    const Vector sums = (total[0][i] + total[2][i]) + (total[1][i] + total[3][i]);
    A numbers[8];
    memcpy(numbers, &sums, sizeof(numbers));
    for (int d = 0; d < 8; ++d) out[8 * i + d] = narrow<T>(numbers[d]);
  }
}

// Pixels inside the map move on to later channels; zeros stay.
template <typename T, typename A>
FD_HD void move_pixels(Row<A>* row, int n, int channels) {
  for (int t = 0; t < n; ++t) {
    for (int c = 0; c < 4; ++c) {
      row->pixel[t][c] = static_cast<const T*>(row->pixel[t][c]) + (row->token[c][t] < 0 ? 0 : channels);
    }
  }
}

// Any number of channels at any stride.
template <typename T, typename A>
FD_HD void add_samples_strided(const T* head, std::int64_t token_stride, std::int64_t channel_stride, const Row<A>& row, int n,
                               std::int64_t channels, T* out) {
  for (std::int64_t d = 0; d < channels; ++d) {
    A sum[kSums] = {};
    for (int t = 0; t < n; ++t) {
      A v[4];
      for (int c = 0; c < 4; ++c) {
        const std::int32_t token = row.token[c][t];
        v[c] = token < 0 ? A(0) : static_cast<A>(widen(head[token * token_stride + d * channel_stride]));
      }
      sum[t % kSums] += mix(row.tap[0][t], v[0], row.tap[1][t], v[1], row.tap[2][t], v[2], row.tap[3][t], v[3]);
    }
    out[d] = narrow<T>((sum[0] + sum[2]) + (sum[1] + sum[3]));
  }
}

template <typename T, typename A>
FD_HD void forward_rows(const MsDeformAttnParams& p, const SampleTable<A>& table, std::int64_t begin, std::int64_t end) {
  const TensorView& v = p.value;
  const std::int64_t channels = p.channels();
  for_rows<T>(p, table, begin, end, [&](std::int64_t i, Row<A>* row) FD_INLINE_LAMBDA {
    const T* const head = v.as<const T>() + row->place.b * v.stride[0] + row->place.m * v.stride[2];
    T* const out = static_cast<T*>(p.out) + i * channels;
    std::int64_t d = 0;
    while (v.stride[3] == 1 && channels - d >= 8) {
      const int width = channels - d >= 32 ? 32 : 8;
      width == 32 ? add_samples<4>(*row, table.samples, out + d) : add_samples<1>(*row, table.samples, out + d);
      d += width;
      if (channels - d >= 8) move_pixels<T>(row, table.samples, width);
    }
    add_samples_strided(head + d * v.stride[3], v.stride[1], v.stride[3], *row, table.samples, channels - d, out + d);
  });
}

FD_TARGET_CLONES void forward_float(const MsDeformAttnParams& p, const SampleTable<float>& table, std::int64_t begin,
                                    std::int64_t end) {
  forward_rows<float>(p, table, begin, end);
}
FD_TARGET_CLONES void forward_half(const MsDeformAttnParams& p, const SampleTable<float>& table, std::int64_t begin,
                                   std::int64_t end) {
  forward_rows<Half>(p, table, begin, end);
}
FD_TARGET_CLONES void forward_bfloat16(const MsDeformAttnParams& p, const SampleTable<float>& table, std::int64_t begin,
                                       std::int64_t end) {
  forward_rows<BFloat16>(p, table, begin, end);
}
void forward_double(const MsDeformAttnParams& p, const SampleTable<double>& table, std::int64_t begin, std::int64_t end) {
  forward_rows<double>(p, table, begin, end);
}

void forward(const MsDeformAttnParams& p, const SampleTable<double>& table, std::int64_t begin, std::int64_t end) {
  forward_double(p, table, begin, end);
}
void forward(const MsDeformAttnParams& p, const SampleTable<float>& table, std::int64_t begin, std::int64_t end) {
  switch (p.value.dtype) {
    case DType::kFloat16: return forward_half(p, table, begin, end);
    case DType::kBFloat16: return forward_bfloat16(p, table, begin, end);
    default: return forward_float(p, table, begin, end);
  }
}

template <typename A>
void run(const MsDeformAttnParams& p) {
  const SampleTable<A> table(p);
  // About 20 microseconds a piece, so that a call of a few queries stays on one thread.
  const std::int64_t work = std::max<std::int64_t>(1, p.samples() * (p.channels() + 8));
  parallel_for(p.rows(), ceil_div(std::int64_t{1} << 16, work),
               [&](std::int64_t begin, std::int64_t end) { forward(p, table, begin, end); });
}

}  // namespace
}  // namespace ms_deform_attn

void ms_deform_attn_cpu(const MsDeformAttnParams& p) {
  if (p.value.dtype == DType::kFloat64) {
    ms_deform_attn::run<double>(p);
  } else {
    ms_deform_attn::run<float>(p);
  }
}

}  // namespace fastdet
