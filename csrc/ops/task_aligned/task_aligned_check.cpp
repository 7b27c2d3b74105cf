// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "core/check.h"
#include "ops/task_aligned/task_aligned.h"
#include "ops/task_aligned/task_aligned_layout.h"
#include "ops/task_aligned/task_aligned_math.h"

namespace fastdet {
namespace {

constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();
constexpr double kMaxPower = 64.0;

void check_length(const char* op, const char* name, float value) {
  FD_CHECK(std::isfinite(value) && value >= 0.0f, ValueError, op, ": ", name, " must be finite and not negative, got ", value);
}

void check_shapes(const char* op, const TaskAlignedParams& p) {
  const std::int64_t images = p.images(), anchors = p.anchors(), numbers = p.numbers();
  const char* hint = p.boxes.shape[1] == numbers && p.boxes.shape[2] == anchors ? "; did you mean boxes.transpose(1, 2)?" : "";
  FD_CHECK(p.boxes.shape[0] == images && p.boxes.shape[1] == anchors && p.boxes.shape[2] == numbers, ValueError, op,
           ": boxes must be (", images, ", ", anchors, ", ", numbers, ") for scores ", shape_text(p.scores), ", got ",
           shape_text(p.boxes), hint);
  FD_CHECK(p.points.shape[0] == anchors && p.points.shape[1] == 2, ValueError, op, ": points must be (", anchors,
           ", 2) for scores ", shape_text(p.scores), ", got ", shape_text(p.points));
  FD_CHECK(p.gt_boxes.shape[0] == images && p.gt_boxes.shape[2] == numbers, ValueError, op, ": gt_boxes must be (", images,
           ", M, ", numbers, "), got ", shape_text(p.gt_boxes));
  FD_CHECK(p.gt_labels.shape[0] == images && p.gt_labels.shape[1] == p.rows(), ValueError, op, ": gt_labels must be (", images,
           ", ", p.rows(), ") for gt_boxes ", shape_text(p.gt_boxes), ", got ", shape_text(p.gt_labels));
  FD_CHECK(p.gt_count.shape[0] == images, ValueError, op, ": gt_count must be (", images, ",), got ", shape_text(p.gt_count));
  // Anchor and row numbers are the low 31 bits of a key, and one block works on each row of each image.
  FD_CHECK(anchors <= kMaxIndex && p.classes() <= kMaxIndex && p.rows() <= kMaxIndex, ValueError, op,
           ": A, C and M may be at most ", kMaxIndex, ", got ", anchors, ", ", p.classes(), " and ", p.rows());
  FD_CHECK(p.rows() == 0 || images <= kMaxIndex / p.rows(), ValueError, op, ": B x M may be at most ", kMaxIndex, ", got ",
           images, " x ", p.rows());
}

void check_values(const char* op, const TaskAlignedParams& p) {
  for (std::int64_t b = 0; b < p.images(); ++b) {
    const std::int64_t count = task_aligned::load_integer(p.gt_count, b * p.gt_count.stride[0]);
    FD_CHECK(count >= 0 && count <= p.rows(), ValueError, op, ": gt_count must lie in [0, ", p.rows(), "], got ", count,
             " for image ", b);
    for (std::int64_t g = 0; g < count; ++g) {
      const std::int64_t at = b * p.gt_labels.stride[0] + g * p.gt_labels.stride[1];
      const std::int64_t label = task_aligned::load_integer(p.gt_labels, at);
      FD_CHECK(label >= 0 && label < p.classes(), ValueError, op, ": gt_labels must lie in [0, ", p.classes(), "), got ", label,
               " for image ", b, ", row ", g);
    }
  }
}

}  // namespace

void task_aligned_check(const char* op, const TaskAlignedParams& p, bool look_at_values) {
  check_shapes(op, p);
  FD_CHECK(p.topk >= 1 && p.topk <= TaskAlignedParams::kMaxTopk, ValueError, op, ": topk must lie in [1, ",
           TaskAlignedParams::kMaxTopk, "], got ", p.topk);
  FD_CHECK(p.second_topk >= 0 && p.second_topk <= TaskAlignedParams::kMaxTopk, ValueError, op, ": second_topk must lie in [1, ",
           TaskAlignedParams::kMaxTopk, "] or be None, got ", p.second_topk);
  check_length(op, "small_below", p.small_below);
  check_length(op, "small_size", p.small_size);
  check_length(op, "eps", p.eps);
  if (look_at_values) check_values(op, p);
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
