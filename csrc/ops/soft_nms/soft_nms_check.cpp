// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "core/iou_rules.h"
#include "ops/soft_nms/soft_nms.h"

namespace fastdet {

void soft_nms_words(const char* op, std::string_view method, SoftNmsParams* params) {
  constexpr std::pair<const char*, bool> methods[] = {{"linear", false}, {"gaussian", true}};
  params->gaussian = value_of_word(op, "method", method, methods);
}

void soft_nms_check(const char* op, const SoftNmsParams& p) {
  check_scored_boxes(op, p.in, 4);
  check_unit_interval(op, "iou_threshold", p.iou_threshold);
  check_positive_float(op, "sigma", p.sigma);
  check_not_negative(op, "score_threshold", p.score_threshold);
}

std::size_t soft_nms_cuda_workspace_bytes(const SoftNmsParams& p) {
  return static_cast<std::size_t>(p.in.count()) * (sizeof(Box) + sizeof(float));
}

}  // namespace fastdet
