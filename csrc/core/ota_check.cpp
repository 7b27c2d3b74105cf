// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "core/ota.h"

namespace fastdet {

void check_ota(const char* op, const OtaParams& p, bool look_at_values) {
  const std::int64_t images = p.images(), priors = p.scores.shape[1];
  FD_CHECK(p.boxes.shape[0] == images && p.boxes.shape[1] == priors && p.boxes.shape[2] == 4, ValueError, op, ": boxes must be (",
           images, ", ", priors, ", 4) for scores ", shape_text(p.scores), ", got ", shape_text(p.boxes),
           p.boxes.shape[1] == 4 ? "; did you mean boxes.swapaxes(1, 2)?" : "");
  if (p.listed) {
    FD_CHECK(p.candidates.shape[0] == images, ValueError, op, ": candidates must be (", images, ", A) for scores ",
             shape_text(p.scores), ", got ", shape_text(p.candidates));
  } else {
    FD_CHECK(p.points.shape[0] == priors && p.points.shape[1] == 2, ValueError, op, ": points must be (", priors,
             ", 2) for scores ", shape_text(p.scores), ", got ", shape_text(p.points));
    FD_CHECK(p.strides.shape[0] == priors, ValueError, op, ": strides must be (", priors, ",) for scores ", shape_text(p.scores),
             ", got ", shape_text(p.strides));
  }
  check_targets(op, p.gt_boxes, p.gt_labels, p.gt_count, images, 4, larger(priors, p.priors()), p.classes());
  check_topk(op, p.topk);
  check_not_negative(op, "center_radius", p.center_radius);
  check_not_negative(op, "class_weight", p.class_weight);
  check_not_negative(op, "iou_weight", p.iou_weight);
  if (look_at_values) check_target_values(op, p.gt_labels, p.gt_count, p.classes());
}

}  // namespace fastdet
