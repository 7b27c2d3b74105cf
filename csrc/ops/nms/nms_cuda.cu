// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "ops/nms/nms.h"
#include "ops/nms/nms_kernels.cuh"

namespace fastdet {
namespace {

void suppress(const NmsParams& p, Stream stream) {
  const SelectionTask task = selection_task(p.rule(), p.layout(), p.score_threshold, p.workspace, p.out);
  bool in_sorted = false;
  dispatch_float(p.boxes.dtype, [&](auto box_tag) {
    using TBox = typename decltype(box_tag)::type;
    const NmsBoxes<TBox> boxes{p.boxes, p.groups};
    if (p.selected() > 0) {
      dispatch_float(p.scores.dtype, [&](auto score_tag) {
        using TScore = typename decltype(score_tag)::type;
        const NmsSource<TBox, TScore> source{boxes, {p.scores}};
        const std::int64_t blocks = ceil_div(task.layout.anchors, kSelectionThreads);
        FD_LAUNCH((selection_prepare_kernel<NmsSource<TBox, TScore>>), Dim3(blocks > 0 ? blocks : 1, p.images()),
                  kSelectionThreads, 0, stream, task, source);
        select_candidates(task, source, p.images(), stream);
      });
      in_sorted = sort_selected(task, p.images(), stream);
    }
    suppress_selected(task, boxes, p.images(), in_sorted, stream);
  });
}

}  // namespace

void nms_cuda(const NmsParams& p, Stream stream) {
  constexpr std::int64_t kMostImages = 65535;  // height of a grid
  for (std::int64_t first = 0; first < p.images(); first += kMostImages) {
    const std::int64_t count = p.images() - first < kMostImages ? p.images() - first : kMostImages;
    NmsParams part = p;
    for (TensorView NmsParams::* array : {&NmsParams::boxes, &NmsParams::scores, &NmsParams::groups}) {
      part.*array = images_of(p.*array, first, count);
    }
    part.out = images_of(p.out, first, count);
    part.workspace = static_cast<char*>(p.workspace) + first * p.layout().bytes();
    suppress(part, stream);
  }
}

}  // namespace fastdet
