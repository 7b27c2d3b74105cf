// SPDX-License-Identifier: Apache-2.0
// The CPU path: five passes over a batch, each in parallel over (image, tile of priors), (image) or (image, ground truth).
// Loops that are worth vector code work on columns (structures of arrays) and are compiled per instruction set.
#include <algorithm>
#include <functional>
#include <limits>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/aligned_ota/aligned_ota.h"
#include "ops/aligned_ota/aligned_ota_math.h"

namespace fastdet {
namespace aligned_ota {
namespace {

constexpr std::int64_t kTile = 256;       // priors, or pairs, handled at once on the stack
constexpr std::int64_t kScores = 2048;    // scores handled at once on the stack; a multiple of kLanes
constexpr std::int64_t kRowsAtOnce = 64;  // ground truths between two looks whether all priors of a tile are valid already
constexpr std::int64_t kGrain = 16384;    // elementary steps (about 1 ns) worth waking a thread for
constexpr std::int32_t kContested = -2;
constexpr std::int32_t kUnmatched = -1;

// Valid priors of one image, rising by index. [A] each, in the workspace.
struct Candidates {
  std::int32_t* index;
  float *x1, *y1, *x2, *y2;  // decoded box
  float *x, *y, *reach;      // point; radius times stride
  double* class_sum;
};

// Ground truths of one image that can match, rising by row. [M] each, in the workspace.
struct Rows {
  std::int32_t *row, *label;
  float *x1, *y1, *x2, *y2, *center_x, *center_y;
};

// Everything the passes share about one image.
struct Image {
  std::int64_t* tile_count;  // [ceil(A / kTile)] candidates of each tile; they start at tile * kTile until compacted
  std::int64_t* count;       // [2] candidates, rows
  Candidates candidates;
  Rows rows;
  std::int32_t* chosen;        // [M, topk] positions of candidates
  std::int32_t* chosen_count;  // [M]
  std::int32_t* owner;         // [A] per candidate: position in rows, kUnmatched or kContested
};

// Hands out consecutive pieces; with a null base it only measures.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  void take(T** pointer, std::int64_t count) {
    *pointer = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

std::int64_t kept_topk(const AlignedOtaParams& p) { return std::min<std::int64_t>(p.topk, p.priors()); }

std::size_t carve(const AlignedOtaParams& p, void* base, Image* image) {
  const std::int64_t a = p.priors(), m = p.rows();
  Carver carver(base);
  carver.take(&image->tile_count, ceil_div(a, kTile));
  carver.take(&image->count, 2);
  Candidates& c = image->candidates;
  carver.take(&c.class_sum, a);
  carver.take(&c.index, a);
  for (float** column : {&c.x1, &c.y1, &c.x2, &c.y2, &c.x, &c.y, &c.reach}) carver.take(column, a);
  Rows& r = image->rows;
  carver.take(&r.row, m);
  carver.take(&r.label, m);
  for (float** column : {&r.x1, &r.y1, &r.x2, &r.y2, &r.center_x, &r.center_y}) carver.take(column, m);
  carver.take(&image->chosen, m * kept_topk(p));
  carver.take(&image->chosen_count, m);
  carver.take(&image->owner, a);
  return carver.used();
}

Image image_at(const AlignedOtaParams& p, std::int64_t b) {
  Image image;
  const std::size_t bytes = carve(p, nullptr, &image);
  carve(p, static_cast<char*>(p.workspace) + static_cast<std::size_t>(b) * bytes, &image);
  return image;
}

GroundTruth row_at(const Rows& rows, std::int64_t g) {
  const Box box = {rows.x1[g], rows.y1[g], rows.x2[g], rows.y2[g]};
  return {box, rows.center_x[g], rows.center_y[g], box_area(box), rows.label[g]};
}

// ---- vector loops ----

FD_TARGET_CLONES
void mark_reached(std::int64_t n, const float* FD_RESTRICT x, const float* FD_RESTRICT y, const float* FD_RESTRICT reach,
                  const GroundTruth& gt, std::int32_t* FD_RESTRICT reached) {
  const GroundTruth row = gt;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool hit = in_box(x[i], y[i], row.box) | in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
    reached[i] |= static_cast<std::int32_t>(hit);
  }
}

// Turns scores into their terms of the class sum, in place.
FD_TARGET_CLONES
void class_terms(std::int64_t n, float* FD_RESTRICT values) {
  for (std::int64_t i = 0; i < n; ++i) values[i] = class_term(values[i]);
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

// IoUs of n candidates with a ground truth; returns the largest.
FD_TARGET_CLONES
float pair_ious(std::int64_t n, const Candidates& c, std::int64_t first, const GroundTruth& gt, float* FD_RESTRICT iou) {
  const float *x1 = c.x1 + first, *y1 = c.y1 + first, *x2 = c.x2 + first, *y2 = c.y2 + first;
  const GroundTruth row = gt;
  std::int32_t most = 0;  // IoUs are not negative, so their bits order as they do
  for (std::int64_t i = 0; i < n; ++i) {
    iou[i] = pair_iou({x1[i], y1[i], x2[i], y2[i]}, row.box, row.area);
    const std::int32_t bits = bit_cast<std::int32_t>(iou[i]);
    most = bits > most ? bits : most;
  }
  return bit_cast<float>(most);
}

// Which of n candidates lie inside a ground truth; returns how many.
FD_TARGET_CLONES
std::int64_t candidates_inside(std::int64_t n, const Candidates& c, std::int64_t first, const GroundTruth& gt,
                               std::int32_t* FD_RESTRICT inside) {
  const float *x = c.x + first, *y = c.y + first, *reach = c.reach + first;
  const GroundTruth row = gt;
  std::int32_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool both = in_box(x[i], y[i], row.box) & in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
    inside[i] = static_cast<std::int32_t>(both);
    count += inside[i];
  }
  return count;
}

// In which of n ground truths one candidate lies; returns how many.
FD_TARGET_CLONES
std::int64_t rows_around(std::int64_t n, const Rows& r, std::int64_t first, float x, float y, float reach,
                         std::int32_t* FD_RESTRICT inside) {
  const float *x1 = r.x1 + first, *y1 = r.y1 + first, *x2 = r.x2 + first, *y2 = r.y2 + first;
  const float *center_x = r.center_x + first, *center_y = r.center_y + first;
  std::int32_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool both = in_box(x, y, {x1[i], y1[i], x2[i], y2[i]}) & in_center(x, y, reach, center_x[i], center_y[i]);
    inside[i] = static_cast<std::int32_t>(both);
    count += inside[i];
  }
  return count;
}

// Pairs gathered for the cost, on the stack.
struct Pairs {
  std::int64_t count = 0;
  std::int32_t position[kTile];  // of the candidate or of the ground truth, relative to the tile
  double class_sum[kTile];
  float score[kTile], iou[kTile], cost[kTile];
};

FD_TARGET_CLONES
void pair_costs(Pairs& pairs, float class_weight, float iou_weight) {
  for (std::int64_t i = 0; i < pairs.count; ++i) {
    pairs.cost[i] = pair_cost(pairs.class_sum[i], clamp_score(pairs.score[i]), pairs.iou[i], class_weight, iou_weight);
  }
}

// ---- pass 1: valid priors of a tile, with their class sums ----

template <typename T>
void copy_scores(const T* FD_RESTRICT from, std::int64_t step, std::int64_t n, float* FD_RESTRICT to) {
  if (step == 1) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) to[i] = to_float(from[i * step]);
  }
}

