// SPDX-License-Identifier: Apache-2.0
// Pairwise similarity of boxes, the IoU family, and its gradient. The contract is in the docstrings of fastdet.ops.box_iou; the
// formulas stand in core/iou.h and core/rotated_iou.h. B images, M and N boxes of k = 4 numbers (5: rotated).
#pragma once

#include <cstdint>

#include "core/iou_rules.h"
#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

// Inputs may have any strides and are only read: float32, float16, bfloat16 in any mixture, or float64 all. Outputs are
// contiguous and do not overlap the inputs. No workspace.
struct BoxIouParams {
  TensorView boxes1;  // [B, M, k]
  TensorView boxes2;  // [B, N, k]
  IouRules rules;

  void* out = nullptr;  // [B, M, N] float32, or float64 for float64 boxes

  // Backward, with `out` null: grad is the gradient of the result; a gradient that nobody asks for stays null.
  TensorView grad;        // [B, M, N] dtype of the result
  void* grad1 = nullptr;  // [B, M, k] dtype of boxes1
  void* grad2 = nullptr;  // [B, N, k] dtype of boxes2

  FD_HD std::int64_t images() const { return boxes1.shape[0]; }
  FD_HD std::int64_t rows() const { return boxes1.shape[1]; }
  FD_HD std::int64_t columns() const { return boxes2.shape[1]; }
  FD_HD DType dtype() const { return boxes1.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }
};

// Throws unless shapes and dtypes agree; looks at grad only for a backward call.
void box_iou_check(const char* op, const BoxIouParams& params, bool backward);

void box_iou_cpu(const BoxIouParams& params);
void box_iou_cuda(const BoxIouParams& params, Stream stream);  // one launch; backward: one for each gradient wanted

}  // namespace fastdet
