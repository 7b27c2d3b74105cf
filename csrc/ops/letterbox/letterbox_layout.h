// SPDX-License-Identifier: Apache-2.0
// Sizes that the host, which provides the CUDA workspace, and the launcher, which divides it, have to agree on.
#pragma once

#include <algorithm>

#include "ops/letterbox/letterbox.h"
#include "ops/letterbox/letterbox_math.h"

namespace fastdet {

constexpr std::int64_t kLetterboxPictures = 64;  // of one launch; descriptors are kernel parameters

// 32-bit words that the Pillow tables of one picture take: columns, then rows.
inline std::int64_t letterbox_table_words(const LetterboxPicture& p) {
  return pillow_entries(p.width, p.new_width) + pillow_entries(p.height, p.new_height);
}

// Distance between the tables of two pictures in the CUDA workspace.
inline std::int64_t letterbox_table_stride(const LetterboxParams& params) {
  std::int64_t words = 0;
  for (std::int64_t i = 0; i < params.count; ++i) words = std::max(words, letterbox_table_words(params.pictures[i]));
  return words;
}

}  // namespace fastdet