Box box_at(const AlignedOtaParams& p, std::int64_t b, std::int64_t a) {
  return dispatch_float(p.boxes.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return load_box(p.boxes.as<const T>() + b * p.boxes.stride[0] + a * p.boxes.stride[1], p.boxes.stride[2]);
  });
}

// S_a of n <= kTile priors; NaN where a score is not finite. Short rows are handled many at once.
void class_sums(const AlignedOtaParams& p, std::int64_t b, std::int64_t n, const std::int32_t* index, double* sums) {
  float values[kScores];
  double lanes[kTile * kLanes];
  const TensorView& scores = p.scores;
  const std::int64_t classes = p.classes(), at_once = std::clamp<std::int64_t>(kScores / std::max<std::int64_t>(classes, 1), 1, kTile);
  for (std::int64_t first = 0; first < n; first += at_once) {
    const std::int64_t rows = std::min(at_once, n - first);
    std::fill(lanes, lanes + rows * kLanes, 0.0);
    for (std::int64_t c = 0; c < classes; c += kScores) {
      const std::int64_t width = std::min(kScores, classes - c);
      dispatch_float(scores.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const T* from = scores.as<const T>() + b * scores.stride[0] + c * scores.stride[2];
        for (std::int64_t i = 0; i < rows; ++i) {
          copy_scores(from + index[first + i] * scores.stride[1], scores.stride[2], width, values + i * width);
        }
      });
      class_terms(rows * width, values);
      for (std::int64_t i = 0; i < rows; ++i) add_to_lanes(width, values + i * width, lanes + i * kLanes);
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      double* lane = lanes + i * kLanes;
      for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
      }
      sums[first + i] = lane[0];
    }
  }
}

