// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "core/check.h"
#include "ops/sim_ota/sim_ota.h"
#include "ops/sim_ota/sim_ota_layout.h"
#include "ops/sim_ota/sim_ota_math.h"

namespace fastdet {
namespace {

constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

void check_weight(const char* op, const char* name, float value) {
  FD_CHECK(std::isfinite(value) && value >= 0.0f, ValueError, op, ": ", name, " must be finite and not negative, got ", value);
}

void check_shapes(const char* op, const SimOtaParams& p) {
  const std::int64_t images = p.images(), priors = p.scores.shape[1];
  FD_CHECK(p.objectness.shape[0] == images && p.objectness.shape[1] == priors, ValueError, op, ": objectness must be (", images,
           ", ", priors, ") for scores ", shape_text(p.scores), ", got ", shape_text(p.objectness));
  FD_CHECK(p.boxes.shape[0] == images && p.boxes.shape[1] == priors && p.boxes.shape[2] == 4, ValueError, op, ": boxes must be (",
           images, ", ", priors, ", 4) for scores ", shape_text(p.scores), ", got ", shape_text(p.boxes),
           p.boxes.shape[1] == 4 ? "; did you mean boxes.transpose(1, 2)?" : "");
  if (p.listed) {
    FD_CHECK(p.candidates.shape[0] == images, ValueError, op, ": candidates must be (", images, ", A) for scores ",
             shape_text(p.scores), ", got ", shape_text(p.candidates));
  } else {
    FD_CHECK(p.points.shape[0] == priors && p.points.shape[1] == 2, ValueError, op, ": points must be (", priors,
             ", 2) for scores ", shape_text(p.scores), ", got ", shape_text(p.points));
    FD_CHECK(p.strides.shape[0] == priors, ValueError, op, ": strides must be (", priors, ",) for scores ", shape_text(p.scores),
             ", got ", shape_text(p.strides));
  }
  FD_CHECK(p.gt_boxes.ndim == 3 && p.gt_boxes.shape[0] == images && p.gt_boxes.shape[2] == 4, ValueError, op,
           ": gt_boxes must be (", images, ", M, 4), got ", shape_text(p.gt_boxes));
  FD_CHECK(p.gt_labels.ndim == 2 && p.gt_labels.shape[0] == images && p.gt_labels.shape[1] == p.rows(), ValueError, op,
           ": gt_labels must be (", images, ", ", p.rows(), ") for gt_boxes ", shape_text(p.gt_boxes), ", got ",
           shape_text(p.gt_labels));
  FD_CHECK(p.gt_count.ndim == 1 && p.gt_count.shape[0] == images, ValueError, op, ": gt_count must be (", images, ",), got ",
           shape_text(p.gt_count));
  // Prior and row numbers are the low 31 bits of a key, and one block works on each row of each image.
  FD_CHECK(priors <= kMaxIndex && p.priors() <= kMaxIndex && p.classes() <= kMaxIndex && p.rows() <= kMaxIndex, ValueError, op,
           ": A, C and M may be at most ", kMaxIndex, ", got ", p.priors(), ", ", p.classes(), " and ", p.rows());
  FD_CHECK(p.rows() == 0 || images <= kMaxIndex / p.rows(), ValueError, op, ": B x M may be at most ", kMaxIndex, ", got ",
           images, " x ", p.rows());
}

void check_values(const char* op, const SimOtaParams& p) {
  for (std::int64_t b = 0; b < p.images(); ++b) {
    const std::int64_t count = sim_ota::load_integer(p.gt_count, b * p.gt_count.stride[0]);
    FD_CHECK(count >= 0 && count <= p.rows(), ValueError, op, ": gt_count must lie in [0, ", p.rows(), "], got ", count,
             " for image ", b);
    for (std::int64_t g = 0; g < count; ++g) {
      const std::int64_t label = sim_ota::load_integer(p.gt_labels, b * p.gt_labels.stride[0] + g * p.gt_labels.stride[1]);
      FD_CHECK(label >= 0 && label < p.classes(), ValueError, op, ": gt_labels must lie in [0, ", p.classes(), "), got ", label,
               " for image ", b, ", row ", g);
    }
  }
}

}  // namespace

void sim_ota_check(const char* op, const SimOtaParams& p, bool look_at_values) {
  check_shapes(op, p);
  FD_CHECK(p.topk >= 1 && p.topk <= SimOtaParams::kMaxTopk, ValueError, op, ": topk must lie in [1, ", SimOtaParams::kMaxTopk,
           "], got ", p.topk);
  check_weight(op, "center_radius", p.center_radius);
  check_weight(op, "class_weight", p.class_weight);
  check_weight(op, "iou_weight", p.iou_weight);
  if (look_at_values) check_values(op, p);
}

std::size_t sim_ota_cuda_workspace_bytes(const SimOtaParams& p) {
  std::size_t bytes = 0;
  sim_ota::device_layout(p, &bytes);
  return bytes;
}

}  // namespace fastdet
