// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "core/assign.h"
#include "core/check.h"

namespace fastdet {

void check_targets(const char* op, const TensorView& gt_boxes, const TensorView& gt_labels, const TensorView& gt_count,
                   std::int64_t images, std::int64_t numbers, std::int64_t candidates, std::int64_t classes) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const std::int64_t rows = gt_boxes.shape[1];
  FD_CHECK(gt_boxes.shape[0] == images && gt_boxes.shape[2] == numbers, ValueError, op, ": gt_boxes must be (", images, ", M, ",
           numbers, "), got ", shape_text(gt_boxes));
  FD_CHECK(gt_labels.shape[0] == images && gt_labels.shape[1] == rows, ValueError, op, ": gt_labels must be (", images, ", ",
           rows, ") for gt_boxes ", shape_text(gt_boxes), ", got ", shape_text(gt_labels));
  FD_CHECK(gt_count.shape[0] == images, ValueError, op, ": gt_count must be (", images, ",), got ", shape_text(gt_count));
  // One block works on each row of each image.
  FD_CHECK(candidates <= most && classes <= most && rows <= most, ValueError, op, ": A, C and M may be at most ", most, ", got ",
           candidates, ", ", classes, " and ", rows);
  FD_CHECK(rows == 0 || images <= most / rows, ValueError, op, ": B x M may be at most ", most, ", got ", images, " x ", rows);
}

void check_target_values(const char* op, const TensorView& gt_labels, const TensorView& gt_count, std::int64_t classes) {
  const std::int64_t rows = gt_labels.shape[1];
  for (std::int64_t b = 0; b < gt_labels.shape[0]; ++b) {
    const std::int64_t count = load_integer(gt_count, b * gt_count.stride[0]);
    FD_CHECK(count >= 0 && count <= rows, ValueError, op, ": gt_count must lie in [0, ", rows, "], got ", count, " for image ",
             b);
    for (std::int64_t g = 0; g < count; ++g) {
      const std::int64_t label = load_integer(gt_labels, b * gt_labels.stride[0] + g * gt_labels.stride[1]);
      FD_CHECK(label >= 0 && label < classes, ValueError, op, ": gt_labels must lie in [0, ", classes, "), got ", label,
               " for image ", b, ", row ", g);
    }
  }
}

void check_not_negative(const char* op, const char* name, float value) {
  FD_CHECK(std::isfinite(value) && value >= 0.0f, ValueError, op, ": ", name, " must be finite and not negative, got ", value);
}

void check_topk(const char* op, std::int64_t topk) {
  FD_CHECK(topk >= 1 && topk <= kMaxAssignTopk, ValueError, op, ": topk must lie in [1, ", kMaxAssignTopk, "], got ", topk);
}

}  // namespace fastdet