void collect_tile(const AlignedOtaParams& p, std::int64_t b, std::int64_t tile) {
  const Image image = image_at(p, b);
  const std::int64_t first = tile * kTile, n = std::min(kTile, p.priors() - first);
  float x[kTile], y[kTile], reach[kTile];
  std::int32_t reached[kTile] = {};
  const float* points = p.points.as<const float>() + first * p.points.stride[0];
  const float* strides = p.strides.as<const float>() + first * p.strides.stride[0];
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = points[i * p.points.stride[0]];
    y[i] = points[i * p.points.stride[0] + p.points.stride[1]];
    reach[i] = p.center_radius * strides[i * p.strides.stride[0]];
  }
  for (std::int64_t g = 0; g < image.count[1]; ++g) {
    if (g % kRowsAtOnce == 0 && std::all_of(reached, reached + n, [](std::int32_t hit) { return hit != 0; })) break;
    mark_reached(n, x, y, reach, row_at(image.rows, g), reached);
  }

  std::int32_t index[kTile];
  Box boxes[kTile];
  double sums[kTile];
  std::int64_t hits = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (reached[i] == 0 || !is_finite(x[i]) || !is_finite(y[i]) || !is_finite(strides[i * p.strides.stride[0]])) continue;
    boxes[hits] = box_at(p, b, first + i);
    if (!box_finite(boxes[hits])) continue;
    index[hits++] = static_cast<std::int32_t>(first + i);
  }
  class_sums(p, b, hits, index, sums);
  const Candidates& c = image.candidates;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < hits; ++i) {
    if (sums[i] != sums[i]) continue;
    const std::int64_t at = first + count++, from = index[i] - first;
    c.index[at] = index[i];
    c.class_sum[at] = sums[i];
    c.x1[at] = boxes[i].x1, c.y1[at] = boxes[i].y1, c.x2[at] = boxes[i].x2, c.y2[at] = boxes[i].y2;
    c.x[at] = x[from], c.y[at] = y[from], c.reach[at] = reach[from];
  }
  image.tile_count[tile] = count;
}

// ---- pass 2: candidates of an image side by side ----

void compact(const AlignedOtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  const Candidates& c = image.candidates;
  std::int64_t total = 0;
  for (std::int64_t tile = 0; tile < ceil_div(p.priors(), kTile); ++tile) {
    const std::int64_t from = tile * kTile, n = image.tile_count[tile];
    if (from != total) {
      std::copy(c.index + from, c.index + from + n, c.index + total);
      std::copy(c.class_sum + from, c.class_sum + from + n, c.class_sum + total);
      for (float* column : {c.x1, c.y1, c.x2, c.y2, c.x, c.y, c.reach}) std::copy(column + from, column + from + n, column + total);
    }
    total += n;
  }
  image.count[0] = total;
}

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
    T* at = std::upper_bound(values_, values_ + size_ - 1, value, Before());
    std::copy_backward(at, values_ + size_ - 1, values_ + size_);
    *at = value;
    if (size_ == capacity_) last_ = values_[size_ - 1];
  }
  std::int64_t size() const { return size_; }

 private:
  std::int64_t capacity_, size_ = 0;
  T* values_;
  T last_;  // values not before this one do not enter
};

struct Demand {
  std::int64_t k, inside;  // priors asked for; candidates inside
};

Demand demand_of(const AlignedOtaParams& p, const Image& image, const GroundTruth& gt) {
  float iou[kTile], largest[AlignedOtaParams::kMaxTopk];
  std::int32_t inside[kTile];
  Best<float, std::greater<float>> best(p.topk, largest, 0.0f);  // an IoU of 0 adds nothing
  Demand demand = {0, 0};
  for (std::int64_t first = 0; first < image.count[0]; first += kTile) {
    const std::int64_t n = std::min(kTile, image.count[0] - first);
    demand.inside += candidates_inside(n, image.candidates, first, gt, inside);
    if (!best.takes(pair_ious(n, image.candidates, first, gt, iou))) continue;
    for (std::int64_t i = 0; i < n; ++i) best.push(iou[i]);
  }
  double sum = 0.0;
  for (std::int64_t i = 0; i < best.size(); ++i) sum += static_cast<double>(largest[i]);
  demand.k = image.count[0] == 0 ? 0 : dynamic_k(sum);
  return demand;
}

