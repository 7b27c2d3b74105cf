// SPDX-License-Identifier: Apache-2.0
// Second half of dynamic-k matching on the CPU: what each ground truth chooses, who owns what, and the results. Nothing
// allocates.
#include "core/ota_cpu.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/best_list.h"
#include "core/dispatch.h"
#include "core/ota_passes.h"
#include "core/parallel.h"

namespace fastdet::ota {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNoLimit = std::numeric_limits<float>::max();
constexpr Kind kKinds[] = {{true, true}, {true, false}, {false, true}, {false, false}};  // as keys order them

// One image's passes.
struct Passes {
  const OtaParams& p;
  const CpuRule& rule;
  std::int64_t b;
  Image image;
};

// ---- class sums, for those who ask ----

void find_sums(const Passes& pass, std::int64_t n, const std::int32_t* position) {
  const Candidates& c = pass.image.candidates;
  std::int32_t asked[kTile], prior[kTile];
  double sums[kTile];
  float factors[kTile], floors[kTile];
  for (std::int64_t first = 0; first < n; first += kTile) {
    std::int64_t count = 0;
    for (std::int64_t i = first; i < std::min(first + kTile, n); ++i) {
      asked[count] = position[i];
      count += c.floor[position[i]] == -kInfinity ? 1 : 0;
    }
    if (count == 0) continue;
    for (std::int64_t i = 0; i < count; ++i) prior[i] = c.source[asked[i]];
    pass.rule.class_sums(pass.p, pass.b, count, prior, sums, factors, floors);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t at = asked[i];
      c.class_sum[at] = sums[i];
      c.factor[at] = factors[i];
      c.floor[at] = sums[i] == sums[i] ? larger(floors[i], -kNoLimit) : kInfinity;
    }
  }
}

void find_all_sums(const Passes& pass, std::int64_t first, std::int64_t last) {
  std::int32_t position[kTile];
  for (; first < last; first += kTile) {
    const std::int64_t n = std::min(kTile, last - first);
    std::iota(position, position + n, static_cast<std::int32_t>(first));
    find_sums(pass, n, position);
  }
}

// ---- what each ground truth chooses ----

enum class Where { kAnywhere, kBoxes, kPoints };

// Calls visit(n, chunks) for the chunks that a ground truth can meet by their boxes or points, up to kChunksAtOnce at a time.
template <typename Visit>
void for_chunks(const Image& image, const GroundTruth& gt, Where where, const Visit& visit) {
  const std::int64_t chunks = ceil_div(image.count[0], kChunk);
  std::int32_t list[kChunksAtOnce + kChunk];
  for (std::int64_t first = 0; first < chunks; first += kChunksAtOnce) {
    const std::int64_t last = std::min(first + kChunksAtOnce, chunks);
    std::int64_t n = last - first;
    if (where == Where::kAnywhere) {
      std::iota(list, list + n, static_cast<std::int32_t>(first));
    } else {
      n = meeting_chunks(where == Where::kBoxes ? image.boxes : image.points, first, last, gt.box, list);
    }
    if (n > 0) visit(n, list);
  }
}

// The k-th largest of n values that are not negative; 0 where there are fewer.
float kth_largest(std::int64_t n, const float* values, std::int64_t k) {
  std::int32_t kept[kChunksAtOnce];
  if (n < k) return 0.0f;
  BestList<std::int32_t> best(k, kept, 0);
  for (std::int64_t i = 0; i < n; ++i) best.push(-bit_cast<std::int32_t>(values[i]));
  return best.full() ? bit_cast<float>(-best.last()) : 0.0f;
}

