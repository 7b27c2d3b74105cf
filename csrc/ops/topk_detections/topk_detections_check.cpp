// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/check.h"
#include "ops/topk_detections/topk_detections.h"

namespace fastdet {

void topk_detections_check(const TopkParams& p) {
  const char* op = "topk_detections";
  FD_CHECK(p.boxes.shape[0] == p.logits.shape[0] && p.boxes.shape[1] == p.logits.shape[1] && p.boxes.shape[2] == 4, ValueError,
           op, ": boxes must be (B, Q, 4) with the B and Q of logits ", shape_text(p.logits), ", got ", shape_text(p.boxes));
  FD_CHECK(p.image_sizes.data == nullptr || (p.image_sizes.shape[0] == p.logits.shape[0] && p.image_sizes.shape[1] == 2),
           ValueError, op, ": image_size must be (height, width) or (B, 2) with the B of logits ", shape_text(p.logits), ", got ",
           shape_text(p.image_sizes));
  FD_CHECK(!std::isnan(p.score_threshold), ValueError, op, ": score_threshold must be a number, got nan");
  FD_CHECK(p.max_det >= 0, ValueError, op, ": max_det must be at least 0, got ", p.max_det);
  FD_CHECK(p.logits.shape[2] == 0 || p.logits.shape[1] <= kMaxCandidates / p.logits.shape[2], ValueError, op,
           ": an image may have at most ", kMaxCandidates, " candidates, got ", p.logits.shape[1], " queries x ",
           p.logits.shape[2], " classes");
}

std::size_t topk_detections_cuda_workspace_bytes(const TopkParams& p) {
  return static_cast<std::size_t>(p.logits.shape[0]) * static_cast<std::size_t>(p.layout().bytes());
}

}  // namespace fastdet
