// SPDX-License-Identifier: Apache-2.0
#include "ops/matrix_nms/matrix_nms.h"
#include "ops/matrix_nms/matrix_nms_kernels.cuh"

namespace fastdet {
namespace {

template <typename Decay>
void run(const MatrixNmsParams& p, Stream stream) {
  const SelectionLayout layout = p.layout();
  const SelectionTask task = selection_task(p.rule(), layout, p.score_threshold, p.workspace, p.out);
  const std::int64_t count = p.in.count(), blocks = ceil_div(count, kSelectionThreads);
  char* extra = static_cast<char*>(p.workspace) + layout.extra_at();
  const MatrixSource source{p.in, reinterpret_cast<std::int32_t*>(extra),
                            reinterpret_cast<std::int32_t*>(extra + SelectionLayout::padded(4 * count))};
  const Decay decay{static_cast<float>(p.sigma)};
  bool sorted = false;
  if (count > 0) {
    FD_LAUNCH(matrix_clear_kernel, blocks, kSelectionThreads, 0, stream, source);
    select_candidates(task, ScoredSource{p.in}, 1, stream);
    sorted = sort_selected(task, 1, stream);
    const std::int64_t spans = ceil_div(count, kMatrixSpan), limit = 65535;
    const Dim3 grid(blocks, spans < limit ? spans : limit);
    FD_LAUNCH((matrix_compare_kernel<false, Decay>), grid, kSelectionThreads, 0, stream, task, source, decay, sorted);
    FD_LAUNCH((matrix_compare_kernel<true, Decay>), grid, kSelectionThreads, 0, stream, task, source, decay, sorted);
    FD_LAUNCH(matrix_rescore_kernel<Decay>, ceil_div(layout.keys(), kSelectionThreads), kSelectionThreads, 0, stream, task,
              source, decay, sorted);
    sorted = sort_selected(task, 1, stream);
  }
  FD_LAUNCH(selection_rows_kernel<MatrixSource>, count > 0 ? blocks : 1, kSelectionThreads, 0, stream, task, source, sorted);
}

}  // namespace

void matrix_nms_cuda(const MatrixNmsParams& p, Stream stream) {
  p.gaussian ? run<GaussianDecay>(p, stream) : run<LinearDecay>(p, stream);
}

}  // namespace fastdet
