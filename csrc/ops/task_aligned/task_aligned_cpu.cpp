// SPDX-License-Identifier: Apache-2.0
// The CPU path. Every pass runs in parallel over (image, ground truth), (image) or (image, tile of anchors); none allocates.
#include <algorithm>
#include <limits>

#include "core/best_list.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/task_aligned/task_aligned_columns.h"

namespace fastdet {
namespace task_aligned {
namespace {

// A ground truth without its kind: fields of its item one after the other.
struct Row {
  float item[kMaxFields] = {};
  Region region = {};
  std::int32_t label = 0;
};

bool load_any(const TaskAlignedParams& p, std::int64_t b, std::int64_t g, Row* row) {
  bool usable = false;
  for_kind(p.kind, [&](auto tag) {
    constexpr IouKind K = decltype(tag)::kind;
    GroundTruth<K> gt = {};
    usable = load_ground_truth<K>(p, b, g, &gt);
    if (!usable) return;
    Measure<K, float>::put(gt.item, row->item, 1, 0);
    row->region = gt.region;
    row->label = gt.label;
  });
  return usable;
}

bool rotated(const TaskAlignedParams& p) { return p.kind == IouKind::kProb; }

// ---- passes 0 and 1: points and their hulls; ground truths that can match; boxes made ready ----

void collect_points(const TaskAlignedParams& p, std::int64_t tile) {
  const Points points = points_at(p);
  const std::int64_t first = tile * kTile, last = std::min(first + kTile, p.anchors());
  const float infinity = std::numeric_limits<float>::infinity();
  Box hull = {infinity, infinity, -infinity, -infinity};
  const float* from = p.points.as<const float>();
  for (std::int64_t i = first; i < last; ++i) {
    const float x = from[i * p.points.stride[0]], y = from[i * p.points.stride[0] + p.points.stride[1]];
    hull = {smaller(hull.x1, x), smaller(hull.y1, y), larger(hull.x2, x), larger(hull.y2, y)};
    points.x[i] = x, points.y[i] = y;
  }
  points.hull[tile] = hull;
}

void collect_rows(const TaskAlignedParams& p, std::int64_t b, std::int64_t) {
  const Image image = image_at(p, b);
  std::int32_t count = 0;
  Row row;
  for (std::int64_t g = 0; g < load_count(p.gt_count, b, p.rows()); ++g) {
    if (!load_any(p, b, g, &row)) continue;
    image.bounds[count] = row.region.bounds;
    image.row[count++] = static_cast<std::int32_t>(g);
  }
  *image.count = count;
}

void collect_items(const TaskAlignedParams& p, std::int64_t b, std::int64_t tile) {
  const std::int64_t first = tile * kTile, n = std::min(kTile, p.anchors() - first);
  float numbers[kMaxNumbers * kTile];
  dispatch_float(p.boxes.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = p.boxes.as<const T>() + b * p.boxes.stride[0] + first * p.boxes.stride[1];
    for (std::int64_t i = 0; i < n; ++i) {
      for (int k = 0; k < p.numbers(); ++k)
        numbers[k * kTile + i] = to_float(from[i * p.boxes.stride[1] + k * p.boxes.stride[2]]);
    }
  });
  prepare_items(p.kind, p.form, n, numbers, image_at(p, b).items + first, p.anchors());
}

// ---- pass 2: what each ground truth chooses ----

// Pairs of one ground truth with the anchors of a tile that lie in its region.
struct Pairs {
  std::int64_t count;
  std::int32_t anchor[kTile];
  float score[kTile], overlap[kTile], metric[kTile];
};

void load_scores(const TaskAlignedParams& p, std::int64_t b, std::int32_t label, Pairs* pairs) {
  dispatch_float(p.scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = p.scores.as<const T>() + b * p.scores.stride[0] + label * p.scores.stride[2];
    for (std::int64_t i = 0; i < pairs->count; ++i) pairs->score[i] = to_float(from[pairs->anchor[i] * p.scores.stride[1]]);
  });
}

// Overlap and metric of pairs whose anchors are given.
void measure_pairs(const TaskAlignedParams& p, std::int64_t b, const Image& image, const Row& row, Pairs* pairs) {
  const std::int64_t n = pairs->count;
  if (n == 0) return;
  load_scores(p, b, row.label, pairs);
  const std::int64_t first = pairs->anchor[0], span = pairs->anchor[n - 1] - first + 1;
  if (span <= kTile && 2 * n >= span) {  // dense: where they lie, then side by side
    pair_overlaps(p.kind, p.form, row.item, span, image.items + first, p.anchors(), pairs->overlap);
    for (std::int64_t i = 0; i < n; ++i) pairs->overlap[i] = pairs->overlap[pairs->anchor[i] - first];
  } else {
    float items[kMaxFields * kTile];
    const int fields = rotated(p) ? kMaxFields : 6;
    for (int k = 0; k < fields; ++k) {
      const float* column = image.items + k * p.anchors();
      for (std::int64_t i = 0; i < n; ++i) items[k * kTile + i] = column[pairs->anchor[i]];
    }
    pair_overlaps(p.kind, p.form, row.item, n, items, kTile, pairs->overlap);
  }
  pair_metrics(p, n, pairs->score, pairs->overlap, pairs->metric);
}

// Calls visit(pairs) for the anchors in the region of a ground truth, tile by tile.
template <typename Visit>
void for_candidates(const TaskAlignedParams& p, std::int64_t b, const Image& image, const Row& row, const Visit& visit) {
  const Points points = points_at(p);
  std::int32_t inside[kTile];
  Pairs pairs;
  for (std::int64_t first = 0; first < p.anchors(); first += kTile) {
    if (!hull_meets(points.hull[first / kTile], row.region.bounds)) continue;
    const std::int64_t n = std::min(kTile, p.anchors() - first);
    if (points_inside(rotated(p), n, points.x + first, points.y + first, row.region, inside) == 0) continue;
    pairs.count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      pairs.anchor[pairs.count] = static_cast<std::int32_t>(first + i);
      pairs.count += inside[i];
    }
    measure_pairs(p, b, image, row, &pairs);
    visit(pairs);
  }
}

