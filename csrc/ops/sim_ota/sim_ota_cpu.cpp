// SPDX-License-Identifier: Apache-2.0
// Second half of the CPU path: what each ground truth chooses, who owns what, and the results. Every pass runs in parallel over
// (image, ground truth), (image) or (image, tile of priors); none of them allocates.
#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/sim_ota/sim_ota_columns.h"

namespace fastdet {
namespace sim_ota {
namespace {

constexpr std::int64_t kGrain = 16384;  // elementary steps (about 1 ns each) worth waking a thread for

// ---- pass 3: what each ground truth chooses ----

// The `capacity` first of the values pushed, in order.
template <typename T, typename Before>
class Best {
 public:
  Best(std::int64_t capacity, T* values, T worst) : capacity_(capacity), values_(values), last_(worst) {}
  // Whether a value would enter.
  bool takes(T value) const { return Before()(value, last_); }
  void push(T value) {
    if (!takes(value)) return;
    if (size_ < capacity_) ++size_;
    T *end = values_ + size_ - 1, *at = end;
    if (size_ <= kShort) {
      for (; at != values_ && Before()(value, at[-1]); --at) *at = at[-1];
    } else {
      at = std::upper_bound(values_, end, value, Before());
      std::copy_backward(at, end, end + 1);
    }
    *at = value;
    if (size_ == capacity_) last_ = values_[size_ - 1];
  }
  std::int64_t size() const { return size_; }
  T last() const { return last_; }

