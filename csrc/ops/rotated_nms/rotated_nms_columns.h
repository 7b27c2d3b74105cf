// SPDX-License-Identifier: Apache-2.0
// The loops of the CPU path over prepared boxes that stand side by side as columns, `pitch` apart; compiled per instruction set.
#pragma once

#include <cstdint>

#include "ops/rotated_nms/rotated_nms_math.h"

namespace fastdet::rotated {

constexpr int kFields = 12;             // of the larger Item
constexpr std::int64_t kPrepared = 64;  // boxes prepared at once

// numbers: five columns of kPrepared; n <= kPrepared.
void prepare(bool gaussian, const RotatedRule& rule, std::int64_t n, const float* numbers, float* columns, std::int64_t pitch);

// Whether one of the boxes [begin, end) of `better` makes box `i` of `columns` fall.
bool falls(bool gaussian, const RotatedRule& rule, const float* better, std::int64_t better_pitch, std::int64_t begin,
           std::int64_t end, const float* columns, std::int64_t pitch, std::int64_t i);

}  // namespace fastdet::rotated
