// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "ops/nms/nms_kernels.cuh"
#include "ops/nms/nms_walk.cuh"

namespace fastdet {
namespace {

NmsTask make_task(const NmsParams& p) {
  NmsTask task{};
  task.boxes = p.boxes;
  task.scores = p.scores;
  task.groups = p.groups;
  task.layout = nms_layout(p);
  task.workspace = static_cast<unsigned char*>(p.workspace);
  task.columns = p.columns();
  task.candidates = p.candidates();
  task.selected = static_cast<std::uint32_t>(p.selected());
  task.threshold = threshold_key(p.score_threshold);
  task.iou_threshold = round_down(p.iou_threshold);
  task.multi_label = p.multi_label;
  task.by_group = p.groups.data != nullptr;
  task.by_label = !p.class_agnostic && !task.by_group && p.columns() > 1;
  task.max_det = p.max_det;
  task.out_boxes = p.out_boxes;
  task.out_scores = p.out_scores;
  task.out_labels = p.out_labels;
  task.out_index = p.out_index;
  task.out_count = p.out_count;
  return task;
}

// Chooses the candidates that enter the walk and leaves their keys in task.keys().
template <typename TBox, typename TScore>
void select(const NmsParams& p, const NmsTask& task, Stream stream) {
  const Dim3 tiles(task.layout.tiles, p.images());
  const bool truncate = p.candidates() > p.max_candidates;
  const int passes = truncate ? kNmsHistograms : 0;
  for (int pass = 0; pass < passes; ++pass) {
    FD_LAUNCH((nms_histogram_kernel<TBox, TScore>), tiles, kNmsThreads, 0, stream, task, pass);
  }
  FD_LAUNCH((nms_count_kernel<TBox, TScore>), tiles, kNmsThreads, 0, stream, task, passes);
  FD_LAUNCH((nms_compact_kernel<TBox, TScore>), tiles, kNmsThreads, 0, stream, task, passes);
}

// Returns whether the sorted keys ended in task.sorted().
bool sort(const NmsParams& p, const NmsTask& task, Stream stream) {
  FD_LAUNCH(nms_sort_kernel, Dim3(task.layout.runs, p.images()), kNmsThreads, 0, stream, task);
  bool in_sorted = false;
  for (std::int64_t length = kNmsRun; length < task.layout.keys(); length *= 2) {
    FD_LAUNCH(nms_merge_kernel, Dim3(ceil_div(task.layout.keys(), kNmsThreads), p.images()), kNmsThreads, 0, stream, task, length,
              in_sorted);
    in_sorted = !in_sorted;
  }
  return in_sorted;
}

}  // namespace

namespace {

// Images [first, first + count) of a batch.
TensorView images_of(TensorView view, std::int64_t first, std::int64_t count) {
  if (view.data == nullptr) return view;
  view.data = view.as<char>() + first * view.stride[0] * static_cast<std::int64_t>(item_size(view.dtype));
  view.shape[0] = count;
  return view;
}

void suppress(const NmsParams& p, Stream stream) {
  const NmsTask task = make_task(p);
  bool in_sorted = false;
  if (p.selected() > 0) {
    dispatch_float(p.scores.dtype, [&](auto score_tag) {
      using TScore = typename decltype(score_tag)::type;
      const std::int64_t blocks = ceil_div(task.layout.anchors, kNmsThreads);
      FD_LAUNCH(nms_prepare_kernel<TScore>, Dim3(blocks > 0 ? blocks : 1, p.images()), kNmsThreads, 0, stream, task);
      dispatch_float(p.boxes.dtype, [&](auto box_tag) {
        using TBox = typename decltype(box_tag)::type;
        select<TBox, TScore>(p, task, stream);
      });
    });
    in_sorted = sort(p, task, stream);
  }
  dispatch_float(p.boxes.dtype, [&](auto box_tag) {
    using TBox = typename decltype(box_tag)::type;
    FD_LAUNCH(nms_walk_kernel<TBox>, Dim3(1, p.images()), kNmsThreads, 0, stream, task, in_sorted);
  });
}

}  // namespace

void nms_cuda(const NmsParams& p, Stream stream) {
  constexpr std::int64_t kMostImages = 65535;  // height of a grid
  for (std::int64_t first = 0; first < p.images(); first += kMostImages) {
    const std::int64_t count = p.images() - first < kMostImages ? p.images() - first : kMostImages;
    NmsParams part = p;
    for (TensorView NmsParams::* array :
         {&NmsParams::boxes, &NmsParams::scores, &NmsParams::groups, &NmsParams::out_boxes, &NmsParams::out_scores,
          &NmsParams::out_labels, &NmsParams::out_index, &NmsParams::out_count}) {
      part.*array = images_of(p.*array, first, count);
    }
    part.workspace = static_cast<char*>(p.workspace) + first * nms_layout(p).bytes();
    suppress(part, stream);
  }
}

}  // namespace fastdet
