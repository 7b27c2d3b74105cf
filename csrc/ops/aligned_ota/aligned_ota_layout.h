// SPDX-License-Identifier: Apache-2.0
// How the workspace is cut up on a device. Also asked on the host for its size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/aligned_ota/aligned_ota.h"

namespace fastdet::aligned_ota {

// Hands out consecutive pieces, each aligned to 64 bytes; with a null base it only measures.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  void take(T** pointer, std::int64_t count) {
    *pointer = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

constexpr std::int64_t kPriorsPerBlock = 256;

struct DeviceLayout {
  std::int64_t tiles;         // of kPriorsPerBlock priors in an image; at least 1, so that every image has a block
  double* class_sum;          // [B, A] NaN: not valid
  std::int32_t* tile_count;   // [B, tiles] valid priors
  std::int32_t* count;        // [B] valid priors
  std::int32_t* takers;       // [B, A] ground truths that chose the prior
  std::int32_t* first_taker;  // [B, A] the lowest of them
  // Valid priors of each image side by side, rising by index. [B, A] each.
  std::int32_t* index;
  float *x1, *y1, *x2, *y2;  // decoded box
  float *x, *y, *reach;      // point; radius times stride
};

inline DeviceLayout device_layout(const AlignedOtaParams& p, std::size_t* bytes) {
  DeviceLayout layout;
  const std::int64_t priors = p.images() * p.priors();
  layout.tiles = p.priors() > 0 ? ceil_div(p.priors(), kPriorsPerBlock) : 1;
  Carver carver(p.workspace);
  carver.take(&layout.class_sum, priors);
  carver.take(&layout.tile_count, p.images() * layout.tiles);
  carver.take(&layout.count, p.images());
  for (std::int32_t** column : {&layout.takers, &layout.first_taker, &layout.index}) carver.take(column, priors);
  for (float** column : {&layout.x1, &layout.y1, &layout.x2, &layout.y2, &layout.x, &layout.y, &layout.reach}) {
    carver.take(column, priors);
  }
  *bytes = carver.used();
  return layout;
}

}  // namespace fastdet::aligned_ota
