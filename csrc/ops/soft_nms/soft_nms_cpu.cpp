// SPDX-License-Identifier: Apache-2.0
// CPU path: candidates as columns by group, then number; the groups walk by themselves, in threads. Of every block of candidates
// the greatest score is known, so that only blocks where a box meets the chosen one are touched.
#include <algorithm>

#include "core/parallel.h"
#include "core/scored_order.h"
#include "core/workspace.h"
#include "ops/soft_nms/soft_nms.h"
#include "ops/soft_nms/soft_nms_math.h"

namespace fastdet {
namespace {

constexpr std::int64_t kBlock = 32;

struct Slices {
  explicit Slices(const SoftNmsParams& p, void* base) : memory(base) {
    const std::int64_t n = p.in.count();
    memory.take(&keys, n);
    memory.take(&groups, n + 1);
    for (float** field : {&x1, &y1, &x2, &y2, &area, &score}) memory.take(field, n);
    memory.take(&best, n);
  }
  Workspace memory;
  std::uint64_t* keys;   // without a score until chosen
  std::int64_t* groups;  // where each begins
  float *x1, *y1, *x2, *y2, *area;
  float* score;        // 0: out
  std::int32_t* best;  // bits of the greatest score of a block; those of a group begin with it
};

FD_HD std::int32_t best_of(const float* score, std::int64_t size) {
  std::int32_t best = 0;
  for (std::int64_t k = 0; k < size; ++k) {
    const std::int32_t bits = bit_cast<std::int32_t>(score[k]);  // of numbers that are not negative: their order
    best = best < bits ? bits : best;
  }
  return best;
}

// Lowers the scores of one block for the chosen box.
template <bool kGaussian>
FD_HD void lower(const Slices& s, const SoftRule& rule, const Box& box, float area, std::int64_t start, std::int64_t size,
                 std::int32_t* best) {
  alignas(64) float common[kBlock];
  std::int32_t any = 0;
  for (std::int64_t k = 0; k < size; ++k) {
    const std::int64_t j = start + k;
    common[k] = box_intersection(box, Box{s.x1[j], s.y1[j], s.x2[j], s.y2[j]});
    any |= common[k] > 0.0f ? 1 : 0;
  }
  if (any == 0) return;
  for (std::int64_t k = 0; k < size; ++k) {
    s.score[start + k] = soft_score<kGaussian>(s.score[start + k], common[k], area, s.area[start + k], rule);
  }
  *best = best_of(s.score + start, size);
}

// Chooses among the candidates [begin, end) until none is left; the keys of those chosen get their score.
template <bool kGaussian>
FD_HD void walk(const Slices& s, const SoftRule& rule, std::int64_t begin, std::int64_t end) {
  const std::int64_t blocks = ceil_div(end - begin, kBlock);
  std::int32_t* best = s.best + begin;
  const auto size_of = [&](std::int64_t b) FD_INLINE_LAMBDA { return std::min(kBlock, end - begin - b * kBlock); };
  for (std::int64_t b = 0; b < blocks; ++b) best[b] = best_of(s.score + begin + b * kBlock, size_of(b));
  while (true) {
    const std::int64_t chosen = std::max_element(best, best + blocks) - best;  // the first of equals
    if (best[chosen] == 0) return;
    const std::int64_t start = begin + chosen * kBlock;
    std::int64_t i = start;
    while (bit_cast<std::int32_t>(s.score[i]) != best[chosen]) ++i;
    s.keys[i] = candidate_key(score_key(s.score[i]), candidate_number(s.keys[i]));
    s.score[i] = 0.0f;
    best[chosen] = best_of(s.score + start, size_of(chosen));
    const Box box = {s.x1[i], s.y1[i], s.x2[i], s.y2[i]};
    const float area = s.area[i];
    for (std::int64_t b = 0; b < blocks; ++b) {
      if (best[b] == 0) continue;
      const std::int64_t at = begin + b * kBlock;
      if (at + kBlock <= end) {
        lower<kGaussian>(s, rule, box, area, at, kBlock, best + b);
      } else {
        lower<kGaussian>(s, rule, box, area, at, end - at, best + b);
      }
    }
  }
}

FD_TARGET_CLONES void walk_linear(const Slices& s, const SoftRule& rule, std::int64_t begin, std::int64_t end) {
  walk<false>(s, rule, begin, end);
}
FD_TARGET_CLONES void walk_gaussian(const Slices& s, const SoftRule& rule, std::int64_t begin, std::int64_t end) {
  walk<true>(s, rule, begin, end);
}

}  // namespace

std::size_t soft_nms_cpu_workspace_bytes(const SoftNmsParams& p) { return Slices(p, nullptr).memory.used(); }

void soft_nms_cpu(const SoftNmsParams& p) {
  const Slices s(p, p.workspace);
  const SoftRule rule = soft_rule(p.iou_threshold, p.sigma, p.score_threshold);
  const std::int64_t count = order_candidates(p.in, threshold_key(p.score_threshold), s.keys);
  std::int64_t groups = 0;
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    end = end_of_group(p.in, s.keys, begin, count);
    s.groups[groups++] = begin;
    std::sort(s.keys + begin, s.keys + end,
              [](std::uint64_t a, std::uint64_t b) { return candidate_number(a) < candidate_number(b); });
  }
  s.groups[groups] = count;
  for (std::int64_t i = 0; i < count; ++i) {
    const Box box = p.in.box(candidate_number(s.keys[i]));
    s.x1[i] = box.x1, s.y1[i] = box.y1, s.x2[i] = box.x2, s.y2[i] = box.y2, s.area[i] = box_area(box);
    s.score[i] = candidate_score(s.keys[i]);
    s.keys[i] = candidate_key(0u, candidate_number(s.keys[i]));
  }
  parallel_for(groups, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t g = from; g < to; ++g) {
      p.gaussian ? walk_gaussian(s, rule, s.groups[g], s.groups[g + 1]) : walk_linear(s, rule, s.groups[g], s.groups[g + 1]);
    }
  });
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if ((s.keys[i] >> 32) != 0u) s.keys[kept++] = s.keys[i];
  }
  write_candidates(s.keys, kept, p.out);
}

}  // namespace fastdet