// Scores of the gathered candidates at one class.
void gather_scores(const AlignedOtaParams& p, std::int64_t b, const std::int32_t* index, std::int32_t label, Pairs* pairs) {
  const TensorView& scores = p.scores;
  dispatch_float(scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = scores.as<const T>() + b * scores.stride[0] + label * scores.stride[2];
    for (std::int64_t i = 0; i < pairs->count; ++i) {
      pairs->score[i] = to_float(from[index[pairs->position[i]] * scores.stride[1]]);
    }
  });
}

// Cost and IoU of the candidates first .. first + n with a ground truth: of those inside, or of all.
void price_candidates(const AlignedOtaParams& p, std::int64_t b, const Image& image, const GroundTruth& gt, std::int64_t first,
                      std::int64_t n, const std::int32_t* inside, bool only_inside, Pairs* pairs) {
  const Candidates& c = image.candidates;
  pairs->count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (only_inside && inside[i] == 0) continue;
    const std::int64_t at = first + i, slot = pairs->count++;
    pairs->position[slot] = static_cast<std::int32_t>(i);
    pairs->class_sum[slot] = c.class_sum[at];
    pairs->iou[slot] = pair_iou({c.x1[at], c.y1[at], c.x2[at], c.y2[at]}, gt.box, gt.area);
  }
  gather_scores(p, b, c.index + first, gt.label, pairs);
  pair_costs(*pairs, p.class_weight, p.iou_weight);
}

void choose(const AlignedOtaParams& p, std::int64_t b, std::int64_t g) {
  const Image image = image_at(p, b);
  if (g >= image.count[1]) return;
  const GroundTruth gt = row_at(image.rows, g);
  const Demand demand = demand_of(p, image, gt);
  const bool only_inside = demand.inside >= demand.k;  // enough of them: the others come after and need no cost
  std::uint64_t keys[AlignedOtaParams::kMaxTopk];
  Best<std::uint64_t, std::less<std::uint64_t>> best(demand.k, keys, kNoKey);
  std::int32_t inside[kTile];
  Pairs pairs;
  for (std::int64_t first = 0; demand.k > 0 && first < image.count[0]; first += kTile) {
    const std::int64_t n = std::min(kTile, image.count[0] - first);
    if (candidates_inside(n, image.candidates, first, gt, inside) == 0 && only_inside) continue;
    price_candidates(p, b, image, gt, first, n, inside, only_inside, &pairs);
    for (std::int64_t i = 0; i < pairs.count; ++i) {
      const std::int32_t position = pairs.position[i];
      best.push(pair_key(inside[position] != 0, pairs.cost[i], static_cast<std::int32_t>(first) + position));
    }
  }
  image.chosen_count[g] = static_cast<std::int32_t>(best.size());
  for (std::int64_t i = 0; i < best.size(); ++i) image.chosen[g * kept_topk(p) + i] = key_index(keys[i]);
}

// ---- pass 4: who owns what ----

void settle(const AlignedOtaParams& p, std::int64_t b) {
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
std::int32_t cheapest_row(const AlignedOtaParams& p, std::int64_t b, const Image& image, std::int64_t at) {
  const Candidates& c = image.candidates;
  const Box box = {c.x1[at], c.y1[at], c.x2[at], c.y2[at]};
  const TensorView& scores = p.scores;
  std::uint64_t best = kNoKey;
  std::int32_t inside[kTile];
  Pairs pairs;
  for (std::int64_t first = 0; first < image.count[1]; first += kTile) {
    const std::int64_t n = std::min(kTile, image.count[1] - first);
    const bool any = rows_around(n, image.rows, first, c.x[at], c.y[at], c.reach[at], inside) > 0;
    pairs.count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      if (any && inside[i] == 0) continue;  // not the cheapest of this tile, so not of all
      const GroundTruth gt = row_at(image.rows, first + i);
      const std::int64_t slot = pairs.count++;
      pairs.position[slot] = static_cast<std::int32_t>(i);
      pairs.class_sum[slot] = c.class_sum[at];
      pairs.iou[slot] = pair_iou(box, gt.box, gt.area);
      pairs.score[slot] = dispatch_float(scores.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        return to_float(scores.as<const T>()[b * scores.stride[0] + c.index[at] * scores.stride[1] + gt.label * scores.stride[2]]);
      });
    }
    pair_costs(pairs, p.class_weight, p.iou_weight);
    for (std::int64_t i = 0; i < pairs.count; ++i) {
      const std::int32_t position = pairs.position[i];
      best = std::min(best, pair_key(inside[position] != 0, pairs.cost[i], static_cast<std::int32_t>(first) + position));
    }
  }
  return key_index(best);
}

