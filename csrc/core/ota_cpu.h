// SPDX-License-Identifier: Apache-2.0
// Dynamic-k matching on the CPU. An assigner adds loops over columns of up to kTile elements, which have room for whole chunks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ota.h"

namespace fastdet::ota {

constexpr std::int64_t kChunk = 16;  // candidates handled at once; the longest vector of float32

struct CpuRule {
  float min_union;    // Rule::kMinUnion
  float iou_offset;   // Rule::kIouOffset
  bool floor_of_all;  // whether the bound below holds at any IoU
  // S_a of n priors, NaN where the prior is not usable or a score is not finite; the factor of their scores; and a bound: no pair
  // with an IoU of 0 has a lower class cost.
  void (*class_sums)(const OtaParams& params, std::int64_t image, std::int64_t n, const std::int32_t* prior, double* sums,
                     float* factors, float* floors);
  // pair_cost<Rule> of n pairs, n a multiple of kChunk.
  void (*pair_costs)(const OtaParams& params, std::int64_t n, const double* class_sum, const float* score, const float* factor,
                     const float* iou, float* cost);
};

std::size_t cpu_workspace_bytes(const OtaParams& params);
void assign_cpu(const OtaParams& params, const CpuRule& rule);

// Asks for the scores of n priors, which lie anywhere in memory, ahead of their use.
void prefetch_scores(const OtaParams& params, std::int64_t image, std::int64_t n, const std::int32_t* prior);
// Scores [n, C] of priors from class `first` on, `count` of each, as float. Where they lie so in memory the rows are those of
// the array, else of `copy`, rows `width` apart.
void score_rows(const OtaParams& params, std::int64_t image, std::int64_t n, const std::int32_t* prior, std::int64_t first,
                std::int64_t count, std::int64_t width, float* copy, const float** rows);

}  // namespace fastdet::ota
