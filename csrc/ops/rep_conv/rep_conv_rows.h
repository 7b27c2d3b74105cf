// SPDX-License-Identifier: Apache-2.0
// Rows of float32 between memory and the CPU paths.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "ops/rep_conv/rep_conv.h"

namespace fastdet::rep_conv {

// A rectangle of an array, `rows` x `columns` elements so many elements apart.
struct Block {
  std::int64_t first;  // element it begins with
  std::int64_t rows, row_stride;
  std::int64_t columns, column_stride;
};

// out[r * out_stride + c] = array[row r, column c], widened.
void load_block(const TensorView& array, const Block& block, float* out, std::int64_t out_stride);
// The reverse, rounded to the dtype of `array`.
void store_block(const TensorView& array, const Block& block, const float* in, std::int64_t in_stride);

// out[i] = the epilogue of in[i], where all share one channel. `before` and `after` are rows of the residual or null, one of them
// at most; out may be in.
void finish_row(Activation activation, float bias, const float* before, const float* after, const float* in, float* out,
                std::int64_t count);

// The same with a bias for each element.
void finish_each(Activation activation, const float* biases, const float* before, const float* after, const float* in, float* out,
                 std::int64_t count);

// Pixels [first, first + count) of the plane of channel `channel` of picture `picture`, in reading order.
void load_pixels(const TensorView& array, std::int64_t picture, std::int64_t channel, std::int64_t first, std::int64_t count,
                 float* out);

}  // namespace fastdet::rep_conv
