// SPDX-License-Identifier: Apache-2.0
// What is decided for one element. Every operation rounds once, in this order, on every device.
#pragma once

#include <cstdint>

#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet::rep_conv {

inline constexpr float kLeakySlope = 0.1f;  // YOLOv7-tiny's

FD_HD float silu(float x) { return x / (1.0f + exp_exact(-x)); }
FD_HD float relu(float x) { return x > 0.0f || x != x ? x : 0.0f; }  // NaN stays
FD_HD float leaky_relu(float x) { return x > 0.0f ? x : x * kLeakySlope; }

}  // namespace fastdet::rep_conv
