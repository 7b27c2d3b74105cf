// SPDX-License-Identifier: Apache-2.0
// Workspace of the CUDA path: sizes depend on shapes alone. One slice per image, all images share the layout.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/platform.h"
#include "ops/nms/nms.h"

namespace fastdet {

constexpr int kNmsRun = 2048;      // keys sorted by one block
constexpr int kNmsTile = 2048;     // candidates looked at by one block
constexpr int kNmsBins = 2048;     // histogram of 11 bits of the score key
constexpr int kNmsHistograms = 3;  // 11 + 11 + 10 bits

struct NmsLayout {
  std::int64_t runs;     // sorted runs; keys are padded to a whole number of them
  std::int64_t tiles;    // tiles of candidates
  std::int64_t anchors;  // best-class mode: one key and label each
  std::int64_t kept;     // rows of the kept list

  // Offsets in bytes of one image's slice; every part is a multiple of 16.
  FD_HD static std::int64_t padded(std::int64_t bytes) { return (bytes + 15) / 16 * 16; }
  FD_HD std::int64_t keys() const { return runs * kNmsRun; }
  FD_HD std::int64_t keys_at() const { return 0; }
  FD_HD std::int64_t sorted_at() const { return keys_at() + padded(8 * keys()); }
  FD_HD std::int64_t best_key_at() const { return sorted_at() + padded(8 * keys()); }
  FD_HD std::int64_t best_label_at() const { return best_key_at() + padded(4 * anchors); }
  FD_HD std::int64_t histogram_at() const { return best_label_at() + padded(4 * anchors); }
  FD_HD std::int64_t above_at() const { return histogram_at() + padded(4 * kNmsBins * kNmsHistograms); }
  FD_HD std::int64_t equal_at() const { return above_at() + padded(4 * tiles); }
  FD_HD std::int64_t kept_box_at() const { return equal_at() + padded(4 * tiles); }
  FD_HD std::int64_t kept_label_at() const { return kept_box_at() + padded(16 * kept); }
  FD_HD std::int64_t bytes() const { return kept_label_at() + padded(8 * kept); }
};

inline NmsLayout nms_layout(const NmsParams& p) {
  const std::int64_t selected = p.selected();
  return {ceil_div(selected, std::int64_t{kNmsRun}), ceil_div(p.candidates(), std::int64_t{kNmsTile}),
          p.multi_label ? 0 : p.anchors(), p.max_det < selected ? p.max_det : selected};
}

}  // namespace fastdet
