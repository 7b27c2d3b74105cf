// SPDX-License-Identifier: Apache-2.0
// What decides in NMS, for CPU and CUDA: which score is a candidate, in what order, and which box falls.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/numeric.h"
#include "core/platform.h"
#include "core/tensor.h"

namespace fastdet {

// Keys order candidates by falling score, then rising number: the score's order key above, the inverted number below. 0 is no
// candidate (the key of a finite score is never 0).
FD_HD std::uint32_t score_key(float score) { return is_finite(score) ? order_key(score) : 0u; }
FD_HD std::uint64_t candidate_key(std::uint32_t score, std::uint32_t number) {
  return (static_cast<std::uint64_t>(score) << 32) | static_cast<std::uint64_t>(~number);
}
FD_HD std::uint32_t candidate_number(std::uint64_t key) { return ~static_cast<std::uint32_t>(key); }
FD_HD float candidate_score(std::uint64_t key) { return order_key_value(static_cast<std::uint32_t>(key >> 32)); }

// The threshold as a key: candidates have score_key > threshold_key. Decided in double, as Python compares: score > threshold.
inline std::uint32_t threshold_key(double threshold) {
  const float rounded = round_down(threshold);
  if (rounded < -3.4028235e38f) return 0u;
  return order_key(rounded);
}

FD_HD bool suppresses(const Box& kept, float kept_area, const Box& box, float area, float threshold) {
  return iou_of(box_intersection(kept, box), kept_area, area) > threshold;
}

FD_HD std::int64_t load_group(const TensorView& groups, std::int64_t image, std::int64_t anchor) {
  const std::int64_t at = image * groups.stride[0] + anchor * groups.stride[1];
  return groups.dtype == DType::kInt32 ? groups.as<const std::int32_t>()[at] : groups.as<const std::int64_t>()[at];
}

}  // namespace fastdet
