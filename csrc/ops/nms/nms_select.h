// SPDX-License-Identifier: Apache-2.0
// First half of the CPU path: which candidates of an image pass the score threshold.
#pragma once

#include <cstdint>

#include "ops/nms/nms.h"

namespace fastdet {

// Writes the keys of all candidates of `image` that pass, in no particular order, to keys[0 .. candidates()); returns how many. For
// the best-class mode labels[anchor] gets the column of the best score.
std::int64_t nms_collect(const NmsParams& params, std::int64_t image, std::uint64_t* keys, std::int32_t* labels);

}  // namespace fastdet
