// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <type_traits>

#include "core/dispatch.h"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_kernels.cuh"

namespace fastdet {
namespace {

template <typename M, typename Source>
void prepare(const SelectionTask& task, const Source& source, const M& measure, std::int64_t images, Stream stream) {
  static_assert(sizeof(typename M::Kept) == (std::is_same_v<M, GaussianMeasure> ? 48 : 32), "RotatedChoice::item_bytes");
  const std::int64_t count = task.rule.anchors > task.rule.selected() ? task.rule.anchors : task.rule.selected();
  FD_LAUNCH((rotated_prepare_kernel<M, Source>), Dim3(ceil_div(count, std::int64_t{kSelectionThreads}), images),
            kSelectionThreads, 0, stream, task, source, measure);
}

template <typename M>
void one(const RotatedNmsParams& p, Stream stream) {
  const double every_score = -std::numeric_limits<double>::infinity();
  const SelectionTask task = selection_task(p.rule(), p.layout(), every_score, p.workspace, p.out);
  const RotatedOne source{{p.in}};
  const M measure{rotated_rule(p.iou_threshold, p.degrees)};
  bool sorted = false;
  if (p.in.count() > 0) {
    prepare(task, source, measure, 1, stream);
    select_candidates(task, ScoredSource{p.in}, 1, stream);
    sorted = sort_selected(task, 1, stream);
  }
  suppress_rotated(task, source, measure, p.fast, 1, sorted, stream);
}

template <typename M>
void many(const RotatedMulticlassParams& p, Stream stream) {
  CandidateRows rows = p.out;
  rows.boxes.data = nullptr;  // written at the end, by index
  const SelectionTask task = selection_task(p.rule(), p.layout(), p.score_threshold, p.workspace, rows);
  const RotatedMany source{p.boxes};
  const M measure{rotated_rule(p.iou_threshold, p.degrees)};
  bool sorted = false;
  if (task.selected > 0) {
    prepare(task, source, measure, p.images(), stream);
    dispatch_float(p.scores.dtype, [&](auto tag) {
      using Scored = RotatedManyScored<typename decltype(tag)::type>;
      const Scored scored{source, {p.scores}};
      const std::int64_t blocks = ceil_div(task.layout.anchors, std::int64_t{kSelectionThreads});
      FD_LAUNCH(selection_prepare_kernel<Scored>, Dim3(blocks > 0 ? blocks : 1, p.images()), kSelectionThreads, 0, stream, task,
                scored);
      select_candidates(task, scored, p.images(), stream);
    });
    sorted = sort_selected(task, p.images(), stream);
  }
  suppress_rotated(task, source, measure, p.fast, p.images(), sorted, stream);
  if (p.max_det == 0) return;
  FD_LAUNCH(rotated_rows_kernel, Dim3(ceil_div(p.max_det, std::int64_t{kSelectionThreads}), p.images()), kSelectionThreads, 0,
            stream, source, p.out, p.max_det);
}

}  // namespace

void rotated_nms_cuda(const RotatedNmsParams& p, Stream stream) {
  p.gaussian ? one<GaussianMeasure>(p, stream) : one<PolygonMeasure>(p, stream);
}

void rotated_multiclass_cuda(const RotatedMulticlassParams& p, Stream stream) {
  constexpr std::int64_t kMostImages = 65535;  // height of a grid
  for (std::int64_t first = 0; first < p.images(); first += kMostImages) {
    const std::int64_t count = p.images() - first < kMostImages ? p.images() - first : kMostImages;
    RotatedMulticlassParams part = p;
    part.boxes = images_of(p.boxes, first, count);
    part.scores = images_of(p.scores, first, count);
    part.out = images_of(p.out, first, count);
    part.workspace = static_cast<char*>(p.workspace) + first * p.layout().bytes();
    p.gaussian ? many<GaussianMeasure>(part, stream) : many<PolygonMeasure>(part, stream);
  }
}

}  // namespace fastdet
