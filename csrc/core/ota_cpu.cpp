// SPDX-License-Identifier: Apache-2.0
// Second half of dynamic-k matching on the CPU: what each ground truth chooses, who owns what, and the results. Nothing
// allocates.
#include "core/ota_cpu.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "core/best_list.h"
#include "core/dispatch.h"
#include "core/ota_passes.h"
#include "core/parallel.h"

namespace fastdet::ota {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNoLimit = std::numeric_limits<float>::max();

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
  alignas(64) double sums[kTile];
  alignas(64) float factors[kTile], floors[kTile];
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

// Makes `block` that which begins with chunk `first`, unless it is.
void load_block(const Passes& pass, const GroundTruth& gt, std::int64_t first, Block* block) {
  if (block->first == first) return;
  const std::int64_t last = std::min(first + kChunksAtOnce, ceil_div(pass.image.count[0], kChunk));
  block->first = first;
  block->count = meeting_chunks(pass.image.boxes, first, last, gt.box, block->chunk);
  fill_ious(pass.image.candidates, gt, pass.rule.min_union, block);
}

// The largest IoUs of a ground truth as rising keys; with `known`, only of candidates whose class sums are known to be numbers.
void best_ious(const Passes& pass, const GroundTruth& gt, bool known, Block* block, BestList<std::uint64_t>* best) {
  const Candidates& c = pass.image.candidates;
  std::int32_t position[kTile];
  float iou[kTile];
  for (std::int64_t begin = 0; begin < ceil_div(pass.image.count[0], kChunk); begin += kChunksAtOnce) {
    load_block(pass, gt, begin, block);
    const float before = best->full() ? order_key_value(~static_cast<std::uint32_t>(best->last() >> 32)) : 0.0f;
    const float least = known ? before : larger(before, least_of_best(*block, pass.p.topk));
    for (std::int64_t next = 0; next < block->count;) {
      const std::int64_t n = select_best(*block, &next, least, position, iou);
      for (std::int64_t i = 0; i < n; ++i) {
        if (known && c.floor[position[i]] == kInfinity) continue;
        best->push(static_cast<std::uint64_t>(~order_key(iou[i])) << 32 | static_cast<std::uint64_t>(position[i]));
      }
    }
  }
}

// The candidates of the largest IoUs of a ground truth, falling.
struct Largest {
  std::int64_t count = 0;
  std::int32_t position[kMaxAssignTopk];
  float iou[kMaxAssignTopk];
};

// How many candidates a ground truth asks for.
std::int64_t demand_of(const Passes& pass, const GroundTruth& gt, Block* block, Largest* largest) {
  const Image& image = pass.image;
  const Candidates& c = image.candidates;
  if (image.count[0] == 0) return 0;
  std::uint64_t keys[kMaxAssignTopk];
  const auto find = [&](bool known) {
    BestList<std::uint64_t> best(pass.p.topk, keys, kNoKey);
    best_ious(pass, gt, known, block, &best);
    largest->count = best.size();
    for (std::int64_t i = 0; i < best.size(); ++i) {
      largest->position[i] = key_index(keys[i]);
      largest->iou[i] = order_key_value(~static_cast<std::uint32_t>(keys[i] >> 32));
    }
  };
  find(false);
  find_sums(pass, largest->count, largest->position);
  if (std::any_of(largest->position, largest->position + largest->count,
                  [&](std::int32_t at) { return c.floor[at] == kInfinity; })) {
    find_all_sums(pass, 0, image.count[0]);
    find(true);
  }
  double sum = 0.0;
  for (std::int64_t i = 0; i < largest->count; ++i) sum += static_cast<double>(largest->iou[i]);
  return dynamic_k(sum);
}

// Costs of pairs of which all else is known.
void find_costs(const Passes& pass, Pairs* pairs) {
  std::int64_t n = pairs->count;
  for (; n % kChunk != 0; ++n) pairs->class_sum[n] = 0.0, pairs->score[n] = pairs->factor[n] = pairs->iou[n] = 0.0f;
  pass.rule.pair_costs(pass.p, n, pairs->class_sum, pairs->score, pairs->factor, pairs->iou, pairs->cost);
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
  find_costs(pass, pairs);
}

// The pairs of a ground truth in groups, in the order of what they can cost. visit(inside, pairs) sees them with their costs;
// wanted(inside, overlapping) tells whether such a group is still of interest, limit(inside) what floor is where the IoU is 0,
// ceiling() what cost is in the last groups.
template <typename Wanted, typename Limit, typename MaxCost, typename Visit>
void for_pairs(const Passes& pass, const GroundTruth& gt, Block* block, const Wanted& wanted, const Limit& limit,
               const MaxCost& ceiling, const Visit& visit) {
  const Image& image = pass.image;
  const Candidates& c = image.candidates;
  const std::int64_t chunks = ceil_div(image.count[0], kChunk);
  const bool listed = pass.p.listed;
  const float min_union = pass.rule.min_union;
  Pairs pairs;
  const auto seen = [&](bool inside, std::int64_t count) {
    pairs.count = count;
    if (count == 0) return;
    price(pass, gt, &pairs);
    visit(inside, pairs);
  };
  std::int32_t list[kChunksAtOnce + kChunk];
  for (std::int64_t first = 0; !listed && first < chunks; first += kChunksAtOnce) {
    const std::int64_t n = meeting_chunks(image.points, first, std::min(first + kChunksAtOnce, chunks), gt.box, list);
    for (std::int64_t next = 0; next < n;) {
      seen(true, select_inside(c, n, list, &next, gt, min_union, limit(true), pairs.position, pairs.iou));
    }
  }
  if (!wanted(listed, true)) return;
  const Ceiling most = {ceiling(), pass.p.class_weight, pass.p.iou_weight, pass.rule.iou_offset};
  for (std::int64_t first = 0; first < chunks; first += kChunksAtOnce) {
    load_block(pass, gt, first, block);
    for (std::int64_t next = 0; next < block->count;) {
      seen(listed, select_overlapping(c, *block, &next, gt, !listed, most, pairs.position, pairs.iou));
    }
  }
  for (std::int64_t next = 0; next < chunks && wanted(listed, false);) {
    const std::int64_t count = select_apart(c, chunks, &next, gt, !listed, min_union, limit(listed), pairs.position);
    std::fill(pairs.iou, pairs.iou + count, 0.0f);
    seen(listed, count);
  }
}

// Class costs above this cannot enter where pairs cost `apart` besides; rounding is allowed for.
float limit_of(const OtaParams& p, const BestList<std::uint64_t>& best, bool inside, float apart) {
  if (!best.full() || (best.last() < kFirstOutside) != inside || !(p.class_weight > 0.0f)) return kNoLimit;
  const double worst = static_cast<double>(order_key_value(static_cast<std::uint32_t>(best.last() >> 31)));
  const double slack = 1e-3 + 1e-5 * (worst < 0.0 ? -worst : worst);
  const double limit = (worst - static_cast<double>(apart) + slack) / static_cast<double>(p.class_weight);
  return limit < static_cast<double>(kNoLimit) ? static_cast<float>(limit) : kNoLimit;
}

// A cost that `count` pairs of a ground truth with candidates of its largest IoUs stay within, all of them inside or all outside:
// there are as many, and others above it are of no interest. Rounding is allowed for.
float ceiling_of(const Passes& pass, const GroundTruth& gt, const Largest& largest, std::int64_t count) {
  const OtaParams& p = pass.p;
  const Candidates& c = pass.image.candidates;
  if (!pass.rule.floor_of_all || count <= 0) return kInfinity;
  Pairs pairs;
  for (std::int64_t i = 0; i < std::min(largest.count, kTile); ++i) {
    const std::int32_t at = largest.position[i];
    const bool inside = in_box(c.x[at], c.y[at], gt.box) & in_center(c.x[at], c.y[at], c.reach[at], gt.center_x, gt.center_y);
    pairs.position[pairs.count] = at;
    pairs.iou[pairs.count] = largest.iou[i];
    pairs.count += inside && !p.listed ? 0 : 1;
  }
  if (pairs.count < count) return kInfinity;
  price(pass, gt, &pairs);
  std::nth_element(pairs.cost, pairs.cost + count - 1, pairs.cost + pairs.count);
  const float cost = pairs.cost[count - 1];
  return cost + (1e-3f + 1e-5f * magnitude(cost) + 1e-4f * p.iou_weight);
}

// Candidates inside come first, so others are priced only where too few are; and those apart, whose cost is at least that of an
// IoU of 0 and their floor, only where they can still be among the cheapest.
void choose(const Passes& pass, std::int64_t g) {
  const Image& image = pass.image;
  const GroundTruth gt = row_at(image.rows, g);
  std::uint64_t keys[kMaxAssignTopk];
  Block block;
  Largest largest;
  const std::int64_t k = demand_of(pass, gt, &block, &largest);
  BestList<std::uint64_t> best(k, keys, k > 0 ? kNoKey : 0);
  const float apart = pass.p.iou_weight * -log_exact(pass.rule.iou_offset);
  for_pairs(
      pass, gt, &block,
      [&](bool inside, bool overlapping) { return best.takes(pair_key(inside, overlapping ? -kInfinity : apart, 0)); },
      [&](bool inside) { return limit_of(pass.p, best, inside, apart); },
      [&] { return ceiling_of(pass, gt, largest, best.size() < k ? k - best.size() : 0); },
      [&](bool inside, const Pairs& pairs) {
        for (std::int64_t i = 0; i < pairs.count; ++i) {
          if (pairs.class_sum[i] == pairs.class_sum[i]) best.push(pair_key(inside, pairs.cost[i], pairs.position[i]));
        }
      });
  image.chosen_count[g] = static_cast<std::int32_t>(best.size());
  std::transform(best.begin(), best.end(), image.chosen + g * kept_topk(pass.p),
                 [](std::uint64_t key) { return key_index(key); });
}

// ---- who owns what, and the results ----

// Gives each of n contested candidates, up to kTile, to the cheapest of all ground truths.
void resolve(const Passes& pass, std::int64_t n, const std::int32_t* position) {
  const Image& image = pass.image;
  const Candidates& c = image.candidates;
  const TensorView& scores = pass.p.scores;
  std::uint64_t best[kTile];
  std::int32_t inside[kTile], candidate[kTile], row[kTile], row_inside[kTile];
  float iou[kTile];
  Pairs pairs;
  const auto price_all = [&] {
    find_costs(pass, &pairs);
    for (std::int64_t i = 0; i < pairs.count; ++i) {
      std::uint64_t& least = best[candidate[i]];
      least = std::min(least, pair_key(inside[i] != 0, pairs.cost[i], row[i]));
    }
    pairs.count = 0;
  };
  std::fill(best, best + n, kNoKey);
  for (std::int64_t k = 0; k < n; ++k) {
    const std::int64_t at = position[k];
    const std::int64_t from = pass.b * scores.stride[0] + c.source[at] * scores.stride[1];
    for (std::int64_t first = 0; first < image.count[1]; first += kTile) {
      const std::int64_t rows = std::min(kTile, image.count[1] - first);
      row_ious(ceil_div(rows, kChunk) * kChunk, image.rows, first, {c.x1[at], c.y1[at], c.x2[at], c.y2[at]}, pass.rule.min_union,
               iou);
      if (pass.p.listed) std::fill(row_inside, row_inside + rows, 1);
      const bool any = pass.p.listed || rows_around(rows, image.rows, first, c.x[at], c.y[at], c.reach[at], row_inside) > 0;
      for (std::int64_t i = 0; i < rows; ++i) {
        if (any && row_inside[i] == 0) continue;  // not the cheapest of these, so not of all
        if (pairs.count == kTile) price_all();
        const std::int64_t slot = pairs.count++;
        candidate[slot] = static_cast<std::int32_t>(k);
        row[slot] = static_cast<std::int32_t>(first + i);
        inside[slot] = row_inside[i];
        pairs.class_sum[slot] = c.class_sum[at];
        pairs.factor[slot] = c.factor[at];
        pairs.iou[slot] = iou[i];
        pairs.score[slot] = load_number<float>(scores, from + image.rows.label[first + i] * scores.stride[2]);
      }
    }
  }
  price_all();
  for (std::int64_t k = 0; k < n; ++k) image.owner[position[k]] = key_index(best[k]);
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
  const std::int32_t *indices = c.index, *end = c.index + pass.image.count[0], *owner = pass.image.owner;
  const std::int64_t begin = std::lower_bound(indices, end, first) - indices,
                     stop = std::lower_bound(indices, end, last) - indices;
  std::int32_t contested[kTile];
  std::int64_t n = 0;
  for (std::int64_t at = begin; at < stop; ++at) {
    if (owner[at] == kContested) contested[n++] = static_cast<std::int32_t>(at);
    if (n == kTile || (n > 0 && at + 1 == stop)) resolve(pass, std::exchange(n, 0), contested);
  }
  for (std::int64_t at = begin; at < stop; ++at) {
    const std::int32_t g = owner[at];
    if (g == kUnmatched) continue;
    const GroundTruth gt = row_at(pass.image.rows, g);
    const std::int64_t to = offset + indices[at];
    p.matched_gt[to] = pass.image.rows.row[g];
    p.labels[to] = gt.label;
    p.label_scores[to] = pair_iou({c.x1[at], c.y1[at], c.x2[at], c.y2[at]}, gt.box, gt.area, pass.rule.min_union);
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
    Block block;
    Largest largest;
    p.dynamic_k[pass.b * m + row] = static_cast<std::int32_t>(demand_of(pass, gt, &block, &largest));
    for_pairs(
        pass, gt, &block, [](bool, bool) { return true; }, [](bool) { return kNoLimit; }, [] { return kInfinity; },
        [&](bool inside, const Pairs& pairs) {
          for (std::int64_t i = 0; i < pairs.count; ++i) {
            if (pairs.class_sum[i] != pairs.class_sum[i]) continue;
            const std::int64_t at = (offset + c.index[pairs.position[i]]) * m + row;
            p.cost[at] = pairs.cost[i];
            p.iou[at] = pairs.iou[i];
            p.inside[at] = inside;
          }
        });
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
  if (p.listed) find_all_sums(pass, 0, total);  // few of a list are not priced
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
