// SPDX-License-Identifier: Apache-2.0
// The kernels are those of dynamic-k matching with SimOTA's rule.
#pragma once

#include "core/ota_kernels.cuh"
#include "ops/sim_ota/sim_ota.h"
#include "ops/sim_ota/sim_ota_math.h"

namespace fastdet::sim_ota {

using Rule = RuleOf<SimOtaParams>;

}  // namespace fastdet::sim_ota
