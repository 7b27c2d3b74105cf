// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "core/launch.h"
#include "ops/sim_ota/sim_ota.h"
#include "ops/sim_ota/sim_ota_kernels.cuh"
#include "ops/sim_ota/sim_ota_layout.h"

namespace fastdet {

void sim_ota_cuda(const SimOtaParams& p, Stream stream) {
  using namespace sim_ota;
  if (p.images() == 0) return;
  std::size_t bytes = 0;
  const DeviceLayout w = device_layout(p, &bytes);
  const std::int64_t tiles = p.images() * w.tiles, ground_truths = p.images() * p.rows();
  dispatch_float(p.scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    FD_LAUNCH(sim_ota_collect_kernel<T>, tiles, kPriorsPerBlock, 0, stream, p, w);
  });
  FD_LAUNCH(sim_ota_compact_kernel, tiles, kPriorsPerBlock, 0, stream, p, w);
  if (ground_truths > 0) FD_LAUNCH(sim_ota_choose_kernel, ground_truths, kChooseThreads, 0, stream, p, w);
  if (!p.want_cost) {
    FD_LAUNCH(sim_ota_settle_kernel, tiles, kPriorsPerBlock, 0, stream, p, w);
  } else if (const std::int64_t pairs = ground_truths * p.priors(); pairs > 0) {
    FD_LAUNCH(sim_ota_price_kernel, ceil_div(pairs, kPriorsPerBlock), kPriorsPerBlock, 0, stream, p, w);
  }
}

}  // namespace fastdet
