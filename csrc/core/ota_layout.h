// SPDX-License-Identifier: Apache-2.0
// How the workspace is cut up on a device. Also asked on the host for its size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ota.h"
#include "core/workspace.h"

namespace fastdet::ota {

struct DeviceLayout {
  std::int64_t tiles;         // of kTile candidates in an image; at least 1, so that every image has a block
  double* class_sum;          // [B, A] NaN: not valid
  std::int32_t* tile_count;   // [B, tiles] valid candidates
  std::int32_t* count;        // [B] valid candidates
  std::int32_t* takers;       // [B, A] ground truths that chose the candidate
  std::int32_t* first_taker;  // [B, A] the lowest of them
  // Valid candidates of each image side by side, rising by index. [B, A] each.
  std::int32_t *index, *source;  // position among candidates; prior
  float *x1, *y1, *x2, *y2;      // decoded box
  float *x, *y, *reach;          // point; radius times stride
  float* factor;                 // of the scores
};

inline DeviceLayout device_layout(const OtaParams& p, std::size_t* bytes) {
  DeviceLayout w;
  const std::int64_t candidates = p.images() * p.priors();
  w.tiles = p.priors() > 0 ? ceil_div(p.priors(), kTile) : 1;
  Workspace workspace(p.workspace);
  workspace.take(&w.class_sum, candidates);
  workspace.take(&w.tile_count, p.images() * w.tiles);
  workspace.take(&w.count, p.images());
  for (std::int32_t** column : {&w.takers, &w.first_taker, &w.index, &w.source}) workspace.take(column, candidates);
  for (float** column : {&w.x1, &w.y1, &w.x2, &w.y2, &w.x, &w.y, &w.reach, &w.factor}) workspace.take(column, candidates);
  *bytes = workspace.used();
  return w;
}

inline std::size_t cuda_workspace_bytes(const OtaParams& p) {
  std::size_t bytes = 0;
  device_layout(p, &bytes);
  return bytes;
}

}  // namespace fastdet::ota