// The largest IoUs of a ground truth as rising keys; with `known`, only of candidates whose class sums are known to be numbers.
void best_ious(const Passes& pass, const GroundTruth& gt, bool known, BestList<std::uint64_t>* best) {
  const Candidates& c = pass.image.candidates;
  float iou[kChunksAtOnce * kChunk], largest[kChunksAtOnce];
  for_chunks(pass.image, gt, Where::kBoxes, [&](std::int64_t n, const std::int32_t* chunks) {
    chunk_ious(c, n, chunks, gt, pass.rule.min_union, iou, largest);
    // No IoU below the k-th largest of k chunks is among the k largest.
    const float least = best->full() ? order_key_value(~static_cast<std::uint32_t>(best->last() >> 32))
                        : known      ? 0.0f
                                     : kth_largest(n, largest, pass.p.topk);
    for (std::int64_t k = 0; k < n; ++k) {
      if (largest[k] < least || largest[k] == 0.0f) continue;
      const std::int64_t first = chunks[k] * kChunk;
      for (std::int64_t i = 0; i < kChunk; ++i) {
        const float value = iou[k * kChunk + i];
        if (value < least || value == 0.0f || (known && c.floor[first + i] == kInfinity)) continue;
        best->push(static_cast<std::uint64_t>(~order_key(value)) << 32 | static_cast<std::uint64_t>(first + i));
      }
    }
  });
}

// How many candidates a ground truth asks for.
std::int64_t demand_of(const Passes& pass, const GroundTruth& gt) {
  const Image& image = pass.image;
  const Candidates& c = image.candidates;
  if (image.count[0] == 0) return 0;
  std::uint64_t keys[kMaxAssignTopk];
  std::int32_t position[kMaxAssignTopk];
  BestList<std::uint64_t> best(pass.p.topk, keys, kNoKey);
  best_ious(pass, gt, false, &best);
  std::transform(best.begin(), best.end(), position, [](std::uint64_t key) { return key_index(key); });
  find_sums(pass, best.size(), position);
  if (std::any_of(position, position + best.size(), [&](std::int32_t at) { return c.floor[at] == kInfinity; })) {
    find_all_sums(pass, 0, image.count[0]);
    best = BestList<std::uint64_t>(pass.p.topk, keys, kNoKey);
    best_ious(pass, gt, true, &best);
  }
  double sum = 0.0;
  for (const std::uint64_t key : best) sum += static_cast<double>(order_key_value(~static_cast<std::uint32_t>(key >> 32)));
  return dynamic_k(sum);
}

// Gathers what the cost of n pairs of candidates with a ground truth needs, and prices them. A candidate that turns out to be
// none has a sum that is NaN.
void price(const Passes& pass, const GroundTruth& gt, Pairs* pairs) {
  find_sums(pass, pairs->count, pairs->position);
  const Candidates& c = pass.image.candidates;
  const TensorView& scores = pass.p.scores;
  dispatch_float(scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = scores.as<const T>() + pass.b * scores.stride[0] + gt.label * scores.stride[2];
    for (std::int64_t i = 0; i < pairs->count; ++i) {
      const std::int32_t at = pairs->position[i];
      pairs->class_sum[i] = c.class_sum[at];
      pairs->factor[i] = c.factor[at];
      pairs->score[i] = to_float(from[c.source[at] * scores.stride[1]]);
    }
  });
  pass.rule.pair_costs(pass.p, pairs->count, pairs->class_sum, pairs->score, pairs->factor, pairs->iou, pairs->cost);
}

// Calls visit(pairs) for all pairs of a ground truth of one kind whose candidates have floor <= limit(), while wanted().
template <typename Wanted, typename Limit, typename Visit>
void for_pairs(const Passes& pass, const GroundTruth& gt, Kind kind, const Wanted& wanted, const Limit& limit,
               const Visit& visit) {
  if (pass.p.listed && !kind.inside) return;
  const Where where = kind.inside && !pass.p.listed ? Where::kPoints : kind.overlapping ? Where::kBoxes : Where::kAnywhere;
  Pairs pairs;
  for_chunks(pass.image, gt, where, [&](std::int64_t n, const std::int32_t* chunks) {
    for (std::int64_t next = 0; next < n && wanted();) {
      pairs.count = select_pairs(pass.image.candidates, n, chunks, &next, gt, pass.p.listed, kind, pass.rule.min_union, limit(),
                                 pairs.position, pairs.iou);
      if (pairs.count == 0) continue;
      price(pass, gt, &pairs);
      visit(pairs);
    }
  });
}

