// SPDX-License-Identifier: Apache-2.0
// Assignment by dynamic-k matching, the frame of SimOTA and AlignedOTA. Candidates are the priors in a ground truth or near its
// centre, or those of a list. Each ground truth asks for as many as its largest IoUs sum up to and takes the cheapest, those
// inside it first; a candidate taken by several goes to the cheapest of all. B images, N priors, C classes, M ground truths, A
// candidates.
//
// What an assigner adds is a Rule, the same lines on host and device:
//
//   using Params                                         derived from OtaParams
//   float kMinUnion, kIouOffset                          of the IoU; inside the logarithm of its cost
//   bool kScoreCountsApart                               whether the cost at an IoU of 0 depends on the score
//   bool usable(params, image, prior)                    whether numbers of the prior beside box and scores let it take part
//   float factor(params, image, prior)                   of its scores
//   LaneSum: add(score, factor), double total()          one of kLanes partial sums S_a over classes; NaN where a score is not
//   finite float probability(score, factor) float class_cost(double class_sum, float p, float iou)
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/assign.h"
#include "core/launch.h"
#include "core/numeric.h"

namespace fastdet {

// Inputs may have any strides and are only read. Outputs are contiguous and do not overlap the inputs: those of the assignment,
// or, with want_cost, those of the cost; the others stay null. The workspace is aligned to 64 bytes.
struct OtaParams {
  TensorView scores;      // [B, N, C] float32, float16, bfloat16
  TensorView boxes;       // [B, N, 4] float32, float16, bfloat16
  bool listed = false;    // candidates are given; else points and strides are
  TensorView candidates;  // [B, A] int32, int64; outside [0, N): none
  TensorView points;      // [N, 2] float32
  TensorView strides;     // [N] float32
  TensorView gt_boxes;    // [B, M, 4] float32
  TensorView gt_labels;   // [B, M] int32, int64
  TensorView gt_count;    // [B] int32, int64

  float center_radius = 2.5f;
  float class_weight = 1.0f;
  float iou_weight = 3.0f;
  std::int64_t topk = 10;
  bool want_cost = false;

  // Assignment.
  std::int32_t* matched_gt = nullptr;  // [B, A]
  std::int32_t* labels = nullptr;      // [B, A]
  float* label_scores = nullptr;       // [B, A]
  std::int32_t* num_pos = nullptr;     // [B]

  // Cost, for inspection.
  float* cost = nullptr;              // [B, A, M]
  float* iou = nullptr;               // [B, A, M]
  bool* inside = nullptr;             // [B, A, M]
  bool* valid = nullptr;              // [B, A]
  std::int32_t* dynamic_k = nullptr;  // [B, M]

  void* workspace = nullptr;

  FD_HD std::int64_t images() const { return scores.shape[0]; }
  FD_HD std::int64_t priors() const { return listed ? candidates.shape[1] : scores.shape[1]; }  // A: candidates
  FD_HD std::int64_t classes() const { return scores.shape[2]; }
  FD_HD std::int64_t rows() const { return gt_boxes.shape[1]; }
};

// Throws unless shapes agree and attributes are in range. `look_at_values`: counts and labels lie on the host and are checked
// too; without it counts are clamped and a ground truth whose label is out of range matches nothing.
void check_ota(const char* op, const OtaParams& params, bool look_at_values);

namespace ota {

constexpr int kLanes = 8;            // partial sums of S_a: lane j adds classes j, j + 8, ...
constexpr float kMinLog = -100.0f;   // logarithms of probabilities, as binary cross-entropy clamps them
constexpr std::int64_t kTile = 256;  // candidates of a block, or handled at once on the stack

struct GroundTruth {
  Box box;
  float center_x, center_y, area;
  std::int32_t label;
};

// Strict on all sides, so also false for NaN.
FD_HD bool in_box(float x, float y, const Box& box) { return (x > box.x1) & (y > box.y1) & (box.x2 > x) & (box.y2 > y); }

// `reach` is the radius times the stride of the prior.
FD_HD bool in_center(float x, float y, float reach, float center_x, float center_y) {
  return (magnitude(x - center_x) < reach) & (magnitude(y - center_y) < reach);
}

// IoU in [0, 1]; 0 where areas leave the range of float32.
FD_HD float pair_iou(const Box& box, float area, const Box& gt, float gt_area, float min_union) {
  const float intersection = box_intersection(box, gt);
  const float sum = area + gt_area - intersection;
  const float iou = intersection / (sum > min_union ? sum : min_union);
  return iou <= 1.0f ? iou : 0.0f;
}
FD_HD float pair_iou(const Box& box, const Box& gt, float gt_area, float min_union) {
  return pair_iou(box, box_area(box), gt, gt_area, min_union);
}

// Logarithms of p and of 1 - p for p in [0, 1], at least -100. Scaling keeps small arguments normal, and 0 ends below -100.
FD_HD float log_score(float p) { return larger(log_exact(p * 4294967296.0f, 32), kMinLog); }
FD_HD float log_one_minus(float p) {
  const float rest = 1.0f - p;  // rounded; what it lost is added as the first term of the series
  return larger(log_exact(rest * 4294967296.0f, 32) + ((1.0f - rest) - p), kMinLog);
}

// Cost without the penalty of pairs that are not inside.
template <typename Rule>
FD_HD float pair_cost(double class_sum, float p, float iou, float class_weight, float iou_weight) {
  return class_weight * Rule::class_cost(class_sum, p, iou) + iou_weight * -log_exact(iou + Rule::kIouOffset);
}

// Keys order pairs: those inside first, then by cost, then by index (of the candidate or of the ground truth).
constexpr std::uint64_t kFirstOutside = std::uint64_t{1} << 63;  // keys of pairs inside are below
FD_HD std::uint64_t pair_key(bool inside, float cost, std::int32_t index) {
  return (static_cast<std::uint64_t>(!inside) << 63) | (static_cast<std::uint64_t>(order_key(cost)) << 31) |
         static_cast<std::uint64_t>(index);
}

// False for a row that can match nothing: a coordinate is not finite or the label is no class.
FD_HD bool load_ground_truth(const OtaParams& p, std::int64_t image, std::int64_t row, GroundTruth* gt) {
  const std::int64_t label = load_integer(p.gt_labels, image * p.gt_labels.stride[0] + row * p.gt_labels.stride[1]);
  const TensorView& boxes = p.gt_boxes;
  const Box box = load_box(boxes.as<const float>() + image * boxes.stride[0] + row * boxes.stride[1], boxes.stride[2]);
  gt->box = box;
  gt->center_x = (box.x1 + box.x2) * 0.5f;
  gt->center_y = (box.y1 + box.y2) * 0.5f;
  gt->area = box_area(box);
  gt->label = static_cast<std::int32_t>(label);
  return box_finite(box) && label >= 0 && label < p.classes();
}

// The prior behind a candidate; -1: none.
FD_HD std::int64_t source_of(const OtaParams& p, std::int64_t image, std::int64_t candidate) {
  if (!p.listed) return candidate;
  const std::int64_t prior = load_integer(p.candidates, image * p.candidates.stride[0] + candidate * p.candidates.stride[1]);
  return prior >= 0 && prior < p.scores.shape[1] ? prior : -1;
}

// How many candidates a ground truth asks for: the sum of its largest IoUs, truncated, at least 1.
FD_HD int dynamic_k(double iou_sum) { return iou_sum < 1.0 ? 1 : static_cast<int>(iou_sum); }

}  // namespace ota
}  // namespace fastdet
