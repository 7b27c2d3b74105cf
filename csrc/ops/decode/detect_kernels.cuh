// SPDX-License-Identifier: Apache-2.0
// Candidates on CUDA: one pass over the logits finds what passes and decodes the boxes of those; core/selection_kernels.cuh and
// core/suppression_kernels.cuh do the rest. The workspace holds a key, a label and a box for each anchor, no dense scores.
#pragma once

#include "core/suppression_kernels.cuh"
#include "ops/decode/decode.h"

namespace fastdet {

FD_D Box* detect_boxes(const SelectionTask& task, std::int64_t image) { return task.part<Box>(image, task.layout.extra_at()); }

// Clears the histograms and writes each anchor's key: of its best column, or with multi_label 1 where a column may pass; 0 where
// none does or the box is not finite. Codes are read where a logit passes. Grid x covers anchors (at least one block).
template <typename T>
__global__ FD_LAUNCH_BOUNDS(kSelectionThreads) void detect_prepare_kernel(SelectionTask task, HeadMaps maps, float least) {
  const std::int64_t image = blockIdx.y;
  clear_histograms(task, image);
  const std::int64_t anchor = static_cast<std::int64_t>(blockIdx.x) * kSelectionThreads + threadIdx.x;
  if (anchor >= maps.anchors) return;
  const AnchorPlace place = place_of(maps, anchor);
  const HeadLevel& in = maps.level[place.level];
  const T* logits = logits_at<T>(in, image, place.prior, place.y, place.x);
  const T* codes = codes_at<T>(in, image, place.prior, place.y, place.x);
  const std::int64_t step = in.logits_stride[2];
  float objectness = 1.0f;
  bool passes = true;
  if (maps.objectness) {
    const float logit = to_float(codes[4 * in.codes_stride[2]]);
    passes = logit >= least;
    objectness = sigmoid_exact(logit);
  }
  float most = -bit_cast<float>(0x7f800000u);
  for (std::int64_t c = 0; passes && c < maps.classes; ++c) {
    const float value = to_float(logits[c * step]);
    most = value > most ? value : most;
  }
  std::uint32_t key = 0u;
  std::int32_t label = 0;
  if (passes && most >= least) {
    if (task.rule.multi_label) {
      key = 1u;
    } else {
      const BestColumn found = maps.objectness ? best_product(logits, step, maps.classes, objectness, least)
                                               : best_column(logits, step, maps.classes, most);
      key = found.column >= 0 ? score_key(found.score) : 0u;
      key = key > task.threshold ? key : 0u;
      label = found.column;
    }
    if (key != 0u) {
      const Box box = to_box(corners_at<T>(maps, in, codes, place.prior, place.y, place.x));
      detect_boxes(task, image)[anchor] = box;
      key = box_finite(box) ? key : 0u;
    }
  }
  task.best_key(image)[anchor] = key;
  task.best_label(image)[anchor] = label;
}

// Boxes of candidates, for the walk and for rows.
struct DetectBoxes {
  FD_D Box box(const SelectionTask& task, std::int64_t image, std::int64_t anchor) const {
    return detect_boxes(task, image)[anchor];
  }
  FD_D std::int64_t competes(const SelectionTask& task, std::int64_t image, std::int64_t number, std::int64_t) const {
    return task.rule.by_label ? task.label(image, number) : 0;
  }
};

// Scores of candidates; column_key is called with multi_label alone.
template <typename T>
struct DetectSource {
  HeadMaps maps;
  float least;

  FD_D std::uint32_t column_key(const SelectionTask& task, std::int64_t image, std::int64_t anchor, std::int64_t column) const {
    if (task.best_key(image)[anchor] == 0u) return 0u;
    const AnchorPlace place = place_of(maps, anchor);
    const HeadLevel& in = maps.level[place.level];
    const float logit = to_float(logits_at<T>(in, image, place.prior, place.y, place.x)[column * in.logits_stride[2]]);
    if (!(logit >= least)) return 0u;
    const float score = sigmoid_exact(logit);
    if (!maps.objectness) return score_key(score);
    const T* codes = codes_at<T>(in, image, place.prior, place.y, place.x);
    return score_key(sigmoid_exact(to_float(codes[4 * in.codes_stride[2]])) * score);
  }
  FD_D bool usable(const SelectionTask&, std::int64_t, std::int64_t) const { return true; }
};

// The best column of each anchor was found before: no maps are needed any more.
struct DetectBest {
  FD_D std::uint32_t column_key(const SelectionTask&, std::int64_t, std::int64_t, std::int64_t) const { return 0u; }
  FD_D bool usable(const SelectionTask&, std::int64_t, std::int64_t) const { return true; }
};

}  // namespace fastdet
