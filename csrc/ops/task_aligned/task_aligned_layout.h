// SPDX-License-Identifier: Apache-2.0
// How the workspace is cut up on a device. Also asked on the host for its size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/workspace.h"
#include "ops/task_aligned/task_aligned.h"

namespace fastdet::task_aligned {

constexpr std::int64_t kAnchorsPerBlock = 256;
constexpr std::int64_t kAnchorsPerHull = 32;  // a warp

struct DeviceLayout {
  std::int64_t tiles;                 // of kAnchorsPerBlock anchors in an image; at least 1, so that every image has a block
  std::int64_t hulls;                 // of kAnchorsPerHull anchors
  std::int64_t pitch;                 // between columns of items
  float* items;                       // [fields, B A] prepared boxes
  Box* hull;                          // [hulls] of points, the same for all images
  std::int32_t* takers;               // [B, A] ground truths that chose the anchor
  std::int32_t* first_taker;          // [B, A] the lowest of them; then the owner, -1: none
  float *metric, *overlap;            // [B, A] with the owner
  std::uint64_t* last_key;            // [B, M] of the last anchor that a ground truth keeps
  float *best_metric, *best_overlap;  // [B, M] over the anchors it keeps
};

inline DeviceLayout device_layout(const TaskAlignedParams& p, std::size_t* bytes) {
  DeviceLayout layout;
  const std::int64_t fields = p.kind == IouKind::kProb ? 11 : 6, rows = p.images() * p.rows();
  layout.pitch = p.images() * p.anchors();
  layout.tiles = p.anchors() > 0 ? ceil_div(p.anchors(), kAnchorsPerBlock) : 1;
  layout.hulls = ceil_div(p.anchors(), kAnchorsPerHull);
  Workspace workspace(p.workspace);
  workspace.take(&layout.items, fields * layout.pitch);
  workspace.take(&layout.hull, layout.hulls);
  for (std::int32_t** column : {&layout.takers, &layout.first_taker}) workspace.take(column, layout.pitch);
  for (float** column : {&layout.metric, &layout.overlap}) workspace.take(column, layout.pitch);
  workspace.take(&layout.last_key, rows);
  for (float** column : {&layout.best_metric, &layout.best_overlap}) workspace.take(column, rows);
  *bytes = workspace.used();
  return layout;
}

}  // namespace fastdet::task_aligned
