// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "ops/box_iou/box_iou.h"

namespace fastdet {

void box_iou_check(const char* op, const BoxIouParams& p, bool backward) {
  const int k = p.rules.coordinates();
  const TensorView& a = p.boxes1;
  const TensorView& b = p.boxes2;
  FD_CHECK(a.ndim == 3 && a.shape[2] == k, ValueError, op, ": boxes1 must be (B, M, ", k, "), got ", shape_text(a));
  FD_CHECK(b.ndim == 3 && b.shape[2] == k && b.shape[0] == a.shape[0], ValueError, op, ": boxes2 must be (", a.shape[0], ", N, ",
           k, ") for boxes1 ", shape_text(a), ", got ", shape_text(b));
  FD_CHECK((a.dtype == DType::kFloat64) == (b.dtype == DType::kFloat64), TypeError, op,
           ": boxes1 and boxes2 must both be float64 or neither, got ", dtype_name(a.dtype), " and ", dtype_name(b.dtype));
  if (!backward) return;
  const TensorView& g = p.grad;
  FD_CHECK(g.ndim == 3 && g.shape[0] == p.images() && g.shape[1] == p.rows() && g.shape[2] == p.columns(), ValueError, op,
           ": grad must be (", p.images(), ", ", p.rows(), ", ", p.columns(), "), got ", shape_text(g));
  FD_CHECK(g.dtype == p.dtype(), TypeError, op, ": grad must be ", dtype_name(p.dtype()), " for these boxes, got ",
           dtype_name(g.dtype));
}

}  // namespace fastdet