// ---- pass 5: results of a tile of priors ----

void write_tile(const AlignedOtaParams& p, std::int64_t b, std::int64_t tile) {
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

void clear_costs(const AlignedOtaParams& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t m = p.rows();
  std::fill(p.cost + begin * m, p.cost + end * m, std::numeric_limits<float>::infinity());
  std::fill(p.iou + begin * m, p.iou + end * m, 0.0f);
  std::fill(p.inside + begin * m, p.inside + end * m, false);
  std::fill(p.valid + begin, p.valid + end, false);
}

void write_costs(const AlignedOtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  const std::int64_t offset = b * p.priors(), m = p.rows();
  std::fill(p.dynamic_k + b * m, p.dynamic_k + (b + 1) * m, 0);
  for (std::int64_t j = 0; j < image.count[0]; ++j) p.valid[offset + image.candidates.index[j]] = true;
  std::int32_t inside[kTile];
  Pairs pairs;
  for (std::int64_t g = 0; g < image.count[1]; ++g) {
    const GroundTruth gt = row_at(image.rows, g);
    p.dynamic_k[b * m + image.rows.row[g]] = static_cast<std::int32_t>(demand_of(p, image, gt).k);
    for (std::int64_t first = 0; first < image.count[0]; first += kTile) {
      const std::int64_t n = std::min(kTile, image.count[0] - first);
      candidates_inside(n, image.candidates, first, gt, inside);
      price_candidates(p, b, image, gt, first, n, inside, false, &pairs);
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t at = (offset + image.candidates.index[first + i]) * m + image.rows.row[g];
        p.cost[at] = pairs.cost[i];
        p.iou[at] = pairs.iou[i];
        p.inside[at] = inside[i] != 0;
      }
    }
  }
}

// Pass 0: the ground truths that can match.
void collect_rows(const AlignedOtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  const Rows& r = image.rows;
  std::int64_t count = 0;
  const std::int64_t rows = load_count(p.gt_count, b, p.rows());
  for (std::int64_t row = 0; row < rows; ++row) {
    GroundTruth gt;
    if (!load_ground_truth(p.gt_boxes, p.gt_labels, p.classes(), b, row, &gt)) continue;
    r.row[count] = static_cast<std::int32_t>(row);
    r.label[count] = gt.label;
    r.x1[count] = gt.box.x1, r.y1[count] = gt.box.y1, r.x2[count] = gt.box.x2, r.y2[count] = gt.box.y2;
    r.center_x[count] = gt.center_x, r.center_y[count] = gt.center_y;
    ++count;
  }
  image.count[1] = count;
}

// Runs body(image, part) for `parts` parts of every image, each of about `steps` elementary steps.
template <typename Body>
void for_each_part(const AlignedOtaParams& p, std::int64_t parts, std::int64_t steps, Body&& body) {
  const std::int64_t grain = kGrain / std::max<std::int64_t>(steps, 1) + 1;
  parallel_for(p.images() * parts, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(p, i / parts, i % parts);
  });
}

}  // namespace
}  // namespace aligned_ota

std::size_t aligned_ota_cpu_workspace_bytes(const AlignedOtaParams& p) {
  aligned_ota::Image image;
  return aligned_ota::carve(p, nullptr, &image) * static_cast<std::size_t>(p.images());
}

void aligned_ota_cpu(const AlignedOtaParams& p) {
  using namespace aligned_ota;
  const std::int64_t tiles = ceil_div(p.priors(), kTile);
  const auto per_image = [&](void (*pass)(const AlignedOtaParams&, std::int64_t), std::int64_t steps) {
    for_each_part(p, 1, steps, [pass](const AlignedOtaParams& params, std::int64_t b, std::int64_t) { pass(params, b); });
  };
  per_image(collect_rows, 10 * p.rows());
  for_each_part(p, tiles, kTile * (p.classes() + p.rows()), collect_tile);
  per_image(compact, p.priors());
  if (p.cost != nullptr) {
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
