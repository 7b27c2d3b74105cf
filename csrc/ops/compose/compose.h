// SPDX-License-Identifier: Apache-2.0
// Mosaic, warp, mixup, colour and flips in one pass over the output. The contract for users is in python/fastdet/ops/compose.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"
#include "ops/compose/compose_math.h"

namespace fastdet {

// One picture of the result.
struct ComposePicture {
  std::int32_t layer_begin, layer_count;  // 1 or 2
  double blend;                           // share of the first of two layers
  const std::uint8_t* table;              // [3, 256] for hue, saturation and value; null leaves colours alone
  std::int32_t table_stride[2];           // bytes
  std::uint8_t fill[3];
  bool bgr, flip_horizontal, flip_vertical;

  FD_HD std::uint8_t look_up(std::int32_t channel, std::int32_t value) const {
    return table[std::int64_t{channel} * table_stride[0] + std::int64_t{value} * table_stride[1]];
  }
};

struct ComposeParams {
  const ComposeTile* tiles = nullptr;  // [tile_count]
  const ComposeLayer* layers = nullptr;
  const ComposePicture* pictures = nullptr;
  std::int64_t tile_count = 0, layer_count = 0, count = 0;
  bool channels_last = true;
  TensorView output;  // contiguous uint8 [count, H, W, 3] or [count, 3, H, W]
  void* workspace = nullptr;

  std::int64_t out_height() const { return output.shape[channels_last ? 1 : 2]; }
  std::int64_t out_width() const { return output.shape[channels_last ? 2 : 3]; }
};

void compose_check(const ComposeParams& params);

// Instruction sets of the loops over rows. The best one at hand is used; tests forbid some to see the others.
enum class ComposeIsa : std::int32_t { kScalar, kAvx2, kAvx512 };
void compose_limit_isa(ComposeIsa limit);

void compose_cpu(const ComposeParams& params);

std::size_t compose_cuda_workspace_bytes(const ComposeParams& params);
void compose_cuda(const ComposeParams& params, Stream stream);

}  // namespace fastdet
