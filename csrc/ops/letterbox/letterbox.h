// SPDX-License-Identifier: Apache-2.0
// Resize, pad, normalise and lay out a batch of pictures in one pass. The contract for users is in
// python/fastdet/ops/letterbox.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// One source picture and its place in the result. Passed to kernels by value, 64 of them at a time: keep it small.
struct LetterboxPicture {
  const std::uint8_t* data;                               // [height, width, 3] by the strides below, in the order of the output
  std::int64_t row_stride, pixel_stride, channel_stride;  // bytes; any sign; channel_stride 0 is a grey picture
  std::int32_t height, width;
  std::int32_t new_height, new_width;  // after resizing
  std::int32_t top, left;              // where the resized picture begins in the output
};

enum class LetterboxMode : std::int32_t {
  kCv2,       // OpenCV INTER_LINEAR
  kPillow,    // Pillow 13: antialiased; which pass comes first depends on the sizes
  kPillow12,  // Pillow up to 12: the horizontal pass always comes first
};

struct LetterboxParams {
  const LetterboxPicture* pictures = nullptr;  // [count]
  std::int64_t count = 0;
  LetterboxMode mode = LetterboxMode::kCv2;
  std::uint8_t fill[3] = {114, 114, 114};  // as a pixel, before normalisation; output order
  bool scale = true;                       // divide by 255; for float results only, like mean and std
  bool affine = false;                     // (x - mean) / std; otherwise both are unused
  float mean[3] = {0, 0, 0};
  float std[3] = {1, 1, 1};
  bool channels_last = false;
  TensorView output;  // contiguous [count, 3, H, W], or [count, H, W, 3] with channels_last; uint8, float16, bfloat16 or float32
  void* workspace = nullptr;

  std::int64_t out_height() const { return output.shape[channels_last ? 1 : 2]; }
  std::int64_t out_width() const { return output.shape[channels_last ? 2 : 3]; }
};

void letterbox_check(const LetterboxParams& params);

// Instruction sets of the hand-written loops. The best one at hand is used; tests forbid some to see the others.
enum class LetterboxIsa : std::int32_t { kScalar, kAvx2, kAvx512 };
void letterbox_limit_isa(LetterboxIsa limit);

std::size_t letterbox_cpu_workspace_bytes(const LetterboxParams& params);
void letterbox_cpu(const LetterboxParams& params);

std::size_t letterbox_cuda_workspace_bytes(const LetterboxParams& params);
void letterbox_cuda(const LetterboxParams& params, Stream stream);

}  // namespace fastdet
