// SPDX-License-Identifier: Apache-2.0
// How a chosen box lowers the score of another, for host and device.
#pragma once

#include "core/box.h"

namespace fastdet {

struct SoftRule {
  float iou_threshold;  // the smallest float not below the given one
  float sigma;
  float score_threshold;  // the largest float not above the given one
};

inline SoftRule soft_rule(double iou_threshold, double sigma, double score_threshold) {
  return {-round_down(-iou_threshold), static_cast<float>(sigma), round_down(score_threshold)};
}

template <bool kGaussian>
FD_HD float soft_factor(float iou, const SoftRule& rule) {
  if (kGaussian) return exp_exact(-((iou * iou) / rule.sigma));
  return iou >= rule.iou_threshold ? 1.0f - iou : 1.0f;
}

// The score that is left, 0 where that is not above the threshold: the box is out for good. Areas may leave the range of
// float32; there is nothing in common then.
template <bool kGaussian>
FD_HD float soft_score(float score, float intersection, float area_a, float area_b, const SoftRule& rule) {
  const float left = score * soft_factor<kGaussian>(positive(iou_of(intersection, area_a, area_b)), rule);
  return left > rule.score_threshold ? left : 0.0f;
}

}  // namespace fastdet
