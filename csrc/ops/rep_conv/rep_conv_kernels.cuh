// SPDX-License-Identifier: Apache-2.0
// Bias, activation and residual over [B, O, P, Q] on CUDA.
//   dense    x, residual and out share one dense layout, channels first or last. Thread: kPack adjacent elements (16 bytes where
//            the memory is aligned for it), block: kThreads of them; grid strides over the rest.
//   strided  anything else. Thread: one element, in the order of `out`.
// Elements are widened to float32, finished by rep_conv_math.h and rounded once: the bits of the CPU path. `out` may be x.
#pragma once

#include "core/launch.h"
#include "core/numeric.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rep_conv/rep_conv_math.h"

namespace fastdet::rep_conv {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 1 << 16;

template <typename T, int kPack>
struct alignas(kPack * sizeof(T)) Pack {
  T value[kPack];
};

struct DenseTask {
  const void* x;         // [elements]
  const void* bias;      // [O] or null
  const void* residual;  // [elements] or null
  void* out;             // [elements]
  std::int64_t elements, channels, bias_stride;
  std::int64_t inner;  // adjacent elements of one channel: P Q, or 1 with channels last
  Activation activation;
  bool add_first;
};

FD_D float activate(Activation activation, float v) {
  switch (activation) {
    case Activation::kRelu: return relu(v);
    case Activation::kSilu: return silu(v);
    case Activation::kLeakyRelu: return leaky_relu(v);
    default: return v;
  }
}

FD_D float finish(Activation activation, bool has_residual, bool add_first, float v, float bias, float residual) {
  v = v + bias;
  if (has_residual && add_first) v = v + residual;
  v = activate(activation, v);
  if (has_residual && !add_first) v = v + residual;
  return v;
}

template <typename T, int kPack>
__global__ FD_LAUNCH_BOUNDS(kThreads) void bias_act_dense_kernel(const DenseTask task) {
  using Packed = Pack<T, kPack>;
  const std::int64_t packs = task.elements / kPack;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const T* const biases = static_cast<const T*>(task.bias);
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < packs; at += step) {
    Packed pack = static_cast<const Packed*>(task.x)[at];
    Packed added{};
    if (task.residual != nullptr) added = static_cast<const Packed*>(task.residual)[at];
    // With inner == 1 a pack spans kPack channels, otherwise it lies in one: the launch has seen to that.
    const std::int64_t channel = at * kPack / task.inner % task.channels;
    const std::int64_t next = task.inner == 1 ? task.bias_stride : 0;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float bias = biases != nullptr ? to_float(biases[channel * task.bias_stride + i * next]) : 0.0f;
      pack.value[i] = from_float<T>(finish(task.activation, task.residual != nullptr, task.add_first, to_float(pack.value[i]),
                                           bias, to_float(added.value[i])));
    }
    static_cast<Packed*>(task.out)[at] = pack;
  }
}

template <typename T>
__global__ FD_LAUNCH_BOUNDS(kThreads) void bias_act_strided_kernel(const BiasActParams p) {
  const std::int64_t elements = p.x.numel(), step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const Epilogue& e = p.epilogue;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < elements; at += step) {
    std::int64_t rest = at, from = 0, to = 0, added = 0, channel = 0;
    for (int axis = 3; axis >= 0; --axis) {
      const std::int64_t i = rest % p.x.shape[axis];
      rest /= p.x.shape[axis];
      if (axis == 1) channel = i;
      from += i * p.x.stride[axis];
      to += i * p.out.stride[axis];
      if (e.has_residual()) added += i * e.residual.stride[axis];
    }
    const float bias = e.has_bias() ? to_float(e.bias.as<const T>()[channel * e.bias.stride[0]]) : 0.0f;
    const float residual = e.has_residual() ? to_float(e.residual.as<const T>()[added]) : 0.0f;
    p.out.as<T>()[to] =
        from_float<T>(finish(e.activation, e.has_residual(), e.add_first, to_float(p.x.as<const T>()[from]), bias, residual));
  }
}

}  // namespace fastdet::rep_conv
