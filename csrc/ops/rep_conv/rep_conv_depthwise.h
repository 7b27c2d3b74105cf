// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution on the CPU: one filter per channel, nothing to multiply matrices of.
#pragma once

#include "ops/rep_conv/rep_conv.h"

namespace fastdet::rep_conv {

inline bool is_depthwise(const RepConvParams& p) { return p.weight.shape[1] == 1 && p.weight.shape[0] == p.groups; }

// `bias`: [O]; `weight`: room for the weight in float32.
void depthwise(const RepConvParams& params, const float* bias, float* weight);

}  // namespace fastdet::rep_conv
