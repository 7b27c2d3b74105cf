// SPDX-License-Identifier: Apache-2.0
// The CPU path's own loops: class sums and pair costs. The passes are those of core/ota_cpu.h.
#include <algorithm>

#include "core/ota_cpu.h"
#include "ops/sim_ota/sim_ota.h"
#include "ops/sim_ota/sim_ota_math.h"

namespace fastdet {
namespace sim_ota {
namespace {

using Rule = RuleOf<SimOtaParams>;
using ota::kTile;

constexpr std::int64_t kScores = 2048;  // scores handled at once on the stack; a multiple of kLanes * kFactors
constexpr float kOrdinaryMiddle = -24.0f, kOrdinaryReach = 40.0f;

FD_TARGET_CLONES
void sigmoids(std::int64_t n, const float* FD_RESTRICT logits, float* FD_RESTRICT values) {
  for (std::int64_t i = 0; i < n; ++i) values[i] = sigmoid_exact(logits[i]);
}

// Steps of score_rest for ordinary logits.
FD_HD float ordinary_divisor(float logit) { return 1.0f + exp_in_range(-logit); }
FD_HD float rest_of_divisor(float divisor, float objectness) { return 1.0f - square_root(objectness * (1.0f / divisor)); }
FD_HD std::int32_t farther(std::int32_t most, float logit) {
  const std::int32_t distance = bit_cast<std::int32_t>(logit - kOrdinaryMiddle) & 0x7fffffff;
  return distance > most ? distance : most;
}

// Rests (score_rest) of [rows, width] logits; farthest [rows] is the largest distance of a logit from kOrdinaryMiddle, as bits.
// Rests are right only where that is at most kOrdinaryReach; then none is 0. The exponentials of a row are found beside the
// divisions and roots of the row before, which leave most of the processor idle.
FD_TARGET_CLONES
void ordinary_rests(std::int64_t rows, std::int64_t width, const float* const* FD_RESTRICT logits,
                    const float* FD_RESTRICT objectness, float* FD_RESTRICT rests, std::int32_t* FD_RESTRICT farthest) {
  std::int32_t first = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    first = farther(first, logits[0][i]);
    rests[i] = ordinary_divisor(logits[0][i]);
  }
  farthest[0] = first;
  for (std::int64_t row = 1; row < rows; ++row) {
    const float *FD_RESTRICT from = logits[row], factor = objectness[row - 1];
    float *FD_RESTRICT divisors = rests + row * width, *FD_RESTRICT before = divisors - width;
    std::int32_t most = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      most = farther(most, from[i]);
      divisors[i] = ordinary_divisor(from[i]);
      before[i] = rest_of_divisor(before[i], factor);
    }
    farthest[row] = most;
  }
  float* FD_RESTRICT last = rests + (rows - 1) * width;
  for (std::int64_t i = 0; i < width; ++i) last[i] = rest_of_divisor(last[i], objectness[rows - 1]);
}

// Rests of n logits, whatever they are.
FD_TARGET_CLONES
void all_rests(std::int64_t n, const float* FD_RESTRICT logits, float objectness, float* FD_RESTRICT rests) {
  for (std::int64_t i = 0; i < n; ++i) rests[i] = score_rest(logits[i], objectness);
}

// Adds the terms of [rows, width] rests to the lanes [rows, kLanes]. width is a multiple of kLanes; products has room for as many
// floats as rests.
FD_TARGET_CLONES
void add_terms(std::int64_t rows, std::int64_t width, const float* FD_RESTRICT rests, float* FD_RESTRICT products,
               double* FD_RESTRICT lanes) {
  constexpr std::int64_t wide = kLanes * kFactors;
  const std::int64_t groups = ceil_div(width, wide);
  for (std::int64_t i = 0; i < rows * groups; ++i) {
    const std::int64_t first = i % groups * wide, last = std::min(first + wide, width);
    const float* from = rests + i / groups * width;
    float product[kLanes];
    for (int j = 0; j < kLanes; ++j) product[j] = kProductStart;
    for (std::int64_t c = first; c < last; c += kLanes) {
      for (int j = 0; j < kLanes; ++j) product[j] *= from[c + j];
    }
    for (int j = 0; j < kLanes; ++j) products[i * kLanes + j] = product[j];
  }
  for (std::int64_t i = 0; i < rows * groups * kLanes; ++i) products[i] = product_term(products[i]);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < groups; ++i) {
      for (int j = 0; j < kLanes; ++j) {
        lanes[row * kLanes + j] += static_cast<double>(products[(row * groups + i) * kLanes + j]);
      }
    }
  }
}

// Rests of n scores among which some are not ordinary: those of 0 are counted in their lanes and become 1. False where a score is
// not finite.
bool odd_rests(std::int64_t n, const float* logits, float objectness, float* rests, std::int32_t* saturated) {
  all_rests(n, logits, objectness, rests);
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) {
    finite &= is_finite(logits[i]);
    if (rests[i] != 0.0f) continue;
    rests[i] = 1.0f;
    ++saturated[i % kLanes];
  }
  return finite;
}

