// SPDX-License-Identifier: Apache-2.0
// SimOTA label assignment: which candidate learns which ground truth. The contract is in the docstring of
// fastdet.ops.sim_ota_assign; the formulas stand in sim_ota_math.h, the frame in core/ota.h. scores are logits, and candidates
// may be listed (a list may name a prior twice).
#pragma once

#include <cstddef>

#include "core/launch.h"
#include "core/ota.h"

namespace fastdet {

struct SimOtaParams : OtaParams {
  TensorView objectness;  // [B, N] logits, float32, float16, bfloat16
};

void sim_ota_check(const char* op, const SimOtaParams& params, bool look_at_values);  // as check_ota

std::size_t sim_ota_cpu_workspace_bytes(const SimOtaParams& params);  // O(B (A + M topk))
void sim_ota_cpu(const SimOtaParams& params);

std::size_t sim_ota_cuda_workspace_bytes(const SimOtaParams& params);  // O(B A)
void sim_ota_cuda(const SimOtaParams& params, Stream stream);          // four launches

}  // namespace fastdet
