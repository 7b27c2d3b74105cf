// SPDX-License-Identifier: Apache-2.0
// Winograd's minimal filtering F(2 x 2, 3 x 3) (Lavin and Gray, arXiv 1509.09308) on the CPU, float32: 16 products for 4 pixels
// instead of 36. 3x3 kernels of stride 1 in one group. Positions: the 16 places of a transformed tile of 4 x 4 pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "ops/rep_conv/rep_conv.h"

namespace fastdet::rep_conv {

inline constexpr std::int64_t kPositions = 16;
inline constexpr std::int64_t kWinogradRows = 14;  // 14 x 2 sums, 2 vectors and a factor fill the 32 registers of AVX-512
inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kWinogradColumns = 2 * kLanes;

// Why it cannot run; "" if it can. `out` is not looked at: it is to have channels last exactly where `last`.
std::string winograd_obstacle(const RepConvParams& params, bool last);

// The transformed weight. last: [ceil(O / 32)][position][I][32], else [position][O][I], with a gap behind each position.
std::int64_t winograd_packed_floats(const TensorView& weight, bool last);
void winograd_pack(const TensorView& weight, bool last, float* packed);

// out of `params`; where a number is not finite everything is computed again by rep_conv_cpu, because differences of
// neighbours would spread it to pixels whose windows do not hold it. packed: of winograd_pack, or null.
std::size_t winograd_workspace_bytes(const RepConvParams& params, bool last, bool packed);
void winograd_cpu(const RepConvParams& params, bool last, const float* packed);

// ---- one block, in registers of AVX-512 ---------------------------------------------------------------------------------------

// Why this processor cannot; "" if it can.
std::string winograd_missing();

// sums[m][0..31] = over k < depth of a[m * a_step + k] * b[k * 32 ..], m < rows <= kWinogradRows.
void winograd_multiply(const float* a, std::int64_t a_step, const float* b, std::int64_t depth, std::int64_t rows, float* sums);

// A 4 x 4 window of a picture: its first pixel may lie outside.
struct WindowPlace {
  const float* first;                     // of the channel's plane, or of the picture with channels last
  std::int64_t y, x, height, width, row;  // row: floats between rows
};

// Tiles along a row, lanes: to[position * step + tile], tile < count <= 32.
void winograd_window_of_planes(const WindowPlace& place, std::int64_t count, float* to, std::int64_t step);
// One tile, channels as lanes: to[position * step + channel]. pixel: floats between pixels.
void winograd_window_of_pixels(const WindowPlace& place, std::int64_t pixel, std::int64_t channels, float* to, std::int64_t step);

// sums[position * step ..], 32 lanes, + bias (32, or null) -> four rows of 32 outputs, (0, 0), (0, 1), (1, 0), (1, 1); whether
// all sums are finite.
bool winograd_outputs(const float* sums, std::int64_t step, const float* bias, float* out);
// a0 b0 a1 b1 ..: 32 of each.
void winograd_interleave(const float* a, const float* b, float* to);

// The transform of sixteen filters, of which `count` are written: taps[t * tap + lane], t in reading order.
void winograd_filters(const float* taps, std::int64_t tap, std::int64_t count, float* to, std::int64_t step);

}  // namespace fastdet::rep_conv
