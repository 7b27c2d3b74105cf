// SPDX-License-Identifier: Apache-2.0
#include "ops/soft_nms/soft_nms.h"
#include "ops/soft_nms/soft_nms_kernels.cuh"

namespace fastdet {

void soft_nms_cuda(const SoftNmsParams& p, Stream stream) {
  Box* boxes = static_cast<Box*>(p.workspace);
  const SoftTask task{p.in, soft_rule(p.iou_threshold, p.sigma, p.score_threshold), p.out, boxes,
                      reinterpret_cast<float*>(boxes + p.in.count())};
  if (p.gaussian) {
    FD_LAUNCH(soft_nms_kernel<true>, 1, kSoftThreads, 0, stream, task);
  } else {
    FD_LAUNCH(soft_nms_kernel<false>, 1, kSoftThreads, 0, stream, task);
  }
}

}  // namespace fastdet
