// SPDX-License-Identifier: Apache-2.0
#include "core/launch.h"
#include "ops/rotated_box_iou/rotated_box_iou.h"
#include "ops/rotated_box_iou/rotated_box_iou_kernels.cuh"

namespace fastdet {
namespace rotated_iou {
namespace {

template <typename M>
void launch(const RotatedBoxIouParams& p, Stream stream) {
  const Form<typename M::Number> form = form_of<typename M::Number>(p.degrees);
  if (p.aligned) {
    FD_LAUNCH(rotated_aligned_kernel<M>, ceil_div(p.images() * p.rows(), kThreads), kThreads, 0, stream, p, form);
    return;
  }
  const std::int64_t grid = p.images() * ceil_div(p.rows(), kStagedRows) * ceil_div(p.columns(), kThreads);
  FD_LAUNCH(rotated_pairs_kernel<M>, grid, kThreads, 0, stream, p, form);
}

template <typename T>
void run(const RotatedBoxIouParams& p, Stream stream) {
  switch (kind_of(p.gaussian, p.over_first)) {
    case Kind::kIou: return launch<typename MeasureOf<Kind::kIou, T>::type>(p, stream);
    case Kind::kIof: return launch<typename MeasureOf<Kind::kIof, T>::type>(p, stream);
    case Kind::kProb: return launch<typename MeasureOf<Kind::kProb, T>::type>(p, stream);
  }
}

}  // namespace
}  // namespace rotated_iou

void rotated_box_iou_cuda(const RotatedBoxIouParams& p, Stream stream) {
  if (p.images() == 0 || p.rows() == 0 || p.columns() == 0) return;
  p.dtype() == DType::kFloat64 ? rotated_iou::run<double>(p, stream) : rotated_iou::run<float>(p, stream);
}

}  // namespace fastdet
