// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "core/ota_layout.h"
#include "ops/sim_ota/sim_ota.h"

namespace fastdet {

void sim_ota_check(const char* op, const SimOtaParams& p, bool look_at_values) {
  const std::int64_t images = p.images(), priors = p.scores.shape[1];
  FD_CHECK(p.objectness.shape[0] == images && p.objectness.shape[1] == priors, ValueError, op, ": objectness must be (", images,
           ", ", priors, ") for scores ", shape_text(p.scores), ", got ", shape_text(p.objectness));
  check_ota(op, p, look_at_values);
}

std::size_t sim_ota_cuda_workspace_bytes(const SimOtaParams& p) { return ota::cuda_workspace_bytes(p); }

}  // namespace fastdet
