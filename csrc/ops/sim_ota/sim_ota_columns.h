// SPDX-License-Identifier: Apache-2.0
// The CPU path's memory: per image, structures of arrays in the workspace, and the loops over them that are worth vector code.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ops/sim_ota/sim_ota.h"
#include "ops/sim_ota/sim_ota_math.h"

namespace fastdet::sim_ota {

constexpr std::int64_t kTile = 256;  // priors, or pairs, handled at once on the stack

// Valid priors of one image, rising by index. [A] each, in the workspace.
struct Candidates {
  std::int32_t *index, *source;  // position among candidates; prior
  float *x1, *y1, *x2, *y2;      // decoded box
  float *x, *y, *reach;          // point; radius times stride
  float* objectness;             // probability
  double* class_sum;
};

// Ground truths of one image that can match, rising by row. [M] each, in the workspace.
struct Rows {
  std::int32_t *row, *label;
  float *x1, *y1, *x2, *y2, *center_x, *center_y;
};

// Bounds of what a tile of candidates holds, so that ground truths far away need not look into it.
struct Hull {
  float x1 = INFINITY, y1 = INFINITY, x2 = -INFINITY, y2 = -INFINITY;

  void add(float low_x, float low_y, float high_x, float high_y) {
    x1 = smaller(x1, low_x), y1 = smaller(y1, low_y), x2 = larger(x2, high_x), y2 = larger(y2, high_y);
  }
  // False only if nothing in the hull overlaps the box, or lies strictly inside it.
  bool meets(const Box& box) const { return x2 > box.x1 && y2 > box.y1 && box.x2 > x1 && box.y2 > y1; }
};

// Everything the passes share about one image.
struct Image {
  std::int64_t* tile_count;  // [ceil(A / kTile)] candidates of each tile; they start at tile * kTile until compacted
  std::int64_t* count;       // [2] candidates, rows
  Candidates candidates;
  Hull *boxes, *points;  // [ceil(A / kTile)] of each tile of compacted candidates
  Rows rows;
  std::int32_t* chosen;        // [M, topk] positions of candidates
  std::int32_t* chosen_count;  // [M]
  std::int32_t* owner;         // [A] per candidate: position in rows, kUnmatched or kContested
};

constexpr std::int32_t kUnmatched = -1;
constexpr std::int32_t kContested = -2;

std::int64_t kept_topk(const SimOtaParams& params);
// The part of the workspace that belongs to one image.
Image image_at(const SimOtaParams& params, std::int64_t image);

inline GroundTruth row_at(const Rows& rows, std::int64_t g) {
  const Box box = {rows.x1[g], rows.y1[g], rows.x2[g], rows.y2[g]};
  return {box, rows.center_x[g], rows.center_y[g], box_area(box), rows.label[g]};
}

// Pairs gathered for the cost, on the stack.
struct Pairs {
  std::int64_t count = 0;
  std::int32_t position[kTile];  // of the candidate or of the ground truth, relative to the tile
  double class_sum[kTile];
  float score[kTile], objectness[kTile], iou[kTile], cost[kTile];
};

// Which of n priors lie in the box or the centre window; the others keep their mark.
void mark_reached(std::int64_t n, const float* x, const float* y, const float* reach, const GroundTruth& gt,
                  std::int32_t* reached);
// Rests (score_rest) of [rows, width] logits, rows apart by width; farthest [rows] is the largest distance of a logit from
// kOrdinaryMiddle, as bits. Rests are right only where that is at most kOrdinaryReach; then none is 0.
constexpr float kOrdinaryMiddle = -24.0f, kOrdinaryReach = 40.0f;
void ordinary_rests(std::int64_t rows, std::int64_t width, const float* logits, const float* objectness, float* rests,
                    std::int32_t* farthest);
// Rests of n logits, whatever they are.
void all_rests(std::int64_t n, const float* logits, float objectness, float* rests);
// Adds the terms of [rows, width] rests to the lanes [rows, kLanes]. width is a multiple of kLanes; products has room for as many
// floats as rests.
void add_terms(std::int64_t rows, std::int64_t width, const float* rests, float* products, double* lanes);
// IoUs of n candidates with a ground truth; returns the largest.
float pair_ious(std::int64_t n, const Candidates& c, std::int64_t first, const GroundTruth& gt, float* iou);
// Which of n candidates lie inside a ground truth; returns how many.
std::int64_t candidates_inside(std::int64_t n, const Candidates& c, std::int64_t first, const GroundTruth& gt,
                               std::int32_t* inside);
// In which of n ground truths one candidate lies; returns how many.
std::int64_t rows_around(std::int64_t n, const Rows& r, std::int64_t first, float x, float y, float reach, std::int32_t* inside);
// Costs of n gathered pairs.
void pair_costs(Pairs* pairs, float class_weight, float iou_weight);

// Passes 0 to 2: ground truths that can match; valid priors of one tile with their class sums; those of all tiles side by side.
void collect_rows(const SimOtaParams& params, std::int64_t image);
void collect_tile(const SimOtaParams& params, std::int64_t image, std::int64_t tile);
void compact(const SimOtaParams& params, std::int64_t image);

}  // namespace fastdet::sim_ota
