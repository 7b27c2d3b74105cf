// SPDX-License-Identifier: Apache-2.0
// First half of the CPU path: which ground truths can match, which priors are valid, and what their other classes cost.
#include <algorithm>

#include "core/dispatch.h"
#include "ops/sim_ota/sim_ota_columns.h"

namespace fastdet::sim_ota {
namespace {

constexpr std::int64_t kScores = 2048;    // scores handled at once on the stack; a multiple of kLanes * kFactors
constexpr std::int64_t kRowsAtOnce = 64;  // ground truths between two looks whether all priors of a tile are reached already

template <typename T>
void copy_scores(const T* FD_RESTRICT from, std::int64_t step, std::int64_t n, float* FD_RESTRICT to) {
  if (step == 1) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) to[i] = to_float(from[i * step]);
  }
}

// False only if no point of the hull is closer than `farthest` to the centre, on both axes.
bool hull_near(const Hull& hull, float farthest, const GroundTruth& gt) {
  return hull.x1 - gt.center_x < farthest && gt.center_x - hull.x2 < farthest && hull.y1 - gt.center_y < farthest &&
         gt.center_y - hull.y2 < farthest;
}

Box box_at(const SimOtaParams& p, std::int64_t b, std::int64_t a) {
  return dispatch_float(p.boxes.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return load_box(p.boxes.as<const T>() + b * p.boxes.stride[0] + a * p.boxes.stride[1], p.boxes.stride[2]);
  });
}

// Scores of n <= kScores classes from `first` on of one prior, filled up to a multiple of kLanes with such as add nothing.
void load_scores(const SimOtaParams& p, std::int64_t b, std::int64_t prior, std::int64_t first, std::int64_t n, float* to) {
  const TensorView& scores = p.scores;
  dispatch_float(scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = scores.as<const T>() + b * scores.stride[0] + prior * scores.stride[1] + first * scores.stride[2];
    copy_scores(from, scores.stride[2], n, to);
  });
  for (std::int64_t i = n; i % kLanes != 0; ++i) to[i] = kOrdinaryMiddle - kOrdinaryReach;
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

// S_a of n <= kTile priors; NaN where a score is not finite. Short rows are handled many at once.
void class_sums(const SimOtaParams& p, std::int64_t b, std::int64_t n, const std::int32_t* index, const float* objectness,
                double* sums) {
  float logits[kScores], rests[kScores], products[kScores];
  double lanes[kTile * kLanes];
  std::int32_t saturated[kTile * kLanes], farthest[kTile];
  const std::int64_t classes = p.classes(), padded = ceil_div(std::max<std::int64_t>(classes, 1), kLanes) * kLanes,
                     at_once = std::clamp<std::int64_t>(kScores / padded, 1, kTile);
  for (std::int64_t first = 0; first < n; first += at_once) {
    const std::int64_t rows = std::min(at_once, n - first);
    std::fill(lanes, lanes + rows * kLanes, 0.0);
    std::fill(saturated, saturated + rows * kLanes, 0);
    for (std::int64_t c = 0; c < classes; c += kScores) {
      const std::int64_t count = std::min(kScores, classes - c), width = ceil_div(count, kLanes) * kLanes;
      for (std::int64_t i = 0; i < rows; ++i) load_scores(p, b, index[first + i], c, count, logits + i * width);
      ordinary_rests(rows, width, logits, objectness + first, rests, farthest);
      for (std::int64_t i = 0; i < rows; ++i) {
        if (farthest[i] <= bit_cast<std::int32_t>(kOrdinaryReach)) continue;
        const bool finite =
            odd_rests(width, logits + i * width, objectness[first + i], rests + i * width, saturated + i * kLanes);
        if (!finite) lanes[i * kLanes] = bit_cast<double>(std::uint64_t{0x7ff8000000000000u});
      }
      add_terms(rows, width, rests, products, lanes);
    }
    for (std::int64_t i = 0; i < rows; ++i) sums[first + i] = sum_of_lanes(lanes + i * kLanes, saturated + i * kLanes);
  }
}

}  // namespace

