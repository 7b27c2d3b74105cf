// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "core/dispatch.h"
#include "core/launch.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"
#include "ops/ms_deform_attn/ms_deform_attn_kernels.cuh"
#include "ops/ms_deform_attn/ms_deform_attn_value_kernels.cuh"

namespace fastdet {
namespace ms_deform_attn {
namespace {

// Whether four adjacent channels can be one load everywhere in the array.
template <typename T>
bool packs(const TensorView& view) {
  bool fits = reinterpret_cast<std::uintptr_t>(view.data) % alignof(Pack<T>) == 0 && view.stride[view.ndim - 1] == 1;
  for (int i = 0; i + 1 < view.ndim; ++i) fits = fits && view.stride[i] % 4 == 0;
  return fits;
}
template <typename T>
bool packs(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % alignof(Pack<T>) == 0;
}

// Calls launch(lanes, vector) with both known at compile time.
template <typename Launch>
void choose_lanes(std::int64_t channels, bool vector, const Launch& launch) {
  if (!vector) {
    launch(std::integral_constant<int, 8>{}, std::false_type{});
  } else if (channels <= 8) {
    launch(std::integral_constant<int, 2>{}, std::true_type{});
  } else if (channels <= 16) {
    launch(std::integral_constant<int, 4>{}, std::true_type{});
  } else {
    launch(std::integral_constant<int, 8>{}, std::true_type{});
  }
}

template <typename T>
void forward(const MsDeformAttnParams& p, Stream stream) {
  const bool vector = p.channels() % 4 == 0 && packs<T>(p.value) && packs<T>(p.out);
  choose_lanes(p.channels(), vector, [&](auto lanes, auto is_vector) {
    constexpr int kLanes = decltype(lanes)::value;
    constexpr bool kVector = decltype(is_vector)::value;
    const std::int64_t blocks = ceil_div(p.rows() * kSums * kLanes, kThreads);
    // The decoder's 9 to 12 samples: a group has all of its own under way at once.
    if (kLanes == 8 && kVector && p.samples() > 8 && p.samples() <= 12) {
      FD_LAUNCH((ms_deform_attn_kernel < T, kLanes, kVector, kLanes == 8 && kVector ? 3 : 2 >), blocks, kThreads, 0, stream, p);
    } else {
      FD_LAUNCH((ms_deform_attn_kernel<T, kLanes, kVector, 2>), blocks, kThreads, 0, stream, p);
    }
  });
}

template <typename T, typename A>
void sort_samples(const MsDeformAttnParams& p, const ValueLists<A>& lists, Stream stream) {
  const std::int64_t heads = p.images() * p.heads();
  const std::int64_t warps_per_head = ceil_div(lists.max_cells, kWarp);
  FD_LAUNCH(ms_deform_attn_scan_kernel<A>, heads, kThreads, 0, stream, p, lists);
  FD_LAUNCH(ms_deform_attn_fill_kernel<A>, ceil_div(heads * lists.per_head, kThreads), kThreads, 0, stream, p, lists);
  FD_LAUNCH(ms_deform_attn_order_kernel<A>, ceil_div(heads * warps_per_head * kWarp, kThreads), kThreads, 0, stream, p, lists,
            warps_per_head);
}

template <typename T>
void backward(const MsDeformAttnParams& p, Stream stream) {
  using A = ArithmeticOf<T>;
  std::size_t bytes = 0;
  const DeviceLayout<A> w = device_layout<A>(p, &bytes);
  const std::int64_t heads = p.images() * p.heads(), values = heads * p.tokens() * p.channels();
  const std::int64_t samples = p.rows() * p.samples();
  const bool value_wanted = p.grad_value != nullptr && values > 0, sorted = value_wanted && p.deterministic;
  const bool vector = p.channels() % 4 == 0 && packs<T>(p.value) && packs<T>(p.grad_out) && packs<T>(p.grad_value);
  if (sorted) {
    const std::int64_t cells = heads * w.lists.max_cells;
    FD_LAUNCH(ms_deform_attn_clear_kernel<std::int32_t>, ceil_div(cells, kThreads), kThreads, 0, stream, w.lists.ends, cells);
  } else if (value_wanted) {
    FD_LAUNCH(ms_deform_attn_clear_kernel<A>, ceil_div(values, kThreads), kThreads, 0, stream, w.sums, values);
  }
  if (samples > 0) {
    choose_lanes(p.channels(), vector, [&](auto lanes, auto is_vector) {
      constexpr int kLanes = decltype(lanes)::value;
      constexpr bool kVector = decltype(is_vector)::value;
      FD_LAUNCH((ms_deform_attn_rows_kernel<T, kLanes, kVector>), ceil_div(p.rows() * kSums * kLanes, kThreads), kThreads, 0,
                stream, p, w);
    });
    if (sorted) sort_samples<T>(p, w.lists, stream);
  }
  if (sorted) {
    choose_lanes(p.channels(), vector, [&](auto lanes, auto is_vector) {
      constexpr int kLanes = decltype(lanes)::value;
      constexpr bool kVector = decltype(is_vector)::value;
      FD_LAUNCH((ms_deform_attn_value_kernel<T, kLanes, kVector>), ceil_div(heads * p.tokens() * kLanes, kThreads), kThreads, 0,
                stream, p, w.lists);
    });
  } else if (value_wanted && sizeof(T) < sizeof(A)) {
    if constexpr (sizeof(T) < sizeof(A)) {
      FD_LAUNCH(ms_deform_attn_narrow_kernel<T>, ceil_div(values, kThreads), kThreads, 0, stream, w.sums,
                static_cast<T*>(p.grad_value), values);
    }
  }
}

}  // namespace
}  // namespace ms_deform_attn

void ms_deform_attn_cuda(const MsDeformAttnParams& p, Stream stream) {
  if (p.rows() == 0 || p.channels() == 0) return;
  dispatch_float_or_double(p.value.dtype, [&](auto tag) { ms_deform_attn::forward<typename decltype(tag)::type>(p, stream); });
}

void ms_deform_attn_backward_cuda(const MsDeformAttnParams& p, Stream stream) {
  dispatch_float_or_double(p.value.dtype, [&](auto tag) { ms_deform_attn::backward<typename decltype(tag)::type>(p, stream); });
}

}  // namespace fastdet
