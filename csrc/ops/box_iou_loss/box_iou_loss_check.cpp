// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "ops/box_iou_loss/box_iou_loss.h"
#include "ops/box_iou_loss/box_iou_loss_math.h"

namespace fastdet {

void box_iou_loss_check(const char* op, const BoxIouLossParams& p) {
  const int k = p.rules.coordinates();
  FD_CHECK(p.pred.ndim == 2 && p.pred.shape[1] == k, ValueError, op, ": pred must be (N, ", k, "), got ", shape_text(p.pred));
  FD_CHECK(p.target.ndim == 2 && p.target.shape[1] == k && p.target.shape[0] == p.pairs(), ValueError, op, ": target must be (",
           p.pairs(), ", ", k, ") like pred, got ", shape_text(p.target));
  const bool is_double = p.pred.dtype == DType::kFloat64;
  FD_CHECK(is_double == (p.target.dtype == DType::kFloat64), TypeError, op,
           ": pred and target must both be float64 or neither, got ", dtype_name(p.pred.dtype), " and ",
           dtype_name(p.target.dtype));
  if (p.weight.data == nullptr && p.weight.ndim == 0) return;
  FD_CHECK(p.weight.ndim == 1 && p.weight.shape[0] == p.pairs(), ValueError, op, ": weight must be (", p.pairs(), ",), got ",
           shape_text(p.weight));
}

void box_iou_loss_backward_check(const char* op, const BoxIouLossBackwardParams& p) {
  for (const TensorView* kept : {&p.kept_pred, &p.kept_target}) {
    FD_CHECK(kept->dtype == p.grad_loss.dtype, TypeError, op, ": grad_loss must have the dtype of the kept gradients, got ",
             dtype_name(p.grad_loss.dtype), " and ", dtype_name(kept->dtype));
    FD_CHECK(p.grad_loss.ndim == 0 || kept->shape[0] == 0 || kept->shape[0] == p.grad_loss.shape[0], ValueError, op,
             ": grad_loss must be () or one number for each pair, got ", shape_text(p.grad_loss), " for ", shape_text(*kept));
  }
}

std::size_t box_iou_loss_workspace_bytes(const BoxIouLossParams& p) {
  if (p.reduction == Reduction::kNone) return 0;
  return static_cast<std::size_t>(ceil_div(p.pairs(), aligned_iou::kBlock)) * sizeof(double);
}

}  // namespace fastdet
