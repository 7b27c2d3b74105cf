// SPDX-License-Identifier: Apache-2.0
#include "ops/rep_conv/rep_conv_rows.h"

#include <algorithm>

#include "core/dispatch.h"
#include "ops/rep_conv/rep_conv_math.h"

namespace fastdet::rep_conv {
namespace {

template <typename T>
FD_HD void load_run(const T* in, std::int64_t in_stride, std::int64_t count, float* out, std::int64_t out_stride) {
  if (in_stride == 1 && out_stride == 1) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = to_float(in[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) out[i * out_stride] = to_float(in[i * in_stride]);
  }
}

template <typename T>
FD_HD void store_run(const float* in, std::int64_t in_stride, std::int64_t count, T* out, std::int64_t out_stride) {
  if (in_stride == 1 && out_stride == 1) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = from_float<T>(in[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) out[i * out_stride] = from_float<T>(in[i * in_stride]);
  }
}

// The inner loop runs along what is contiguous in the array.
template <typename T>
FD_HD void load_typed(const T* array, const Block& b, float* FD_RESTRICT out, std::int64_t out_stride) {
  const T* const from = array + b.first;
  if (b.row_stride == 1 && b.column_stride != 1) {
    for (std::int64_t c = 0; c < b.columns; ++c) load_run(from + c * b.column_stride, 1, b.rows, out + c, out_stride);
  } else {
    for (std::int64_t r = 0; r < b.rows; ++r)
      load_run(from + r * b.row_stride, b.column_stride, b.columns, out + r * out_stride, 1);
  }
}

template <typename T>
FD_HD void store_typed(T* array, const Block& b, const float* FD_RESTRICT in, std::int64_t in_stride) {
  T* const to = array + b.first;
  if (b.row_stride == 1 && b.column_stride != 1) {
    for (std::int64_t c = 0; c < b.columns; ++c) store_run(in + c, in_stride, b.rows, to + c * b.column_stride, 1);
  } else {
    for (std::int64_t r = 0; r < b.rows; ++r) store_run(in + r * in_stride, 1, b.columns, to + r * b.row_stride, b.column_stride);
  }
}

}  // namespace

FD_TARGET_CLONES
void load_block(const TensorView& array, const Block& block, float* out, std::int64_t out_stride) {
  switch (array.dtype) {
    case DType::kFloat16: return load_typed(array.as<const Half>(), block, out, out_stride);
    case DType::kBFloat16: return load_typed(array.as<const BFloat16>(), block, out, out_stride);
    default: return load_typed(array.as<const float>(), block, out, out_stride);
  }
}

FD_TARGET_CLONES
void store_block(const TensorView& array, const Block& block, const float* in, std::int64_t in_stride) {
  switch (array.dtype) {
    case DType::kFloat16: return store_typed(array.as<Half>(), block, in, in_stride);
    case DType::kBFloat16: return store_typed(array.as<BFloat16>(), block, in, in_stride);
    default: return store_typed(array.as<float>(), block, in, in_stride);
  }
}

namespace {

// One sweep: each number is loaded, finished and stored. `out` may be `in`, which is no dependence between numbers.
template <typename Biases, typename Rule>
FD_HD void finish_by(const Rule& rule, const Biases& bias, const float* before, const float* after, const float* in, float* out,
                     std::int64_t count) {
  if (before != nullptr) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) out[i] = rule((in[i] + bias(i)) + before[i]);
  } else if (after != nullptr) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) out[i] = rule(in[i] + bias(i)) + after[i];
  } else {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) out[i] = rule(in[i] + bias(i));
  }
}

template <typename Biases>
FD_HD void finish(Activation activation, const Biases& bias, const float* before, const float* after, const float* in, float* out,
                  std::int64_t count) {
  switch (activation) {
    case Activation::kNone: return finish_by([](float v) FD_INLINE_LAMBDA { return v; }, bias, before, after, in, out, count);
    case Activation::kRelu:
      return finish_by([](float v) FD_INLINE_LAMBDA { return relu(v); }, bias, before, after, in, out, count);
    case Activation::kSilu:
      return finish_by([](float v) FD_INLINE_LAMBDA { return silu(v); }, bias, before, after, in, out, count);
    case Activation::kLeakyRelu:
      return finish_by([](float v) FD_INLINE_LAMBDA { return leaky_relu(v); }, bias, before, after, in, out, count);
  }
}

}  // namespace

FD_TARGET_CLONES
void finish_row(Activation activation, float bias, const float* before, const float* after, const float* in, float* out,
                std::int64_t count) {
  finish(activation, [=](std::int64_t) FD_INLINE_LAMBDA { return bias; }, before, after, in, out, count);
}

FD_TARGET_CLONES
void finish_each(Activation activation, const float* biases, const float* before, const float* after, const float* in, float* out,
                 std::int64_t count) {
  finish(activation, [=](std::int64_t i) FD_INLINE_LAMBDA { return biases[i]; }, before, after, in, out, count);
}

void load_pixels(const TensorView& array, std::int64_t picture, std::int64_t channel, std::int64_t first, std::int64_t count,
                 float* out) {
  const std::int64_t width = array.shape[3], plane = picture * array.stride[0] + channel * array.stride[1];
  if (array.stride[2] == width * array.stride[3]) {
    return load_block(array, {plane + first * array.stride[3], 1, 0, count, array.stride[3]}, out, 0);
  }
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t y = (first + done) / width, x = (first + done) % width;
    const std::int64_t run = std::min(count - done, width - x);
    load_block(array, {plane + y * array.stride[2] + x * array.stride[3], 1, 0, run, array.stride[3]}, out + done, 0);
    done += run;
  }
}

}  // namespace fastdet::rep_conv