 private:
  static constexpr std::int64_t kShort = 32;  // lists in which a value finds its place by a plain walk
  std::int64_t capacity_, size_ = 0;
  T* values_;
  T last_;  // values not before this one do not enter
};

// How many priors a ground truth asks for.
std::int64_t demand_of(const SimOtaParams& p, const Image& image, const GroundTruth& gt) {
  if (image.count[0] == 0) return 0;
  constexpr std::int64_t chunk = 16;  // most chunks hold nothing that enters
  float iou[kTile + chunk], largest[SimOtaParams::kMaxTopk];
  Best<float, std::greater<float>> best(p.topk, largest, 0.0f);  // an IoU of 0 adds nothing
  for (std::int64_t first = 0; first < image.count[0]; first += kTile) {
    const std::int64_t n = std::min(kTile, image.count[0] - first);
    if (!image.boxes[first / kTile].meets(gt.box) || !best.takes(pair_ious(n, image.candidates, first, gt, iou))) continue;
    std::fill(iou + n, iou + n + chunk, 0.0f);
    for (std::int64_t i = 0; i < n; i += chunk) {
      const float last = best.last();
      std::int32_t above = 0;
      for (std::int64_t j = 0; j < chunk; ++j) above |= static_cast<std::int32_t>(iou[i + j] > last);
      if (above == 0) continue;
      for (std::int64_t j = 0; j < chunk; ++j) best.push(iou[i + j]);
    }
  }
  double sum = 0.0;
  for (std::int64_t i = 0; i < best.size(); ++i) sum += static_cast<double>(largest[i]);
  return dynamic_k(sum);
}

// Scores of the gathered candidates at one class.
void gather_scores(const SimOtaParams& p, std::int64_t b, const std::int32_t* source, std::int32_t label, Pairs* pairs) {
  const TensorView& scores = p.scores;
  dispatch_float(scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = scores.as<const T>() + b * scores.stride[0] + label * scores.stride[2];
    for (std::int64_t i = 0; i < pairs->count; ++i) {
      pairs->score[i] = to_float(from[source[pairs->position[i]] * scores.stride[1]]);
    }
  });
}

// Kinds of pairs of a ground truth with candidates.
struct Kind {
  bool inside, overlapping;
};

// Pairs of a ground truth with the candidates of a tile.
struct Tile {
  std::int64_t first, n;
  std::int32_t inside[kTile];
  float iou[kTile];
};

// Fills in which candidates lie inside and all IoUs; returns whether any pair can be of the kind.
bool look(const SimOtaParams& p, const Image& image, const GroundTruth& gt, Kind kind, Tile* tile) {
  const bool points_meet = image.points[tile->first / kTile].meets(gt.box);
  const bool boxes_meet = image.boxes[tile->first / kTile].meets(gt.box);
  if ((kind.inside && !points_meet && !p.listed) || (kind.overlapping && !boxes_meet)) return false;
  if (p.listed) std::fill(tile->inside, tile->inside + tile->n, 1);
  const std::int64_t count = p.listed ? tile->n : candidates_inside(tile->n, image.candidates, tile->first, gt, tile->inside);
  if (kind.inside && count == 0) return false;
  const float most = pair_ious(tile->n, image.candidates, tile->first, gt, tile->iou);
  return !kind.overlapping || most > 0.0f;
}

// Cost of the pairs of a tile for which wanted(i) holds.
template <typename Wanted>
void price(const SimOtaParams& p, std::int64_t b, const Image& image, const GroundTruth& gt, const Tile& tile,
           const Wanted& wanted, Pairs* pairs) {
  pairs->count = 0;
  for (std::int64_t i = 0; i < tile.n; ++i) {
    pairs->position[pairs->count] = static_cast<std::int32_t>(i);
    pairs->count += static_cast<std::int64_t>(wanted(i));
  }
  for (std::int64_t slot = 0; slot < pairs->count; ++slot) {
    const std::int32_t i = pairs->position[slot];
    pairs->class_sum[slot] = image.candidates.class_sum[tile.first + i];
    pairs->objectness[slot] = image.candidates.objectness[tile.first + i];
    pairs->iou[slot] = tile.iou[i];
  }
  gather_scores(p, b, image.candidates.source + tile.first, gt.label, pairs);
  pair_costs(pairs, p.class_weight, p.iou_weight);
}

// Candidates inside come first, so others are priced only where too few are; and those that do not overlap, whose cost is at
// least that of an IoU of 0 and no class cost, only where they can still be among the cheapest.
void choose(const SimOtaParams& p, std::int64_t b, std::int64_t g) {
  const Image image = image_at(p, b);
  if (g >= image.count[1]) return;
  const GroundTruth gt = row_at(image.rows, g);
  std::uint64_t keys[SimOtaParams::kMaxTopk];
  const std::int64_t k = demand_of(p, image, gt);
  Best<std::uint64_t, std::less<std::uint64_t>> best(k, keys, k > 0 ? kNoKey : 0);
  const float apart = least_apart_cost(p.iou_weight);
  Tile tile;
  Pairs pairs;
  for (const auto& [kind, least] :
       {std::pair(Kind{true, true}, std::uint64_t{0}), std::pair(Kind{true, false}, pair_key(true, apart, 0)),
        std::pair(Kind{false, true}, kFirstOutside), std::pair(Kind{false, false}, pair_key(false, apart, 0))}) {
    if (p.listed && !kind.inside) break;
    for (tile.first = 0; tile.first < image.count[0] && best.takes(least); tile.first += kTile) {
      tile.n = std::min(kTile, image.count[0] - tile.first);
      if (!look(p, image, gt, kind, &tile)) continue;
      const auto wanted = [&, kind = kind](std::int64_t i) {
        return ((tile.inside[i] != 0) == kind.inside) & ((tile.iou[i] > 0.0f) == kind.overlapping);
      };
      price(p, b, image, gt, tile, wanted, &pairs);
      for (std::int64_t i = 0; i < pairs.count; ++i) {
        const auto position = static_cast<std::int32_t>(tile.first) + pairs.position[i];
        best.push(pair_key(kind.inside, pairs.cost[i], position));
      }
    }
  }
  image.chosen_count[g] = static_cast<std::int32_t>(best.size());
  for (std::int64_t i = 0; i < best.size(); ++i) image.chosen[g * kept_topk(p) + i] = key_index(keys[i]);
}

// ---- pass 4: who owns what ----

void settle(const SimOtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  std::fill(image.owner, image.owner + image.count[0], kUnmatched);
  std::int32_t positives = 0;
  for (std::int64_t g = 0; g < image.count[1]; ++g) {
    for (std::int64_t i = 0; i < image.chosen_count[g]; ++i) {
      std::int32_t& owner = image.owner[image.chosen[g * kept_topk(p) + i]];
      positives += owner == kUnmatched;
      owner = owner == kUnmatched ? static_cast<std::int32_t>(g) : kContested;
    }
  }
  p.num_pos[b] = positives;
}

// The cheapest of all ground truths for one candidate.
std::int32_t cheapest_row(const SimOtaParams& p, std::int64_t b, const Image& image, std::int64_t at) {
  const Candidates& c = image.candidates;
  const Box box = {c.x1[at], c.y1[at], c.x2[at], c.y2[at]};
  const TensorView& scores = p.scores;
  std::uint64_t best = kNoKey;
  std::int32_t inside[kTile];
  Pairs pairs;
  for (std::int64_t first = 0; first < image.count[1]; first += kTile) {
    const std::int64_t n = std::min(kTile, image.count[1] - first);
    if (p.listed) std::fill(inside, inside + n, 1);
    const bool any = p.listed || rows_around(n, image.rows, first, c.x[at], c.y[at], c.reach[at], inside) > 0;
    pairs.count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      if (any && inside[i] == 0) continue;  // not the cheapest of this tile, so not of all
      const GroundTruth gt = row_at(image.rows, first + i);
      const std::int64_t slot = pairs.count++;
      pairs.position[slot] = static_cast<std::int32_t>(i);
      pairs.class_sum[slot] = c.class_sum[at];
      pairs.objectness[slot] = c.objectness[at];
      pairs.iou[slot] = pair_iou(box, gt.box, gt.area);
      pairs.score[slot] = dispatch_float(scores.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        return to_float(
            scores.as<const T>()[b * scores.stride[0] + c.source[at] * scores.stride[1] + gt.label * scores.stride[2]]);
      });
    }
    pair_costs(&pairs, p.class_weight, p.iou_weight);
    for (std::int64_t i = 0; i < pairs.count; ++i) {
      const std::int32_t position = pairs.position[i];
      best = std::min(best, pair_key(inside[position] != 0, pairs.cost[i], static_cast<std::int32_t>(first) + position));
    }
  }
  return key_index(best);
}

