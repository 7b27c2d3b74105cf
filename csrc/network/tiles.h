// SPDX-License-Identifier: Apache-2.0
// The two inner loops of the steps: products of a few pixels with a block of channels, and what follows a sum.
#pragma once

#include <cstdint>

#include "network/network.h"

namespace fastdet::network {

inline constexpr Index kMaxPixels = 14;  // 14 x 2 sums, 2 weights and a factor fill the 32 registers
inline constexpr Index kLanes = 16;

// sums[m][16 n..] = over taps t and k < length of in[m * pixel + taps[t] + k] * weight[t * length + k][16 n..], m < M, n < N. A
// unit of `in` and of `weight` is 4 bytes: one float32, or two bfloat16 whose products are added.
using Multiply = void (*)(const std::uint32_t* in, Index pixel, const Index* taps, Index tap_count, Index length,
                          const std::uint32_t* weight, float* sums);

// For 1 to kMaxPixels pixels and 1 or 2 blocks of 16 channels.
Multiply multiply(Index pixels, Index blocks, bool half);

// One pixel of a tile after the other: out = activation(sums + bias) + residual.
struct Finish {
  const float* bias;  // or null
  Activation activation;
  char* out;
  const char* residual;             // or null
  Index out_pixel, residual_pixel;  // elements
  bool out_half, residual_half;
};
// sums: [pixels][lanes]; `channels` <= lanes of them are written.
void finish(const Finish& to, const float* sums, Index pixels, Index lanes, Index channels);

// sums[m][0..15] for a depthwise kernel: over taps of in[m * pixel + taps[t]] * weight[t], `channels` <= 16 of them.
void multiply_depthwise(const char* in, bool half, Index pixel, const Index* taps, Index tap_count, const float* weight,
                        Index pixels, Index channels, float* sums);

// values[0..count) -> softmax, zeros up to `padded` (a multiple of 16).
void softmax(float* values, Index count, Index padded);

// out = the largest, or the sum times `factor`, of count pixels at in + taps.
void reduce(const char* in, char* out, bool half, const Index* taps, Index tap_count, Index channels, bool average, float factor);

// out = a + b
void add_channels(const char* a, const char* b, char* out, bool half, Index channels);

}  // namespace fastdet::network
