// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "core/ota_layout.h"
#include "ops/aligned_ota/aligned_ota.h"

namespace fastdet {

void aligned_ota_check(const char* op, const AlignedOtaParams& p, bool look_at_values) { check_ota(op, p, look_at_values); }

std::size_t aligned_ota_cuda_workspace_bytes(const AlignedOtaParams& p) { return ota::cuda_workspace_bytes(p); }

}  // namespace fastdet
