// SPDX-License-Identifier: Apache-2.0
// The inner product of the CPU path, once per instruction set.
#pragma once

#include <cstdint>

namespace fastdet::rep_conv {

// c[m][n] += sum over k of a[k][m] * b[k][n], k rising, product and sum rounded apart: the same bits whichever tile is chosen.
struct Tile {
  std::int64_t rows;     // of a and c: output channels
  std::int64_t columns;  // of b and c: pixels
  void (*multiply)(const float* a, const float* b, float* c, std::int64_t depth);
};

inline constexpr std::int64_t kMaxTileColumns = 32;

// The widest this processor can run. Limits for tests: 0 plain, 1 AVX2, 2 AVX-512.
const Tile& best_tile();
void set_tile_limit(int limit);

}  // namespace fastdet::rep_conv