void choose(const TaskAlignedParams& p, std::int64_t b, std::int64_t position) {
  const Image image = image_at(p, b);
  if (position >= *image.count) return;
  Row row;
  load_any(p, b, image.row[position], &row);
  std::uint64_t keys[kMaxAssignTopk];
  BestList<std::uint64_t> best(kept_topk(p), keys, kNoKey);
  for_candidates(p, b, image, row, [&](const Pairs& pairs) {
    for (std::int64_t i = 0; i < pairs.count; ++i) {
      if (pairs.metric[i] > 0.0f && pairs.overlap[i] > 0.0f) best.push(falling_key(pairs.metric[i], pairs.anchor[i]));
    }
  });
  image.chosen_count[position] = static_cast<std::int32_t>(best.size());
  for (std::int64_t i = 0; i < best.size(); ++i) image.chosen[position * kept_topk(p) + i] = key_index(keys[i]);
}

// ---- pass 3: who owns what ----

void settle(const TaskAlignedParams& p, std::int64_t b, std::int64_t) {
  const Image image = image_at(p, b);
  std::fill(image.owner, image.owner + p.anchors(), kUnmatched);
  for (std::int32_t g = 0; g < *image.count; ++g) {
    for (std::int64_t i = 0; i < image.chosen_count[g]; ++i) {
      std::int32_t& owner = image.owner[image.chosen[g * kept_topk(p) + i]];
      owner = owner == kUnmatched ? g : kContested;
    }
  }
}

