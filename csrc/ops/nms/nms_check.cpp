// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <utility>

#include "core/check.h"
#include "core/iou_rules.h"
#include "core/selection.h"
#include "ops/nms/nms.h"

namespace fastdet {
namespace {

void check_unit(const char* op, const char* name, double value) {
  FD_CHECK(value >= 0.0 && value <= 1.0, ValueError, op, ": ", name, " must lie in [0, 1], got ", value);
}

}  // namespace

bool nms_by_distance(const char* op, std::string_view measure) {
  constexpr std::pair<const char*, bool> known[] = {{"iou", false}, {"diou", true}};
  return value_of_word(op, "measure", measure, known);
}

void nms_check(const char* op, const NmsParams& p) {
  // A single image is passed as a batch of one; messages show what the caller gave.
  const TensorView& boxes = p.boxes;
  const bool single = p.out.boxes.data == nullptr;
  const auto shape = [&](const TensorView& view) { return shape_text(view.shape + single, view.ndim - single); };
  FD_CHECK(boxes.ndim == 3 && boxes.shape[2] == 4, ValueError, op, ": boxes must be ", single ? "(N, 4)" : "(B, N, 4)", ", got ",
           shape(boxes), boxes.ndim == 3 && boxes.shape[1] == 4 ? "; did you mean boxes.swapaxes(-1, -2)?" : "");
  FD_CHECK(p.scores.ndim == 3 && p.scores.shape[0] == boxes.shape[0] && p.scores.shape[1] == boxes.shape[1], ValueError, op,
           ": scores must be ", single ? "(N,)" : "(B, N, C)", " with the B and N of boxes ", shape(boxes), ", got ",
           single ? shape_text(p.scores.shape + 1, 1) : shape_text(p.scores));
  if (p.groups.data != nullptr) {
    FD_CHECK(p.groups.shape[0] == boxes.shape[0] && p.groups.shape[1] == boxes.shape[1], ValueError, op,
             ": idxs must be (N,) with the N of boxes ", shape(boxes), ", got ", shape_text(p.groups.shape + 1, 1));
  }
  check_unit(op, "iou_threshold", p.iou_threshold);
  FD_CHECK(!std::isnan(p.score_threshold), ValueError, op, ": score_threshold must be a number, got nan");
  FD_CHECK(p.max_det >= 0, ValueError, op, ": max_det must be at least 0, got ", p.max_det);
  FD_CHECK(p.max_candidates >= 0, ValueError, op, ": max_candidates must be at least 0, got ", p.max_candidates);
  FD_CHECK(p.columns() == 0 || p.anchors() <= kMaxCandidates / p.columns(), ValueError, op, ": an image may have at most ",
           kMaxCandidates, " candidates, got ", p.anchors(), " boxes x ", p.columns(), " classes");
}

std::size_t nms_cuda_workspace_bytes(const NmsParams& p) {
  return static_cast<std::size_t>(p.images()) * static_cast<std::size_t>(p.layout().bytes());
}

}  // namespace fastdet
