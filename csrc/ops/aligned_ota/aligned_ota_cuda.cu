// SPDX-License-Identifier: Apache-2.0
#include "ops/aligned_ota/aligned_ota_kernels.cuh"

namespace fastdet {

void aligned_ota_cuda(const AlignedOtaParams& params, Stream stream) { ota_cuda<aligned_ota::Rule>(params, stream); }

}  // namespace fastdet
