// SPDX-License-Identifier: Apache-2.0
// First half of the CPU path: which candidates of an image pass the score threshold.
#pragma once

#include <cstdint>

#include "ops/nms/nms.h"

namespace fastdet {

// Writes the keys of all candidates of `image` that pass, in no particular order, to keys; returns how many. keys holds one more
// than candidates(). In the best-class mode labels[anchor] gets the column of the best score, else it is scratch.
std::int64_t nms_collect(const NmsParams& params, std::int64_t image, std::uint64_t* keys, std::int32_t* labels);

}  // namespace fastdet
