// SPDX-License-Identifier: Apache-2.0
// Loss 1 - similarity of aligned boxes, with both gradients in the same pass. The contract is in the docstring of
// fastdet.ops.box_iou_loss; the formulas stand in core/iou.h and core/rotated_iou.h. N pairs of k = 4 numbers (5: rotated).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/iou_rules.h"
#include "core/launch.h"
#include "core/tensor.h"

namespace fastdet {

enum class Reduction : std::uint8_t { kNone, kSum, kMean };

// Inputs may have any strides and are only read: float32, float16, bfloat16 in any mixture, or float64 all. Outputs are
// contiguous, do not overlap the inputs, and are float32, or float64 for float64 boxes. The workspace is aligned to 64 bytes.
struct BoxIouLossParams {
  TensorView pred;    // [N, k]
  TensorView target;  // [N, k]
  TensorView weight;  // [N]; data null: 1 for every pair
  IouRules rules;
  Reduction reduction = Reduction::kNone;

  void* loss = nullptr;         // [N] for kNone, else [1]
  void* grad_pred = nullptr;    // [N, k] gradient of the (reduced) loss; null: not wanted
  void* grad_target = nullptr;  // [N, k]
  void* workspace = nullptr;

  FD_HD std::int64_t pairs() const { return pred.shape[0]; }
  FD_HD DType dtype() const { return pred.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }
};

// Throws unless shapes and dtypes agree.
void box_iou_loss_check(const char* op, const BoxIouLossParams& params);

std::size_t box_iou_loss_workspace_bytes(const BoxIouLossParams& params);  // N / 32 bytes where there is something to reduce
void box_iou_loss_cpu(const BoxIouLossParams& params);
void box_iou_loss_cuda(const BoxIouLossParams& params, Stream stream);  // one launch, two with a reduction

// What backward does with the gradients kept from the forward pass: multiplies by the gradient of the loss.
struct BoxIouLossBackwardParams {
  TensorView grad_loss;         // [N] or [], any strides, float32 or float64
  TensorView kept_pred;         // [N or 0, k], any strides, of the same dtype
  TensorView kept_target;       // [N or 0, k]
  void* grad_pred = nullptr;    // [N or 0, k] contiguous
  void* grad_target = nullptr;  // [N or 0, k]
};

void box_iou_loss_backward_check(const char* op, const BoxIouLossBackwardParams& params);
void box_iou_loss_backward_cpu(const BoxIouLossBackwardParams& params);
void box_iou_loss_backward_cuda(const BoxIouLossBackwardParams& params, Stream stream);  // one launch for each gradient

}  // namespace fastdet
