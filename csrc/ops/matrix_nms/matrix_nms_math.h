// SPDX-License-Identifier: Apache-2.0
// How much of a box's score a better one leaves, for host and device. What it takes is a non-negative integer whose order is that
// of the loss, so that the greatest loss is found in any order of boxes; 0 takes nothing.
#pragma once

#include <cstdint>

#include "core/box.h"

namespace fastdet {

// 0 where there is nothing in common or the areas leave the range of float32.
FD_HD float matrix_overlap(float intersection, float area_a, float area_b) {
  return positive(iou_of(intersection, area_a, area_b));
}
FD_HD std::int32_t matrix_bits(float not_negative) { return bit_cast<std::int32_t>(not_negative); }

constexpr std::int32_t kMatrixOne = 0x3f800000;  // the bits of 1

// (1 - iou) / (1 - most): the factor, where it is below 1; 0 / 0 takes nothing. `most` is the better box's own greatest IoU
// with boxes better than itself.
struct LinearDecay {
  float sigma;
  FD_HD std::int32_t loss(float iou, float most) const {
    const float factor = (1.0f - iou) / (1.0f - most);
    return factor < 1.0f ? kMatrixOne - matrix_bits(factor) : 0;
  }
  FD_HD float factor(std::int32_t loss) const { return bit_cast<float>(kMatrixOne - loss); }
};

// exp(-sigma iou^2) / exp(-sigma most^2), of which the exponent is compared: the exponential itself is needed once for each box.
struct GaussianDecay {
  float sigma;
  FD_HD std::int32_t loss(float iou, float most) const { return matrix_bits(positive(sigma * (iou * iou - most * most))); }
  FD_HD float factor(std::int32_t loss) const { return exp_exact(-bit_cast<float>(loss)); }
};

}  // namespace fastdet
