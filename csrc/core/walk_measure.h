// SPDX-License-Identifier: Apache-2.0
// When a kept box makes another fall: IoU or DIoU of corners above a threshold.
#pragma once

#include "core/box.h"

namespace fastdet {

struct SizedBox {
  Box box;
  float area;
};

// IoU minus the squared distance between the centres over the squared diagonal of the enclosing box (arXiv 1911.08287). Where
// the boxes have nothing in common the IoU is 0 or NaN, and neither form is above a threshold that is not negative.
FD_HD float diou_of(const Box& a, float area_a, const Box& b, float area_b) {
  const float dx = ((b.x1 + b.x2) - (a.x1 + a.x2)) * 0.5f, dy = ((b.y1 + b.y2) - (a.y1 + a.y2)) * 0.5f;
  const float w = larger(a.x2, b.x2) - smaller(a.x1, b.x1), h = larger(a.y2, b.y2) - smaller(a.y1, b.y1);
  return iou_of(box_intersection(a, b), area_a, area_b) - (dx * dx + dy * dy) / (w * w + h * h);
}

template <bool kByDistance>
FD_HD bool suppresses(const Box& kept, float kept_area, const Box& box, float area, float threshold) {
  const float value = kByDistance ? diou_of(kept, kept_area, box, area) : iou_of(box_intersection(kept, box), kept_area, area);
  return value > threshold;
}

// The walk's Measure on CUDA, see core/suppression_kernels.cuh.
template <bool kByDistance>
struct BoxMeasure {
  using Kept = Box;
  using Item = SizedBox;
  float threshold;

  template <typename Source, typename Task>
  FD_HD Box load(const Source& source, const Task& task, std::int64_t image, std::int64_t anchor) const {
    return source.box(task, image, anchor);
  }
  FD_HD SizedBox item(const Box& box) const { return {box, box_area(box)}; }
  FD_HD Box corners(const SizedBox& item) const { return item.box; }
  FD_HD bool suppresses(const SizedBox& kept, const SizedBox& other) const {
    return fastdet::suppresses<kByDistance>(kept.box, kept.area, other.box, other.area, threshold);
  }
};

}  // namespace fastdet