// The first of all ground truths for one anchor, by the rule for conflicts.
std::int32_t first_row(const TaskAlignedParams& p, std::int64_t b, const Image& image, std::int32_t anchor) {
  const Points points = points_at(p);
  const float x = points.x[anchor], y = points.y[anchor];
  const bool anywhere = p.conflict == ConflictRule::kOverlapAnywhere;
  std::uint64_t best = kNoKey;
  for_kind(p.kind, [&](auto tag) {
    constexpr IouKind K = decltype(tag)::kind;
    const auto item = Measure<K, float>::at(image.items, p.anchors(), anchor);
    for (std::int32_t position = 0; position < *image.count; ++position) {
      if (!anywhere && !hull_meets({x, y, x, y}, image.bounds[position])) continue;
      GroundTruth<K> gt = {};
      load_ground_truth<K>(p, b, image.row[position], &gt);
      if (!anywhere && !in_region<K>(x, y, gt.region)) continue;
      float value = pair_overlap<K>(item, gt, p.form);
      if (p.conflict == ConflictRule::kMetric) value = pair_metric(p, load_score(p, b, anchor, gt.label), value);
      best = std::min(best, falling_key(value, position));
    }
  });
  return key_index(best);
}

void settle_tile(const TaskAlignedParams& p, std::int64_t b, std::int64_t tile) {
  const Image image = image_at(p, b);
  Row row;
  Pairs pairs;
  for (std::int64_t a = tile * kTile; a < std::min((tile + 1) * kTile, p.anchors()); ++a) {
    if (image.owner[a] == kUnmatched) continue;
    pairs.count = 1;
    pairs.anchor[0] = static_cast<std::int32_t>(a);
    if (image.owner[a] == kContested) image.owner[a] = first_row(p, b, image, pairs.anchor[0]);
    load_any(p, b, image.row[image.owner[a]], &row);
    measure_pairs(p, b, image, row, &pairs);
    image.metric[a] = pairs.metric[0];
    image.overlap[a] = pairs.overlap[0];
  }
}

// ---- pass 4: anchors by ground truth, the second selection, and what the scores are relative to ----

void keep(const TaskAlignedParams& p, std::int64_t b, std::int64_t) {
  const Image image = image_at(p, b);
  const std::int32_t count = *image.count;
  std::int32_t* start = image.held_start;
  std::fill(start, start + count + 1, 0);
  for (std::int64_t a = 0; a < p.anchors(); ++a) {
    if (image.owner[a] >= 0) ++start[image.owner[a] + 1];
  }
  for (std::int32_t g = 0; g < count; ++g) start[g + 1] += start[g];
  for (std::int64_t a = 0; a < p.anchors(); ++a) {
    if (image.owner[a] >= 0) image.held[start[image.owner[a]]++] = static_cast<std::int32_t>(a);
  }
  // Now start[g] is where the anchors of g end.
  std::uint64_t keys[kMaxAssignTopk];
  std::int32_t positives = 0;
  for (std::int32_t g = 0; g < count; ++g) {
    const std::int32_t *begin = image.held + (g > 0 ? start[g - 1] : 0), *end = image.held + start[g];
    std::uint64_t last = kNoKey;
    if (p.second_topk > 0 && end - begin > p.second_topk) {
      BestList<std::uint64_t> best(p.second_topk, keys, kNoKey);
      for (const std::int32_t* a = begin; a < end; ++a) best.push(falling_key(image.metric[*a], *a));
      last = keys[p.second_topk - 1];
    }
    float best_metric = 0.0f, best_overlap = 0.0f;
    for (const std::int32_t* a = begin; a < end; ++a) {
      if (falling_key(image.metric[*a], *a) > last) continue;
      best_metric = larger(best_metric, image.metric[*a]);
      best_overlap = larger(best_overlap, image.overlap[*a]);
      ++positives;
    }
    image.last_key[g] = last;
    image.best_metric[g] = best_metric, image.best_overlap[g] = best_overlap;
  }
  p.num_pos[b] = positives;
}

// ---- pass 5: results of a tile of anchors ----

