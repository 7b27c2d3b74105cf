// SPDX-License-Identifier: Apache-2.0
// The kernels are those of dynamic-k matching with AlignedOTA's rule.
#pragma once

#include "core/ota_kernels.cuh"
#include "ops/aligned_ota/aligned_ota.h"
#include "ops/aligned_ota/aligned_ota_math.h"

namespace fastdet::aligned_ota {

using Rule = RuleOf<AlignedOtaParams>;

}  // namespace fastdet::aligned_ota
