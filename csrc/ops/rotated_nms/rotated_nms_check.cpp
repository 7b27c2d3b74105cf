// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "core/iou_rules.h"
#include "ops/rotated_nms/rotated_nms.h"

namespace fastdet {

void rotated_nms_words(const char* op, std::string_view measure, std::string_view semantics, RotatedNmsParams* params) {
  constexpr std::pair<const char*, bool> measures[] = {{"polygon", false}, {"probiou", true}};
  constexpr std::pair<const char*, bool> ways[] = {{"greedy", false}, {"fast", true}};
  params->gaussian = value_of_word(op, "measure", measure, measures);
  params->fast = value_of_word(op, "semantics", semantics, ways);
}

void rotated_nms_check(const char* op, const RotatedNmsParams& p) {
  check_scored_boxes(op, p.in, 5);
  check_unit_interval(op, "iou_threshold", p.iou_threshold);
}

std::size_t rotated_nms_cuda_workspace_bytes(const RotatedNmsParams& p) { return static_cast<std::size_t>(p.layout().bytes()); }

}  // namespace fastdet
