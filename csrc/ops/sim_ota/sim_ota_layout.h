// SPDX-License-Identifier: Apache-2.0
// How the workspace is cut up on a device. Also asked on the host for its size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/workspace.h"
#include "ops/sim_ota/sim_ota.h"

namespace fastdet::sim_ota {

constexpr std::int64_t kPriorsPerBlock = 256;

struct DeviceLayout {
  std::int64_t tiles;         // of kPriorsPerBlock priors in an image; at least 1, so that every image has a block
  double* class_sum;          // [B, A] NaN: not valid
  std::int32_t* tile_count;   // [B, tiles] valid priors
  std::int32_t* count;        // [B] valid priors
  std::int32_t* takers;       // [B, A] ground truths that chose the prior
  std::int32_t* first_taker;  // [B, A] the lowest of them
  // Valid priors of each image side by side, rising by index. [B, A] each.
  std::int32_t *index, *source;  // position among candidates; prior
  float *x1, *y1, *x2, *y2;      // decoded box
  float *x, *y, *reach;          // point; radius times stride
  float* objectness;             // probability
};

inline DeviceLayout device_layout(const SimOtaParams& p, std::size_t* bytes) {
  DeviceLayout layout;
  const std::int64_t priors = p.images() * p.priors();
  layout.tiles = p.priors() > 0 ? ceil_div(p.priors(), kPriorsPerBlock) : 1;
  Workspace workspace(p.workspace);
  workspace.take(&layout.class_sum, priors);
  workspace.take(&layout.tile_count, p.images() * layout.tiles);
  workspace.take(&layout.count, p.images());
  for (std::int32_t** column : {&layout.takers, &layout.first_taker, &layout.index, &layout.source})
    workspace.take(column, priors);
  for (float** column :
       {&layout.x1, &layout.y1, &layout.x2, &layout.y2, &layout.x, &layout.y, &layout.reach, &layout.objectness}) {
    workspace.take(column, priors);
  }
  *bytes = workspace.used();
  return layout;
}

}  // namespace fastdet::sim_ota