// Class costs above this cannot enter where pairs cost `apart` besides; rounding is allowed for.
float limit_of(const OtaParams& p, const BestList<std::uint64_t>& best, Kind kind, float apart) {
  if (kind.overlapping || !best.full() || (best.last() < kFirstOutside) != kind.inside || !(p.class_weight > 0.0f))
    return kNoLimit;
  const double worst = static_cast<double>(order_key_value(static_cast<std::uint32_t>(best.last() >> 31)));
  const double slack = 1e-3 + 1e-5 * (worst < 0.0 ? -worst : worst);
  const double limit = (worst - static_cast<double>(apart) + slack) / static_cast<double>(p.class_weight);
  return limit < static_cast<double>(kNoLimit) ? static_cast<float>(limit) : kNoLimit;
}

// Candidates inside come first, so others are priced only where too few are; and those apart, whose cost is at least that of an
// IoU of 0 and their floor, only where they can still be among the cheapest.
void choose(const Passes& pass, std::int64_t g) {
  const Image& image = pass.image;
  const GroundTruth gt = row_at(image.rows, g);
  std::uint64_t keys[kMaxAssignTopk];
  const std::int64_t k = demand_of(pass, gt);
  BestList<std::uint64_t> best(k, keys, k > 0 ? kNoKey : 0);
  const float apart = pass.p.iou_weight * -log_exact(pass.rule.iou_offset);
  for (const Kind kind : kKinds) {
    const std::uint64_t least = pair_key(kind.inside, kind.overlapping ? -kInfinity : apart, 0);
    for_pairs(
        pass, gt, kind, [&] { return best.takes(least); }, [&] { return limit_of(pass.p, best, kind, apart); },
        [&](const Pairs& pairs) {
          for (std::int64_t i = 0; i < pairs.count; ++i) {
            if (pairs.class_sum[i] == pairs.class_sum[i]) best.push(pair_key(kind.inside, pairs.cost[i], pairs.position[i]));
          }
        });
  }
  image.chosen_count[g] = static_cast<std::int32_t>(best.size());
  std::transform(best.begin(), best.end(), image.chosen + g * kept_topk(pass.p),
                 [](std::uint64_t key) { return key_index(key); });
}

// ---- who owns what, and the results ----

// The cheapest of all ground truths for one candidate.
std::int32_t cheapest_row(const Passes& pass, std::int64_t at) {
  const Image& image = pass.image;
  const Candidates& c = image.candidates;
  const TensorView& scores = pass.p.scores;
  const Box box = {c.x1[at], c.y1[at], c.x2[at], c.y2[at]};
  std::uint64_t best = kNoKey;
  std::int32_t inside[kTile];
  Pairs pairs;
  for (std::int64_t first = 0; first < image.count[1]; first += kTile) {
    const std::int64_t n = std::min(kTile, image.count[1] - first);
    if (pass.p.listed) std::fill(inside, inside + n, 1);
    const bool any = pass.p.listed || rows_around(n, image.rows, first, c.x[at], c.y[at], c.reach[at], inside) > 0;
    pairs.count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      if (any && inside[i] == 0) continue;  // not the cheapest of this tile, so not of all
      const GroundTruth gt = row_at(image.rows, first + i);
      const std::int64_t slot = pairs.count++;
      pairs.position[slot] = static_cast<std::int32_t>(i);
      pairs.class_sum[slot] = c.class_sum[at];
      pairs.factor[slot] = c.factor[at];
      pairs.iou[slot] = pair_iou(box, gt.box, gt.area, pass.rule.min_union);
      pairs.score[slot] =
          load_number<float>(scores, pass.b * scores.stride[0] + c.source[at] * scores.stride[1] + gt.label * scores.stride[2]);
    }
    pass.rule.pair_costs(pass.p, pairs.count, pairs.class_sum, pairs.score, pairs.factor, pairs.iou, pairs.cost);
    for (std::int64_t i = 0; i < pairs.count; ++i) {
      const std::int32_t position = pairs.position[i];
      best = std::min(best, pair_key(inside[position] != 0, pairs.cost[i], static_cast<std::int32_t>(first) + position));
    }
  }
  return key_index(best);
}

