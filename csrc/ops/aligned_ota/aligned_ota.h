// SPDX-License-Identifier: Apache-2.0
// AlignedOTA label assignment: which candidate learns which ground truth. The contract is in the docstring of
// fastdet.ops.aligned_ota_assign; the formulas stand in aligned_ota_math.h, the frame in core/ota.h. Candidates are priors,
// scores probabilities.
#pragma once

#include <cstddef>

#include "core/launch.h"
#include "core/ota.h"

namespace fastdet {

struct AlignedOtaParams : OtaParams {};

void aligned_ota_check(const char* op, const AlignedOtaParams& params, bool look_at_values);  // as check_ota

std::size_t aligned_ota_cpu_workspace_bytes(const AlignedOtaParams& params);  // O(B (A + M topk))
void aligned_ota_cpu(const AlignedOtaParams& params);

std::size_t aligned_ota_cuda_workspace_bytes(const AlignedOtaParams& params);  // O(B A)
void aligned_ota_cuda(const AlignedOtaParams& params, Stream stream);          // four launches

}  // namespace fastdet
