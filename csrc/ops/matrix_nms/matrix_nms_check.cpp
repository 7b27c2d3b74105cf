// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "core/iou_rules.h"
#include "ops/matrix_nms/matrix_nms.h"

namespace fastdet {

void matrix_nms_words(const char* op, std::string_view method, MatrixNmsParams* params) {
  constexpr std::pair<const char*, bool> methods[] = {{"linear", false}, {"gaussian", true}};
  params->gaussian = value_of_word(op, "method", method, methods);
}

void matrix_nms_check(const char* op, const MatrixNmsParams& p) {
  check_scored_boxes(op, p.in, 4);
  check_positive_float(op, "sigma", p.sigma);
  check_not_negative(op, "score_threshold", p.score_threshold);
}

std::size_t matrix_nms_cuda_workspace_bytes(const MatrixNmsParams& p) { return static_cast<std::size_t>(p.layout().bytes()); }

}  // namespace fastdet
