// SPDX-License-Identifier: Apache-2.0
// Overlap of rotated boxes, of all pairs or row by row. The contract for users is in python/fastdet/ops/rotated_box_iou.py, the
// formulas in docs/ops/rotated_box_iou.md. B images, M and N boxes of 5 numbers.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// Inputs may have any strides and are only read: float32, float16, bfloat16 in any mixture, or float64 both. The output is
// contiguous and does not overlap the inputs. No workspace.
struct RotatedBoxIouParams {
  TensorView boxes1;        // [B, M, 5]
  TensorView boxes2;        // [B, N, 5]
  bool gaussian = false;    // probabilistic IoU instead of that of the polygons
  bool over_first = false;  // over the area of the first box instead of the union; not with gaussian
  bool aligned = false;     // N = M: row by row
  bool degrees = false;

  void* out = nullptr;  // [B, M, N], aligned [B, M]; float32, or float64 for float64 boxes

  FD_HD std::int64_t images() const { return boxes1.shape[0]; }
  FD_HD std::int64_t rows() const { return boxes1.shape[1]; }
  FD_HD std::int64_t columns() const { return boxes2.shape[1]; }
  FD_HD DType dtype() const { return boxes1.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }
};

// Sets what the words from Python say; throws on any other.
void rotated_box_iou_words(const char* op, std::string_view measure, std::string_view mode, RotatedBoxIouParams* params);
void rotated_box_iou_check(const char* op, const RotatedBoxIouParams& params);

void rotated_box_iou_cpu(const RotatedBoxIouParams& params);
void rotated_box_iou_cuda(const RotatedBoxIouParams& params, Stream stream);  // one launch

}  // namespace fastdet
