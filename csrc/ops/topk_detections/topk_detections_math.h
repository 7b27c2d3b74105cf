// SPDX-License-Identifier: Apache-2.0
// What decides in topk_detections beside core/candidate.h: the score of a logit and the corners of a row.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

// How rows of boxes are written.
struct TopkBoxFormat {
  bool cxcywh = false;      // centre and size, else corners
  bool normalized = false;  // fractions of the picture, else pixels
};

// A logit's score, or with scores given the value itself. Not finite: no candidate.
FD_HD std::uint32_t topk_key(float value, bool sigmoid) { return score_key(sigmoid ? sigmoid_exact(value) : value); }

// Corners in pixels; height and width of the picture are read with fractions only.
FD_HD Box topk_box(const Box& row, const TopkBoxFormat& format, float height, float width) {
  Box box = row;
  if (format.cxcywh) {
    const float half_width = row.x2 * 0.5f, half_height = row.y2 * 0.5f;
    box = {row.x1 - half_width, row.y1 - half_height, row.x1 + half_width, row.y1 + half_height};
  }
  if (format.normalized) box = {box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height};
  return box;
}

}  // namespace fastdet
