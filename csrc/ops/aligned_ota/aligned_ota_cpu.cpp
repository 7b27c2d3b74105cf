// SPDX-License-Identifier: Apache-2.0
// The CPU path's own loops: class sums and pair costs. The passes are those of core/ota_cpu.h.
#include <algorithm>

#include "core/ota_cpu.h"
#include "ops/aligned_ota/aligned_ota.h"
#include "ops/aligned_ota/aligned_ota_math.h"

namespace fastdet {
namespace aligned_ota {
namespace {

using Rule = RuleOf<AlignedOtaParams>;
using ota::kTile;

constexpr std::int64_t kScores = 2048;  // scores handled at once on the stack; a multiple of kLanes

// Terms of the class sum of [rows, width] scores.
FD_TARGET_CLONES
void class_terms(std::int64_t rows, std::int64_t width, const float* const* FD_RESTRICT scores, float* FD_RESTRICT terms) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* from = scores[row];
    float* to = terms + row * width;
    for (std::int64_t i = 0; i < width; ++i) to[i] = class_term(from[i]);
  }
}

// Adds [n] values to the lanes, value i to lane i mod kLanes.
FD_TARGET_CLONES
void add_to_lanes(std::int64_t n, const float* FD_RESTRICT values, double* FD_RESTRICT lanes) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(values[i + j]);
  }
  for (int j = 0; i + j < n; ++j) lanes[j] += static_cast<double>(values[i + j]);
}

// Short rows are handled many at once.
void class_sums(const OtaParams& p, std::int64_t b, std::int64_t n, const std::int32_t* prior, double* sums, float* factors,
                float* floors) {
  float copy[kScores], terms[kScores];
  const float* scores[kTile];
  double lanes[kTile * kLanes];
  const std::int64_t classes = p.classes(),
                     at_once = std::clamp<std::int64_t>(kScores / std::max<std::int64_t>(classes, 1), 1, kTile);
  ota::prefetch_scores(p, b, std::min(at_once, n), prior);
  for (std::int64_t first = 0; first < n; first += at_once) {
    const std::int64_t rows = std::min(at_once, n - first), after = std::min(at_once, n - first - rows);
    ota::prefetch_scores(p, b, after, prior + first + rows);
    std::fill(lanes, lanes + rows * kLanes, 0.0);
    for (std::int64_t c = 0; c < classes; c += kScores) {
      const std::int64_t width = std::min(kScores, classes - c);
      ota::score_rows(p, b, rows, prior + first, c, width, width, copy, scores);
      class_terms(rows, width, scores, terms);
      for (std::int64_t i = 0; i < rows; ++i) add_to_lanes(width, terms + i * width, lanes + i * kLanes);
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      double* lane = lanes + i * kLanes;
      for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
      }
      sums[first + i] = lane[0];
    }
  }
  std::fill(factors, factors + n, 1.0f);
  for (std::int64_t i = 0; i < n; ++i) floors[i] = static_cast<float>(sums[i]);
}

FD_TARGET_CLONES
void cost_loop(std::int64_t n, const double* FD_RESTRICT class_sum, const float* FD_RESTRICT score, const float* FD_RESTRICT iou,
               float class_weight, float iou_weight, float* FD_RESTRICT cost) {
  for (std::int64_t i = 0; i < n; ++i) {
    cost[i] = ota::pair_cost<Rule>(class_sum[i], clamp_score(score[i]), iou[i], class_weight, iou_weight);
  }
}

void pair_costs(const OtaParams& p, std::int64_t n, const double* class_sum, const float* score, const float*, const float* iou,
                float* cost) {
  cost_loop(n, class_sum, score, iou, p.class_weight, p.iou_weight, cost);
}

}  // namespace
}  // namespace aligned_ota

std::size_t aligned_ota_cpu_workspace_bytes(const AlignedOtaParams& params) { return ota::cpu_workspace_bytes(params); }

void aligned_ota_cpu(const AlignedOtaParams& params) {
  using namespace aligned_ota;
  ota::assign_cpu(params, {Rule::kMinUnion, Rule::kIouOffset, false, class_sums, pair_costs});
}

}  // namespace fastdet