void settle(const Passes& pass) {
  const Image& image = pass.image;
  std::fill(image.owner, image.owner + image.count[0], kUnmatched);
  std::int32_t positives = 0;
  for (std::int64_t g = 0; g < image.count[1]; ++g) {
    const std::int32_t* chosen = image.chosen + g * kept_topk(pass.p);
    for (std::int64_t i = 0; i < image.chosen_count[g]; ++i) {
      std::int32_t& owner = image.owner[chosen[i]];
      positives += owner == kUnmatched ? 1 : 0;
      owner = owner == kUnmatched ? static_cast<std::int32_t>(g) : kContested;
    }
  }
  pass.p.num_pos[pass.b] = positives;
}

// Results of the priors [first, last).
void write_results(const Passes& pass, std::int64_t first, std::int64_t last) {
  const OtaParams& p = pass.p;
  const Candidates& c = pass.image.candidates;
  const std::int64_t offset = pass.b * p.priors();
  std::fill(p.matched_gt + offset + first, p.matched_gt + offset + last, -1);
  std::fill(p.labels + offset + first, p.labels + offset + last, static_cast<std::int32_t>(p.classes()));
  std::fill(p.label_scores + offset + first, p.label_scores + offset + last, 0.0f);
  const std::int32_t *begin = c.index, *end = c.index + pass.image.count[0];
  for (const std::int32_t* i = std::lower_bound(begin, end, first); i != end && *i < last; ++i) {
    const std::int64_t at = i - begin;
    std::int32_t g = pass.image.owner[at];
    if (g == kUnmatched) continue;
    if (g == kContested) g = cheapest_row(pass, at);
    const GroundTruth gt = row_at(pass.image.rows, g);
    p.matched_gt[offset + *i] = pass.image.rows.row[g];
    p.labels[offset + *i] = gt.label;
    p.label_scores[offset + *i] = pair_iou({c.x1[at], c.y1[at], c.x2[at], c.y2[at]}, gt.box, gt.area, pass.rule.min_union);
  }
}

// ---- for inspection: costs, IoUs and windows instead of choices ----

void write_costs(const Passes& pass) {
  const OtaParams& p = pass.p;
  const Candidates& c = pass.image.candidates;
  const std::int64_t a = p.priors(), m = p.rows(), offset = pass.b * a;
  std::fill(p.cost + offset * m, p.cost + (offset + a) * m, kInfinity);
  std::fill(p.iou + offset * m, p.iou + (offset + a) * m, 0.0f);
  std::fill(p.inside + offset * m, p.inside + (offset + a) * m, false);
  std::fill(p.valid + offset, p.valid + offset + a, false);
  std::fill(p.dynamic_k + pass.b * m, p.dynamic_k + (pass.b + 1) * m, 0);
  find_all_sums(pass, 0, pass.image.count[0]);
  bool any = false;
  for (std::int64_t i = 0; i < pass.image.count[0]; ++i) {
    const bool valid = c.floor[i] != kInfinity;
    p.valid[offset + c.index[i]] = valid;
    any = any || valid;
  }
  for (std::int64_t g = 0; any && g < pass.image.count[1]; ++g) {
    const GroundTruth gt = row_at(pass.image.rows, g);
    const std::int64_t row = pass.image.rows.row[g];
    p.dynamic_k[pass.b * m + row] = static_cast<std::int32_t>(demand_of(pass, gt));
    for (const Kind kind : kKinds) {
      for_pairs(
          pass, gt, kind, [] { return true; }, [] { return kNoLimit; },
          [&](const Pairs& pairs) {
            for (std::int64_t i = 0; i < pairs.count; ++i) {
              const std::int64_t at = (offset + c.index[pairs.position[i]]) * m + row;
              p.cost[at] = pairs.cost[i];
              p.iou[at] = pairs.iou[i];
              p.inside[at] = kind.inside;
            }
          });
    }
  }
}