// ---- pass 5: results of a tile of priors ----

void write_tile(const SimOtaParams& p, std::int64_t b, std::int64_t tile) {
  const Image image = image_at(p, b);
  const Candidates& c = image.candidates;
  const std::int64_t first = tile * kTile, last = std::min(first + kTile, p.priors()), offset = b * p.priors();
  std::fill(p.matched_gt + offset + first, p.matched_gt + offset + last, -1);
  std::fill(p.labels + offset + first, p.labels + offset + last, static_cast<std::int32_t>(p.classes()));
  std::fill(p.label_scores + offset + first, p.label_scores + offset + last, 0.0f);
  const std::int32_t *begin = c.index, *end = c.index + image.count[0];
  for (const std::int32_t* i = std::lower_bound(begin, end, first); i != end && *i < last; ++i) {
    const std::int64_t at = i - begin;
    std::int32_t g = image.owner[at];
    if (g == kUnmatched) continue;
    if (g == kContested) g = cheapest_row(p, b, image, at);
    const GroundTruth gt = row_at(image.rows, g);
    p.matched_gt[offset + *i] = image.rows.row[g];
    p.labels[offset + *i] = gt.label;
    p.label_scores[offset + *i] = pair_iou({c.x1[at], c.y1[at], c.x2[at], c.y2[at]}, gt.box, gt.area);
  }
}

// ---- for inspection: costs, IoUs and windows instead of passes 3 to 5 ----

void clear_costs(const SimOtaParams& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t m = p.rows();
  std::fill(p.cost + begin * m, p.cost + end * m, std::numeric_limits<float>::infinity());
  std::fill(p.iou + begin * m, p.iou + end * m, 0.0f);
  std::fill(p.inside + begin * m, p.inside + end * m, false);
  std::fill(p.valid + begin, p.valid + end, false);
}

void write_costs(const SimOtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  const std::int64_t offset = b * p.priors(), m = p.rows();
  std::fill(p.dynamic_k + b * m, p.dynamic_k + (b + 1) * m, 0);
  for (std::int64_t j = 0; j < image.count[0]; ++j) p.valid[offset + image.candidates.index[j]] = true;
  Tile tile;
  Pairs pairs;
  for (std::int64_t g = 0; g < image.count[1]; ++g) {
    const GroundTruth gt = row_at(image.rows, g);
    p.dynamic_k[b * m + image.rows.row[g]] = static_cast<std::int32_t>(demand_of(p, image, gt));
    for (tile.first = 0; tile.first < image.count[0]; tile.first += kTile) {
      tile.n = std::min(kTile, image.count[0] - tile.first);
      look(p, image, gt, {false, false}, &tile);
      price(p, b, image, gt, tile, [](std::int64_t) { return true; }, &pairs);
      for (std::int64_t i = 0; i < tile.n; ++i) {
        const std::int64_t at = (offset + image.candidates.index[tile.first + i]) * m + image.rows.row[g];
        p.cost[at] = pairs.cost[i];
        p.iou[at] = tile.iou[i];
        p.inside[at] = tile.inside[i] != 0;
      }
    }
  }
}

// Runs body(image, part) for `parts` parts of every image, each of about `steps` elementary steps.
template <typename Body>
void for_each_part(const SimOtaParams& p, std::int64_t parts, std::int64_t steps, Body&& body) {
  const std::int64_t grain = kGrain / std::max<std::int64_t>(steps, 1) + 1;
  parallel_for(p.images() * parts, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(p, i / parts, i % parts);
  });
}

}  // namespace
}  // namespace sim_ota

void sim_ota_cpu(const SimOtaParams& p) {
  using namespace sim_ota;
  const std::int64_t tiles = ceil_div(p.priors(), kTile);
  const auto per_image = [&](void (*pass)(const SimOtaParams&, std::int64_t), std::int64_t steps) {
    for_each_part(p, 1, steps, [pass](const SimOtaParams& params, std::int64_t b, std::int64_t) { pass(params, b); });
  };
  per_image(collect_rows, 10 * p.rows());
  for_each_part(p, tiles, kTile * (p.classes() + p.rows()), collect_tile);
  per_image(compact, p.priors());
  if (p.want_cost) {
    parallel_for(p.images() * p.priors(), 1 + kGrain / (p.rows() + 1),
                 [&](std::int64_t begin, std::int64_t end) { clear_costs(p, begin, end); });
    per_image(write_costs, p.priors() * p.rows());
    return;
  }
  for_each_part(p, p.rows(), 2 * p.priors(), choose);
  per_image(settle, p.priors());
  for_each_part(p, tiles, 8 * kTile, write_tile);
}

}  // namespace fastdet
