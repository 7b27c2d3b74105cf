// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "ops/topk_detections/topk_detections.h"
#include "ops/topk_detections/topk_detections_kernels.cuh"

namespace fastdet {
namespace {

void run(const TopkParams& p, std::int64_t images, Stream stream) {
  const SelectionTask task = selection_task(p.rule(), p.layout(), p.score_threshold, p.workspace, p.out);
  dispatch_float(p.logits.dtype, [&](auto tag) {
    using Source = TopkSource<typename decltype(tag)::type>;
    const Source source{
        p.logits,  p.boxes,      p.image_sizes, p.format, static_cast<float>(p.image_height), static_cast<float>(p.image_width),
        p.sigmoid, p.boxes.dtype};
    bool in_sorted = false;
    if (p.rule().selected() > 0) {
      const std::int64_t blocks = ceil_div(task.layout.anchors, kSelectionThreads);
      FD_LAUNCH(selection_prepare_kernel<Source>, Dim3(blocks > 0 ? blocks : 1, images), kSelectionThreads, 0, stream, task,
                source);
      select_candidates(task, source, images, stream);
      in_sorted = sort_selected(task, images, stream);
    }
    const std::int64_t rows = ceil_div(p.max_det, kSelectionThreads);
    FD_LAUNCH(selection_rows_kernel<Source>, Dim3(rows > 0 ? rows : 1, images), kSelectionThreads, 0, stream, task, source,
              in_sorted);
  });
}

}  // namespace

void topk_detections_cuda(const TopkParams& p, Stream stream) {
  constexpr std::int64_t kMostImages = 65535;  // height of a grid
  const std::int64_t images = p.logits.shape[0];
  for (std::int64_t first = 0; first < images; first += kMostImages) {
    const std::int64_t count = images - first < kMostImages ? images - first : kMostImages;
    TopkParams part = p;
    part.logits = images_of(p.logits, first, count);
    part.boxes = images_of(p.boxes, first, count);
    part.image_sizes = images_of(p.image_sizes, first, count);
    part.out = images_of(p.out, first, count);
    part.workspace = static_cast<char*>(p.workspace) + first * p.layout().bytes();
    run(part, count, stream);
  }
}

}  // namespace fastdet