// All passes of one image in this thread; class sums are found when asked for.
void assign_image(const OtaParams& p, const CpuRule& rule, std::int64_t b) {
  const Passes pass = {p, rule, b, image_at(p, b)};
  collect_rows(p, b);
  std::int64_t total = 0;
  for (std::int64_t tile = 0; tile < ceil_div(p.priors(), kTile); ++tile) total += collect_tile(p, b, pass.image, tile, total);
  finish_candidates(pass.image, total);
  if (p.want_cost) return write_costs(pass);
  for (std::int64_t g = 0; g < pass.image.count[1]; ++g) choose(pass, g);
  settle(pass);
  write_results(pass, 0, p.priors());
}

// The passes of one image by all threads; class sums are all found first, so that nothing is written by two.
void assign_image_together(const OtaParams& p, const CpuRule& rule, std::int64_t b) {
  const Passes pass = {p, rule, b, image_at(p, b)};
  const Image& image = pass.image;
  const std::int64_t tiles = ceil_div(p.priors(), kTile);
  collect_rows(p, b);
  parallel_parts(tiles, kTile * (8 + p.rows() / 4),
                 [&](std::int64_t tile) { image.tile_count[tile] = collect_tile(p, b, image, tile, tile * kTile); });
  compact(p, image);
  const std::int64_t total = image.count[0];
  parallel_parts(ceil_div(total, kTile), kTile * p.classes(),
                 [&](std::int64_t tile) { find_all_sums(pass, tile * kTile, std::min((tile + 1) * kTile, total)); });
  parallel_parts(image.count[1], total, [&](std::int64_t g) { choose(pass, g); });
  settle(pass);
  parallel_parts(tiles, 8 * kTile,
                 [&](std::int64_t tile) { write_results(pass, tile * kTile, std::min((tile + 1) * kTile, p.priors())); });
}

}  // namespace

void assign_cpu(const OtaParams& p, const CpuRule& rule) {
  if (p.want_cost || p.images() >= num_threads()) {
    parallel_parts(p.images(), p.priors() * (p.classes() / 4 + p.rows() + 8), [&](std::int64_t b) { assign_image(p, rule, b); });
  } else {
    for (std::int64_t b = 0; b < p.images(); ++b) assign_image_together(p, rule, b);
  }
}

void prefetch_scores(const OtaParams& p, std::int64_t b, std::int64_t n, const std::int32_t* prior) {
  constexpr std::int64_t line = 64, most = 1024;  // bytes of a cache line, and of a row that are worth it
  const TensorView& scores = p.scores;
  if (scores.stride[2] != 1) return;
  const auto item = static_cast<std::int64_t>(item_size(scores.dtype));
  const char* base = scores.as<const char>() + b * scores.stride[0] * item;
  const std::int64_t bytes = std::min(p.classes() * item, most);
  for (std::int64_t i = 0; i < n; ++i) {
    const char* row = base + prior[i] * scores.stride[1] * item;
    for (std::int64_t at = 0; at < bytes; at += line) __builtin_prefetch(row + at);
  }
}

void score_rows(const OtaParams& p, std::int64_t b, std::int64_t n, const std::int32_t* prior, std::int64_t first,
                std::int64_t count, std::int64_t width, float* copy, const float** rows) {
  const TensorView& scores = p.scores;
  const std::int64_t step = scores.stride[2], offset = b * scores.stride[0] + first * step;
  if (scores.dtype == DType::kFloat32 && step == 1 && count == width) {
    for (std::int64_t i = 0; i < n; ++i) rows[i] = scores.as<const float>() + offset + prior[i] * scores.stride[1];
    return;
  }
  dispatch_float(scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (std::int64_t i = 0; i < n; ++i) {
      const T* from = scores.as<const T>() + offset + prior[i] * scores.stride[1];
      float* to = copy + i * width;
      if (step == 1) {
        for (std::int64_t k = 0; k < count; ++k) to[k] = to_float(from[k]);
      } else {
        for (std::int64_t k = 0; k < count; ++k) to[k] = to_float(from[k * step]);
      }
      rows[i] = to;
    }
  });
}

}  // namespace fastdet::ota