// Points of n priors from `first` on and which of them a ground truth reaches; all are reached where candidates are listed.
void reach_points(const SimOtaParams& p, const Image& image, std::int64_t first, std::int64_t n, float* x, float* y, float* reach,
                  std::int32_t* reached) {
  if (p.listed) {
    std::fill(x, x + n, 0.0f);
    std::fill(y, y + n, 0.0f);
    std::fill(reach, reach + n, 0.0f);
    std::fill(reached, reached + n, image.count[1] > 0 ? 1 : 0);
    return;
  }
  Hull hull;
  float farthest = 0.0f;
  const float* points = p.points.as<const float>() + first * p.points.stride[0];
  const float* strides = p.strides.as<const float>() + first * p.strides.stride[0];
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = points[i * p.points.stride[0]];
    y[i] = points[i * p.points.stride[0] + p.points.stride[1]];
    reach[i] = p.center_radius * strides[i * p.strides.stride[0]];
    hull.add(x[i], y[i], x[i], y[i]);
    farthest = larger(farthest, reach[i]);
    reached[i] = 0;
  }
  for (std::int64_t g = 0; g < image.count[1]; ++g) {
    if (g % kRowsAtOnce == 0 && std::all_of(reached, reached + n, [](std::int32_t hit) { return hit != 0; })) break;
    const GroundTruth gt = row_at(image.rows, g);
    if (hull.meets(gt.box) || hull_near(hull, farthest, gt)) mark_reached(n, x, y, reach, gt, reached);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    if (!is_finite(x[i]) || !is_finite(y[i]) || !is_finite(strides[i * p.strides.stride[0]])) reached[i] = 0;
  }
}

void collect_tile(const SimOtaParams& p, std::int64_t b, std::int64_t tile) {
  const Image image = image_at(p, b);
  const std::int64_t first = tile * kTile, n = std::min(kTile, p.priors() - first);
  float x[kTile], y[kTile], reach[kTile];
  std::int32_t reached[kTile];
  reach_points(p, image, first, n, x, y, reach, reached);

  std::int32_t position[kTile], source[kTile];
  Box boxes[kTile];
  float objectness[kTile];
  double sums[kTile];
  std::int64_t hits = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (reached[i] == 0) continue;
    const std::int64_t prior = source_of(p, b, first + i);
    if (prior < 0) continue;
    boxes[hits] = box_at(p, b, prior);
    const float logit = load_float(p.objectness, b * p.objectness.stride[0] + prior * p.objectness.stride[1]);
    if (!box_finite(boxes[hits]) || !is_finite(logit)) continue;
    objectness[hits] = sigmoid_exact(logit);
    source[hits] = static_cast<std::int32_t>(prior);
    position[hits++] = static_cast<std::int32_t>(i);
  }
  class_sums(p, b, hits, source, objectness, sums);
  const Candidates& c = image.candidates;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < hits; ++i) {
    if (sums[i] != sums[i]) continue;
    const std::int64_t at = first + count++, from = position[i];
    c.index[at] = static_cast<std::int32_t>(first + from);
    c.source[at] = source[i];
    c.class_sum[at] = sums[i];
    c.objectness[at] = objectness[i];
    c.x1[at] = boxes[i].x1, c.y1[at] = boxes[i].y1, c.x2[at] = boxes[i].x2, c.y2[at] = boxes[i].y2;
    c.x[at] = x[from], c.y[at] = y[from], c.reach[at] = reach[from];
  }
  image.tile_count[tile] = count;
}

void compact(const SimOtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  const Candidates& c = image.candidates;
  std::int64_t total = 0;
  for (std::int64_t tile = 0; tile < ceil_div(p.priors(), kTile); ++tile) {
    const std::int64_t from = tile * kTile, n = image.tile_count[tile];
    if (from != total) {
      std::copy(c.index + from, c.index + from + n, c.index + total);
      std::copy(c.source + from, c.source + from + n, c.source + total);
      std::copy(c.class_sum + from, c.class_sum + from + n, c.class_sum + total);
      for (float* column : {c.x1, c.y1, c.x2, c.y2, c.x, c.y, c.reach, c.objectness})
        std::copy(column + from, column + from + n, column + total);
    }
    total += n;
  }
  image.count[0] = total;
  for (std::int64_t tile = 0; tile < ceil_div(total, kTile); ++tile) {
    Hull boxes, points;
    for (std::int64_t i = tile * kTile; i < std::min((tile + 1) * kTile, total); ++i) {
      boxes.add(c.x1[i], c.y1[i], c.x2[i], c.y2[i]);
      points.add(c.x[i], c.y[i], c.x[i], c.y[i]);
    }
    image.boxes[tile] = boxes;
    image.points[tile] = points;
  }
}

void collect_rows(const SimOtaParams& p, std::int64_t b) {
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

}  // namespace fastdet::sim_ota
