// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "core/check.h"
#include "core/iou_rules.h"
#include "ops/rotated_box_iou/rotated_box_iou.h"

namespace fastdet {

void rotated_box_iou_words(const char* op, std::string_view measure, std::string_view mode, RotatedBoxIouParams* params) {
  constexpr std::pair<const char*, bool> measures[] = {{"polygon", false}, {"probiou", true}};
  constexpr std::pair<const char*, bool> modes[] = {{"iou", false}, {"iof", true}};
  params->gaussian = value_of_word(op, "measure", measure, measures);
  params->over_first = value_of_word(op, "mode", mode, modes);
  FD_CHECK(!params->gaussian || !params->over_first, ValueError, op, ": mode must be iou for the measure probiou, got iof");
}

void rotated_box_iou_check(const char* op, const RotatedBoxIouParams& p) {
  const TensorView& a = p.boxes1;
  const TensorView& b = p.boxes2;
  FD_CHECK(a.ndim == 3 && a.shape[2] == 5, ValueError, op, ": boxes1 must be (B, M, 5), got ", shape_text(a));
  FD_CHECK(b.ndim == 3 && b.shape[2] == 5 && b.shape[0] == a.shape[0], ValueError, op, ": boxes2 must be (", a.shape[0],
           ", N, 5) for boxes1 ", shape_text(a), ", got ", shape_text(b));
  FD_CHECK(!p.aligned || a.shape[1] == b.shape[1], ValueError, op, ": aligned boxes must be as many, got ", a.shape[1], " and ",
           b.shape[1]);
  FD_CHECK((a.dtype == DType::kFloat64) == (b.dtype == DType::kFloat64), TypeError, op,
           ": boxes1 and boxes2 must both be float64 or neither, got ", dtype_name(a.dtype), " and ", dtype_name(b.dtype));
}

}  // namespace fastdet
