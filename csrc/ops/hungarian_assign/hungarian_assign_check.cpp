// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "core/assign.h"
#include "core/check.h"
#include "ops/hungarian_assign/hungarian_assign.h"
#include "ops/hungarian_assign/hungarian_assign_layout.h"

namespace fastdet {
namespace {

using Task = HungarianAssignParams::Task;

constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

void check_pairs(const char* op, const HungarianAssignParams& p) {
  FD_CHECK(p.logits.ndim == 3, ValueError, op, ": logits must be (B, Q, C), got ", shape_text(p.logits));
  const std::int64_t images = p.images(), queries = p.queries();
  FD_CHECK(p.boxes.ndim == 3 && p.boxes.shape[0] == images && p.boxes.shape[1] == queries && p.boxes.shape[2] == 4, ValueError,
           op, ": boxes_cxcywh must be (", images, ", ", queries, ", 4) for logits ", shape_text(p.logits), ", got ",
           shape_text(p.boxes));
  FD_CHECK(p.gt_boxes.ndim == 3 && p.gt_boxes.shape[0] == images && p.gt_boxes.shape[2] == 4, ValueError, op,
           ": gt_boxes_cxcywh must be (", images, ", M, 4), got ", shape_text(p.gt_boxes));
  FD_CHECK(p.gt_labels.ndim == 2 && p.gt_labels.shape[0] == images && p.gt_labels.shape[1] == p.rows(), ValueError, op,
           ": gt_labels must be (", images, ", ", p.rows(), ") for gt_boxes_cxcywh ", shape_text(p.gt_boxes), ", got ",
           shape_text(p.gt_labels));
  check_not_negative(op, "class_weight", p.class_weight);
  check_not_negative(op, "l1_weight", p.l1_weight);
  check_not_negative(op, "giou_weight", p.giou_weight);
  check_not_negative(op, "gamma", p.gamma);
  FD_CHECK(p.alpha >= 0.0f && p.alpha <= 1.0f, ValueError, op, ": alpha must lie in [0, 1], got ", p.alpha);
}

void check_counts(const char* op, const HungarianAssignParams& p) {
  for (std::int64_t b = 0; b < p.images(); ++b) {
    const std::int64_t count = load_integer(p.count, b * p.count.stride[0]);
    FD_CHECK(count >= 0 && count <= p.rows(), ValueError, op, ": count must lie in [0, ", p.rows(), "], got ", count,
             " for image ", b);
  }
}

}  // namespace

void hungarian_assign_check(const char* op, const HungarianAssignParams& p, bool look_at_values) {
  const bool solve = p.task == Task::kSolve;
  const char* name = solve ? "count" : "gt_count";
  if (!solve) check_pairs(op, p);
  FD_CHECK(!solve || p.given.ndim == 3, ValueError, op, ": cost must be (B, R, C), got ", shape_text(p.given));
  FD_CHECK(p.count.ndim == 1 && p.count.shape[0] == p.images(), ValueError, op, ": ", name, " must be (", p.images(), ",), got ",
           shape_text(p.count));
  // Column numbers are the low 31 bits of a rank.
  FD_CHECK(p.queries() <= kMaxIndex && p.rows() <= kMaxIndex && p.images() <= kMaxIndex, ValueError, op, ": no size may exceed ",
           kMaxIndex, ", got ", p.images(), ", ", p.queries(), " and ", p.rows());
  if (look_at_values && solve) check_counts(op, p);
  if (look_at_values && !solve) check_target_values(op, p.gt_labels, p.count, p.classes());
}

std::size_t hungarian_assign_workspace_bytes(const HungarianAssignParams& p) {
  std::size_t bytes = 0;
  hungarian_assign::layout_of(p, &bytes);
  return bytes;
}

}  // namespace fastdet
