// SPDX-License-Identifier: Apache-2.0
#include "ops/sim_ota/sim_ota_kernels.cuh"

namespace fastdet {

void sim_ota_cuda(const SimOtaParams& params, Stream stream) { ota_cuda<sim_ota::Rule>(params, stream); }

}  // namespace fastdet
