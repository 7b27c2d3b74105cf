// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_rows.h"

namespace fastdet {
namespace ms_deform_attn {
namespace {

// Channels [0, kChannels) of all samples of a row, adjacent in memory.
template <int kChannels, typename T, typename A>
FD_HD void add_samples(const T* FD_RESTRICT head, std::int64_t token_stride, const Row<A>& row, int n, T* FD_RESTRICT out) {
  A total[kSums][kChannels];
  for (int part = 0; part < kSums; ++part) {
    A sum[kChannels] = {};
    for (int t = part; t < n; t += kSums) {
      const T* const v0 = pixel(head, token_stride, row.token[0][t]);
      const T* const v1 = pixel(head, token_stride, row.token[1][t]);
      const T* const v2 = pixel(head, token_stride, row.token[2][t]);
      const T* const v3 = pixel(head, token_stride, row.token[3][t]);
      const A w0 = row.tap[0][t], w1 = row.tap[1][t], w2 = row.tap[2][t], w3 = row.tap[3][t];
      for (int d = 0; d < kChannels; ++d) {
        sum[d] += mix(w0, widen(v0[d]), w1, widen(v1[d]), w2, widen(v2[d]), w3, widen(v3[d]));
      }
    }
    for (int d = 0; d < kChannels; ++d) total[part][d] = sum[d];
  }
  for (int d = 0; d < kChannels; ++d) out[d] = narrow<T>((total[0][d] + total[2][d]) + (total[1][d] + total[3][d]));
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
  Row<A> rows[2];
  for (std::int64_t next = begin; next <= end; ++next) {
    if (next < end) prepare_row<T>(p, table, next, &rows[next & 1]);
    if (next == begin) continue;
    const std::int64_t i = next - 1;
    const Row<A>& row = rows[i & 1];
    const RowPlace at = row_place(p, i);
    const T* head = v.as<const T>() + at.b * v.stride[0] + at.m * v.stride[2];
    T* out = static_cast<T*>(p.out) + i * p.channels();
    std::int64_t left = p.channels();
    if (v.stride[3] == 1) {
      for (; left >= 32; left -= 32, head += 32, out += 32) add_samples<32>(head, v.stride[1], row, table.samples, out);
      for (; left >= 8; left -= 8, head += 8, out += 8) add_samples<8>(head, v.stride[1], row, table.samples, out);
    }
    add_samples_strided(head, v.stride[1], v.stride[3], row, table.samples, left, out);
  }
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
