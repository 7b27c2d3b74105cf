// SPDX-License-Identifier: Apache-2.0
#include "core/launch.h"
#include "ops/box_iou/box_iou.h"
#include "ops/box_iou/box_iou_kernels.cuh"

namespace fastdet {
namespace pairwise_iou {
namespace {

template <IouKind K, typename T>
void launch(const BoxIouParams& p, Stream stream) {
  const IouForm<T> form = iou_form<T>(p.rules);
  const std::int64_t m = p.rows(), n = p.columns();
  if (p.out != nullptr && m > 0 && n > 0) {
    const std::int64_t grid = p.images() * ceil_div(m, kStagedRows) * ceil_div(n, kThreads);
    FD_LAUNCH((box_iou_kernel<K, T>), grid, kThreads, 0, stream, p, form);
  }
  if (p.grad1 != nullptr && m > 0) {
    FD_LAUNCH((box_iou_backward1_kernel<K, T>), p.images() * m, kThreads, 0, stream, p, form);
  }
  if (p.grad2 != nullptr && n > 0) {
    FD_LAUNCH((box_iou_backward2_kernel<K, T>), p.images() * ceil_div(n, 32), kThreads, 0, stream, p, form);
  }
}

}  // namespace
}  // namespace pairwise_iou

void box_iou_cuda(const BoxIouParams& p, Stream stream) {
  if (p.images() == 0) return;
  dispatch_iou(p.rules.kind, [&](auto tag) {
    constexpr IouKind kind = decltype(tag)::kind;
    p.dtype() == DType::kFloat64 ? pairwise_iou::launch<kind, double>(p, stream) : pairwise_iou::launch<kind, float>(p, stream);
  });
}

}  // namespace fastdet
