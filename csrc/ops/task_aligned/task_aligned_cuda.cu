// SPDX-License-Identifier: Apache-2.0
#include "core/launch.h"
#include "ops/task_aligned/task_aligned.h"
#include "ops/task_aligned/task_aligned_kernels.cuh"
#include "ops/task_aligned/task_aligned_layout.h"

namespace fastdet {
namespace task_aligned {
namespace {

template <IouKind K>
void launch(const TaskAlignedParams& p, Stream stream) {
  std::size_t bytes = 0;
  const DeviceLayout w = device_layout(p, &bytes);
  const std::int64_t tiles = p.images() * w.tiles, truths = p.images() * p.rows(), pairs = truths * p.anchors();
  FD_LAUNCH(task_aligned_prepare_kernel<K>, tiles, kAnchorsPerBlock, 0, stream, p, w);
  if (p.want_cost && pairs > 0) {
    FD_LAUNCH(task_aligned_price_kernel<K>, ceil_div(pairs, kAnchorsPerBlock), kAnchorsPerBlock, 0, stream, p, w);
  }
  if (truths > 0) FD_LAUNCH(task_aligned_choose_kernel<K>, truths, kChooseThreads, 0, stream, p, w);
  if (p.want_cost) return;
  FD_LAUNCH(task_aligned_settle_kernel<K>, tiles, kAnchorsPerBlock, 0, stream, p, w);
  if (truths > 0) {
    FD_LAUNCH(task_aligned_keep_kernel, ceil_div(truths, kKeepWarps), kKeepWarps * kWarp, 0, stream, p, w);
  }
  FD_LAUNCH(task_aligned_write_kernel, tiles, kAnchorsPerBlock, 0, stream, p, w);
}

}  // namespace
}  // namespace task_aligned

void task_aligned_cuda(const TaskAlignedParams& p, Stream stream) {
  if (p.images() == 0) return;
  switch (p.kind) {
    case IouKind::kIou: return task_aligned::launch<IouKind::kIou>(p, stream);
    case IouKind::kProb: return task_aligned::launch<IouKind::kProb>(p, stream);
    default: return task_aligned::launch<IouKind::kCiou>(p, stream);
  }
}

}  // namespace fastdet
