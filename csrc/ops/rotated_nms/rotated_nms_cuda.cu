// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <type_traits>

#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_kernels.cuh"

namespace fastdet {
namespace {

template <typename M>
void run(const RotatedNmsParams& p, Stream stream) {
  const SelectionLayout layout = p.layout();
  const double every_score = -std::numeric_limits<double>::infinity();
  const SelectionTask task = selection_task(p.rule(), layout, every_score, p.workspace, p.out);
  const std::int64_t count = p.in.count();
  char* extra = static_cast<char*>(p.workspace) + layout.extra_at();
  constexpr std::int64_t item_bytes = sizeof(typename M::Kept);
  static_assert(item_bytes == (std::is_same_v<M, GaussianMeasure> ? 48 : 32), "RotatedNmsParams::item_bytes");
  const std::int64_t items = SelectionLayout::padded(item_bytes * count);
  const RotatedSource<M> source{p.in, reinterpret_cast<typename M::Kept*>(extra),
                                reinterpret_cast<std::uint32_t*>(extra + items)};
  const M measure{rotated_rule(p.iou_threshold, p.degrees)};
  bool sorted = false;
  if (count > 0) {
    FD_LAUNCH(rotated_prepare_kernel<M>, ceil_div(count, kSelectionThreads), kSelectionThreads, 0, stream, source, measure);
    select_candidates(task, ScoredSource{p.in}, 1, stream);
    sorted = sort_selected(task, 1, stream);
  }
  if (!p.fast) {
    suppress_selected_by(task, measure, source, 1, sorted, stream);
    return;
  }
  if (count > 0) {
    const std::int64_t spans = ceil_div(count, kRotatedSpan), most = 65535;
    FD_LAUNCH(rotated_fast_kernel<M>, Dim3(ceil_div(count, kSelectionThreads), spans < most ? spans : most), kSelectionThreads, 0,
              stream, task, source, measure, sorted);
  }
  FD_LAUNCH(rotated_list_kernel<M>, 1, kSelectionThreads, 0, stream, task, source, sorted);
}

}  // namespace

void rotated_nms_cuda(const RotatedNmsParams& p, Stream stream) {
  p.gaussian ? run<GaussianMeasure>(p, stream) : run<PolygonMeasure>(p, stream);
}

}  // namespace fastdet
