// SPDX-License-Identifier: Apache-2.0
// The passes of dynamic-k matching on the CPU over one image: rows; candidates of each tile, then of all side by side.
#pragma once

#include <cstdint>

#include "core/ota_columns.h"
#include "core/ota_cpu.h"

namespace fastdet::ota {

// Ground truths that can match.
void collect_rows(const OtaParams& params, std::int64_t b);
// Writes the candidates among the priors of one tile from position `at` on; returns how many.
std::int64_t collect_tile(const OtaParams& params, std::int64_t b, const Image& image, std::int64_t tile, std::int64_t at);
// Moves candidates that were written at tile * kTile side by side, then finishes them.
void compact(const OtaParams& params, const Image& image);
// Fills the last chunk and finds the corners of all; class sums are unknown from here on.
void finish_candidates(const Image& image, std::int64_t total);

}  // namespace fastdet::ota
