// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/assign.h"
#include "core/check.h"
#include "ops/task_aligned/task_aligned.h"
#include "ops/task_aligned/task_aligned_layout.h"
#include "ops/task_aligned/task_aligned_math.h"

namespace fastdet {
namespace {

constexpr double kMaxPower = 64.0;

void check_shapes(const char* op, const TaskAlignedParams& p) {
  const std::int64_t images = p.images(), anchors = p.anchors(), numbers = p.numbers();
  const char* hint = p.boxes.shape[1] == numbers && p.boxes.shape[2] == anchors ? "; did you mean boxes.swapaxes(1, 2)?" : "";
  FD_CHECK(p.boxes.shape[0] == images && p.boxes.shape[1] == anchors && p.boxes.shape[2] == numbers, ValueError, op,
           ": boxes must be (", images, ", ", anchors, ", ", numbers, ") for scores ", shape_text(p.scores), ", got ",
           shape_text(p.boxes), hint);
  FD_CHECK(p.points.shape[0] == anchors && p.points.shape[1] == 2, ValueError, op, ": points must be (", anchors,
           ", 2) for scores ", shape_text(p.scores), ", got ", shape_text(p.points));
  check_targets(op, p.gt_boxes, p.gt_labels, p.gt_count, images, numbers, anchors, p.classes());
}

}  // namespace

void task_aligned_check(const char* op, const TaskAlignedParams& p, bool look_at_values) {
  check_shapes(op, p);
  check_topk(op, p.topk);
  FD_CHECK(p.second_topk >= 0 && p.second_topk <= kMaxAssignTopk, ValueError, op, ": second_topk must lie in [1, ",
           kMaxAssignTopk, "] or be None, got ", p.second_topk);
  check_not_negative(op, "small_below", p.small_below);
  check_not_negative(op, "small_size", p.small_size);
  check_not_negative(op, "eps", p.eps);
  if (look_at_values) check_target_values(op, p.gt_labels, p.gt_count, p.classes());
}

PowerRule task_aligned_power(const char* op, const char* name, double exponent) {
  FD_CHECK(exponent >= 0.0 && exponent <= kMaxPower, ValueError, op, ": ", name, " must lie in [0, ", kMaxPower, "], got ",
           exponent);
  const double whole = std::floor(exponent);
  PowerRule rule = {static_cast<std::int32_t>(whole), static_cast<float>(exponent - whole)};
  if (rule.fraction == 1.0f) rule = {rule.whole + 1, 0.0f};
  return rule;
}

std::size_t task_aligned_cuda_workspace_bytes(const TaskAlignedParams& p) {
  std::size_t bytes = 0;
  task_aligned::device_layout(p, &bytes);
  return bytes;
}

}  // namespace fastdet
