// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "ops/decode/decode.h"
#include "ops/decode/detect_kernels.cuh"

namespace fastdet {
namespace {

template <typename T>
void choose(const DetectParams& p, const SelectionTask& task, Stream stream) {
  const float least = least_logit(p.score_threshold);
  const std::int64_t blocks = ceil_div(p.maps.anchors, kSelectionThreads);
  FD_LAUNCH(detect_prepare_kernel<T>, Dim3(blocks > 0 ? blocks : 1, p.maps.images), kSelectionThreads, 0, stream, task, p.maps,
            least);
  if (p.multi_label) {
    select_candidates(task, DetectSource<T>{p.maps, least}, p.maps.images, stream);
  } else {
    select_candidates(task, DetectBest{}, p.maps.images, stream);
  }
}

void run(const DetectParams& p, Stream stream) {
  const SelectionTask task = selection_task(p.rule(), p.layout(), p.score_threshold, p.workspace, p.out);
  bool in_sorted = false;
  if (p.rule().selected() > 0) {
    dispatch_float(p.maps.dtype, [&](auto tag) { choose<typename decltype(tag)::type>(p, task, stream); });
    if (p.suppress) in_sorted = sort_selected(task, p.maps.images, stream);
  }
  if (p.suppress) {
    suppress_selected(task, DetectBoxes{}, p.maps.images, in_sorted, stream);
    return;
  }
  const std::int64_t blocks = ceil_div(p.max_det, kSelectionThreads);
  FD_LAUNCH(selection_rows_kernel<DetectBoxes>, Dim3(blocks > 0 ? blocks : 1, p.maps.images), kSelectionThreads, 0, stream, task,
            DetectBoxes{}, false);
}

}  // namespace

void detect_cuda(const DetectParams& p, Stream stream) {
  constexpr std::int64_t kMostImages = 65535;  // height of a grid
  for (std::int64_t first = 0; first < p.maps.images; first += kMostImages) {
    DetectParams part = p;
    part.maps = images_of(p.maps, first, p.maps.images - first < kMostImages ? p.maps.images - first : kMostImages);
    part.out = images_of(p.out, first, part.maps.images);
    part.workspace = static_cast<char*>(p.workspace) + first * p.layout().bytes();
    run(part, stream);
  }
}

}  // namespace fastdet
