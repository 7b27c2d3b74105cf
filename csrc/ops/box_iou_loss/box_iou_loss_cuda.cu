// SPDX-License-Identifier: Apache-2.0
#include "core/launch.h"
#include "ops/box_iou_loss/box_iou_loss.h"
#include "ops/box_iou_loss/box_iou_loss_kernels.cuh"

namespace fastdet {
namespace aligned_iou {
namespace {

template <typename T>
void launch(const BoxIouLossParams& p, Stream stream) {
  const std::int64_t blocks = ceil_div(p.pairs(), kBlock);
  if (blocks > 0) {
    const IouForm<T> form = iou_form<T>(p.rules);
    dispatch_iou(p.rules.kind,
                 [&](auto tag) { FD_LAUNCH((box_iou_loss_kernel<decltype(tag)::kind, T>), blocks, kBlock, 0, stream, p, form); });
  }
  if (p.reduction != Reduction::kNone) FD_LAUNCH(box_iou_loss_reduce_kernel<T>, 1, kBlock, 0, stream, p, blocks);
}

template <typename T>
void launch_backward(const BoxIouLossBackwardParams& p, Stream stream) {
  const auto multiply = [&](const TensorView& kept, void* out) {
    if (kept.numel() == 0) return;
    FD_LAUNCH(box_iou_loss_multiply_kernel<T>, ceil_div(kept.numel(), kBlock), kBlock, 0, stream, p.grad_loss, kept, out);
  };
  multiply(p.kept_pred, p.grad_pred);
  multiply(p.kept_target, p.grad_target);
}

}  // namespace
}  // namespace aligned_iou

void box_iou_loss_cuda(const BoxIouLossParams& p, Stream stream) {
  p.dtype() == DType::kFloat64 ? aligned_iou::launch<double>(p, stream) : aligned_iou::launch<float>(p, stream);
}

void box_iou_loss_backward_cuda(const BoxIouLossBackwardParams& p, Stream stream) {
  using namespace aligned_iou;
  p.grad_loss.dtype == DType::kFloat64 ? launch_backward<double>(p, stream) : launch_backward<float>(p, stream);
}

}  // namespace fastdet
