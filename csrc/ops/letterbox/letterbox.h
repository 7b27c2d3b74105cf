// SPDX-License-Identifier: Apache-2.0
// Resize, pad, normalise and lay out a batch of pictures in one pass. The contract for users is in
// python/fastdet/ops/letterbox.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// How the bytes of a picture make pixels. The YUV formats have 8 bits, limited range, and one pair of chroma values for two
// columns; NV and I420's kin have it for two rows as well, below their luma rows.
enum class LetterboxFormat : std::int32_t {
  kPixels,  // [height, width, 3] by its strides, in the order of the output; channel_stride 0 is a grey picture
  kNv12,    // [3 height / 2, width]: rows of Y, then rows of U V U V ...
  kNv21,    // the same with V first
  kI420,    // [3 height / 2, width]: rows of Y, then two rows of U in each row, then two of V
  kYv12,    // the same with V first
  kYuyv,    // [height, width, 2]: Y U, Y V
  kUyvy,    // [height, width, 2]: U Y, V Y
};

// One source picture and its place in the result. Passed to kernels by value, 64 of them at a time: keep it small.
struct LetterboxPicture {
  const std::uint8_t* data;                 // element 0 of the array of its format
  std::int64_t row_stride, channel_stride;  // bytes; any sign
  std::int32_t pixel_stride;                // bytes; a row spans less than 2 GiB
  LetterboxFormat format;
  std::int32_t height, width;
  std::int32_t new_height, new_width;  // after resizing
  std::int32_t top, left;              // where the resized picture begins in the output
};

enum class LetterboxMode : std::int32_t {
  kCv2,       // OpenCV INTER_LINEAR
  kCv2Area,   // OpenCV INTER_AREA
  kPillow,    // Pillow 13: antialiased; which pass comes first depends on the sizes
  kPillow12,  // Pillow up to 12: the horizontal pass always comes first
};

enum class LetterboxMatrix : std::int32_t { kBt601, kBt709 };  // of the YUV formats

constexpr std::int32_t kLetterboxChannels = 64;  // the most an output may have

struct LetterboxParams {
  const LetterboxPicture* pictures = nullptr;  // [count]
  std::int64_t count = 0;
  LetterboxMode mode = LetterboxMode::kCv2;
  std::uint8_t fill[3] = {114, 114, 114};  // as a pixel, before normalisation; output order
  bool scale = true;                       // divide by 255; for float results only, like mean and std
  bool affine = false;                     // (x - mean) / std; otherwise both are unused
  float mean[3] = {0, 0, 0};
  float std[3] = {1, 1, 1};
  LetterboxMatrix matrix = LetterboxMatrix::kBt601;
  bool swap_rb = false;  // for the YUV formats: the output is BGR; strides of kPixels say so themselves
  bool channels_last = false;
  std::int32_t channels = 3;  // of the output; more than 3 with channels_last alone, the others are 0
  TensorView output;          // contiguous [count, 3, H, W] or [count, H, W, channels]; uint8, float16, bfloat16 or float32
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