double sum_of_lanes(double* lane, const std::int32_t* saturated) {
  for (int j = 0; j < kLanes; ++j) lane[j] += saturated_terms(saturated[j]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
  }
  return lane[0];
}

// Short rows are handled many at once.
void sum_rows(const SimOtaParams& p, std::int64_t b, std::int64_t n, const std::int32_t* prior, const float* objectness,
              double* sums) {
  alignas(64) float copy[kScores], rests[kScores], products[kScores];
  const float* logits[kTile];
  alignas(64) double lanes[kTile * kLanes];
  std::int32_t saturated[kTile * kLanes], farthest[kTile];
  const std::int64_t classes = p.classes(), padded = ceil_div(std::max<std::int64_t>(classes, 1), kLanes) * kLanes,
                     at_once = std::clamp<std::int64_t>(kScores / padded, 1, kTile);
  const double nan = bit_cast<double>(std::uint64_t{0x7ff8000000000000u});
  ota::prefetch_scores(p, b, std::min(at_once, n), prior);
  for (std::int64_t first = 0; first < n; first += at_once) {
    const std::int64_t rows = std::min(at_once, n - first), after = std::min(at_once, n - first - rows);
    ota::prefetch_scores(p, b, after, prior + first + rows);
    std::fill(lanes, lanes + rows * kLanes, 0.0);
    std::fill(saturated, saturated + rows * kLanes, 0);
    for (std::int64_t c = 0; c < classes; c += kScores) {
      const std::int64_t count = std::min(kScores, classes - c), width = ceil_div(count, kLanes) * kLanes;
      if (count != width) std::fill(copy, copy + rows * width, kOrdinaryMiddle - kOrdinaryReach);  // adds nothing
      ota::score_rows(p, b, rows, prior + first, c, count, width, copy, logits);
      ordinary_rests(rows, width, logits, objectness + first, rests, farthest);
      for (std::int64_t i = 0; i < rows; ++i) {
        if (farthest[i] <= bit_cast<std::int32_t>(kOrdinaryReach)) continue;
        const bool finite = odd_rests(width, logits[i], objectness[first + i], rests + i * width, saturated + i * kLanes);
        if (!finite) lanes[i * kLanes] = nan;
      }
      add_terms(rows, width, rests, products, lanes);
    }
    for (std::int64_t i = 0; i < rows; ++i) sums[first + i] = sum_of_lanes(lanes + i * kLanes, saturated + i * kLanes);
  }
}

// The class cost falls where p rises, and p is at most the root of the objectness.
FD_TARGET_CLONES
void floor_loop(std::int64_t n, const double* FD_RESTRICT sums, const float* FD_RESTRICT objectness, float* FD_RESTRICT floors) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float most = clamp_score(square_root(objectness[i])), sum = static_cast<float>(sums[i]);
    floors[i] = positive((sum + (log_one_minus(most) - log_score(most))) - (1e-3f + 1e-5f * sum));
  }
}

void class_sums(const OtaParams& base, std::int64_t b, std::int64_t n, const std::int32_t* prior, double* sums, float* factors,
                float* floors) {
  const auto& p = static_cast<const SimOtaParams&>(base);
  alignas(64) float logits[kTile] = {};
  for (std::int64_t i = 0; i < n; ++i) logits[i] = Rule::objectness(p, b, prior[i]);
  const std::int64_t whole = ceil_div(n, ota::kChunk) * ota::kChunk;  // elements past n are of no use
  sigmoids(whole, logits, factors);
  sum_rows(p, b, n, prior, factors, sums);
  for (std::int64_t i = 0; i < n; ++i) {
    if (!is_finite(logits[i])) sums[i] = bit_cast<double>(std::uint64_t{0x7ff8000000000000u});
  }
  std::fill(sums + n, sums + whole, 0.0);
  floor_loop(whole, sums, factors, floors);
}

FD_TARGET_CLONES
void cost_loop(std::int64_t n, const double* FD_RESTRICT class_sum, const float* FD_RESTRICT score,
               const float* FD_RESTRICT factor, const float* FD_RESTRICT iou, float class_weight, float iou_weight,
               float* FD_RESTRICT cost) {
  for (std::int64_t i = 0; i < n; ++i) {
    cost[i] = ota::pair_cost<Rule>(class_sum[i], Rule::probability(score[i], factor[i]), iou[i], class_weight, iou_weight);
  }
}

void pair_costs(const OtaParams& p, std::int64_t n, const double* class_sum, const float* score, const float* factor,
                const float* iou, float* cost) {
  cost_loop(n, class_sum, score, factor, iou, p.class_weight, p.iou_weight, cost);
}

}  // namespace
}  // namespace sim_ota

std::size_t sim_ota_cpu_workspace_bytes(const SimOtaParams& params) { return ota::cpu_workspace_bytes(params); }

void sim_ota_cpu(const SimOtaParams& params) {
  using namespace sim_ota;
  ota::assign_cpu(params, {Rule::kMinUnion, Rule::kIouOffset, true, class_sums, pair_costs});
}

}  // namespace fastdet