void write_tile(const TaskAlignedParams& p, std::int64_t b, std::int64_t tile) {
  const Image image = image_at(p, b);
  for (std::int64_t a = tile * kTile; a < std::min((tile + 1) * kTile, p.anchors()); ++a) {
    const std::int32_t g = image.owner[a];
    const std::int64_t at = b * p.anchors() + a;
    if (g < 0 || falling_key(image.metric[a], static_cast<std::int32_t>(a)) > image.last_key[g]) {
      p.matched_gt[at] = -1;
      p.labels[at] = static_cast<std::int32_t>(p.classes());
      p.label_scores[at] = 0.0f;
      continue;
    }
    const std::int64_t row = image.row[g];
    p.matched_gt[at] = static_cast<std::int32_t>(row);
    p.labels[at] = static_cast<std::int32_t>(load_integer(p.gt_labels, b * p.gt_labels.stride[0] + row * p.gt_labels.stride[1]));
    p.label_scores[at] =
        target_score_of(p.target_score, image.metric[a], image.overlap[a], image.best_metric[g], image.best_overlap[g], p.eps);
  }
}

// ---- for inspection: every pair, and what is chosen of them ----

void write_costs(const TaskAlignedParams& p, std::int64_t b, std::int64_t tile) {
  const Image image = image_at(p, b);
  const std::int64_t first = tile * kTile, n = std::min(kTile, p.anchors() - first), m = p.rows();
  const Points points = points_at(p);
  std::fill(p.metric + (b * p.anchors() + first) * m, p.metric + (b * p.anchors() + first + n) * m, 0.0f);
  std::fill(p.overlap + (b * p.anchors() + first) * m, p.overlap + (b * p.anchors() + first + n) * m, 0.0f);
  std::fill(p.inside + (b * p.anchors() + first) * m, p.inside + (b * p.anchors() + first + n) * m, false);
  std::fill(p.chosen + (b * p.anchors() + first) * m, p.chosen + (b * p.anchors() + first + n) * m, false);
  std::int32_t inside[kTile];
  Row row;
  Pairs pairs;
  for (std::int32_t g = 0; g < *image.count; ++g) {
    load_any(p, b, image.row[g], &row);
    points_inside(rotated(p), n, points.x + first, points.y + first, row.region, inside);
    pairs.count = n;
    for (std::int64_t i = 0; i < n; ++i) pairs.anchor[i] = static_cast<std::int32_t>(first + i);
    measure_pairs(p, b, image, row, &pairs);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = (b * p.anchors() + first + i) * m + image.row[g];
      p.metric[at] = pairs.metric[i];
      p.overlap[at] = pairs.overlap[i];
      p.inside[at] = inside[i] != 0;
    }
  }
}

void write_chosen(const TaskAlignedParams& p, std::int64_t b, std::int64_t position) {
  const Image image = image_at(p, b);
  if (position >= *image.count) return;
  for (std::int64_t i = 0; i < image.chosen_count[position]; ++i) {
    const std::int64_t a = image.chosen[position * kept_topk(p) + i];
    p.chosen[(b * p.anchors() + a) * p.rows() + image.row[position]] = true;
  }
}

// Runs body(image, part) for `parts` parts of every image, each of about `steps` elementary steps.
template <typename Body>
void for_each_part(const TaskAlignedParams& p, std::int64_t parts, std::int64_t steps, const Body& body) {
  parallel_parts(p.images() * parts, steps, [&](std::int64_t i) { body(p, i / parts, i % parts); });
}

}  // namespace
}  // namespace task_aligned

void task_aligned_cpu(const TaskAlignedParams& p) {
  using namespace task_aligned;
  const std::int64_t tiles = ceil_div(p.anchors(), kTile);
  parallel_parts(tiles, kTile, [&](std::int64_t tile) { collect_points(p, tile); });
  for_each_part(p, 1, 30 * p.rows(), collect_rows);
  for_each_part(p, tiles, 10 * kTile, collect_items);
  for_each_part(p, p.rows(), p.anchors(), choose);
  if (p.want_cost) {
    for_each_part(p, tiles, kTile * (1 + 10 * p.rows()), write_costs);
    for_each_part(p, p.rows(), p.topk, write_chosen);
    return;
  }
  for_each_part(p, 1, p.anchors() + p.rows() * p.topk, settle);
  for_each_part(p, tiles, 4 * kTile, settle_tile);
  for_each_part(p, 1, 4 * p.anchors(), keep);
  for_each_part(p, tiles, 4 * kTile, write_tile);
}

}  // namespace fastdet
