// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <utility>

#include "core/iou_rules.h"
#include "ops/rotated_nms/rotated_nms.h"

namespace fastdet {

void rotated_nms_words(const char* op, std::string_view measure, std::string_view semantics, RotatedChoice* choice) {
  constexpr std::pair<const char*, bool> measures[] = {{"polygon", false}, {"probiou", true}};
  constexpr std::pair<const char*, bool> ways[] = {{"greedy", false}, {"fast", true}};
  choice->gaussian = value_of_word(op, "measure", measure, measures);
  choice->fast = value_of_word(op, "semantics", semantics, ways);
}

void rotated_nms_check(const char* op, const RotatedNmsParams& p) {
  check_scored_boxes(op, p.in, 5);
  check_unit_interval(op, "iou_threshold", p.iou_threshold);
}

void rotated_multiclass_check(const char* op, const RotatedMulticlassParams& p) {
  const TensorView& boxes = p.boxes;
  FD_CHECK(boxes.ndim == 3 && boxes.shape[2] == 5, ValueError, op, ": boxes must be (B, N, 5), got ", shape_text(boxes),
           boxes.ndim == 3 && boxes.shape[1] == 5 ? "; did you mean boxes.swapaxes(-1, -2)?" : "");
  FD_CHECK(p.scores.ndim == 3 && p.scores.shape[0] == boxes.shape[0] && p.scores.shape[1] == boxes.shape[1], ValueError, op,
           ": scores must be (B, N, C) with the B and N of boxes ", shape_text(boxes), ", got ", shape_text(p.scores));
  check_unit_interval(op, "iou_threshold", p.iou_threshold);
  FD_CHECK(!std::isnan(p.score_threshold), ValueError, op, ": score_threshold must be a number, got nan");
  FD_CHECK(p.max_det >= 0, ValueError, op, ": max_det must be at least 0, got ", p.max_det);
  FD_CHECK(p.max_candidates >= 0, ValueError, op, ": max_candidates must be at least 0, got ", p.max_candidates);
  const std::int64_t columns = p.scores.shape[2];
  FD_CHECK(columns == 0 || boxes.shape[1] <= kMaxCandidates / columns, ValueError, op, ": an image may have at most ",
           kMaxCandidates, " candidates, got ", boxes.shape[1], " boxes x ", columns, " classes");
}

std::size_t rotated_nms_cuda_workspace_bytes(const RotatedNmsParams& p) { return static_cast<std::size_t>(p.layout().bytes()); }
std::size_t rotated_multiclass_cuda_workspace_bytes(const RotatedMulticlassParams& p) {
  return static_cast<std::size_t>(p.images()) * static_cast<std::size_t>(p.layout().bytes());
}

}  // namespace fastdet
