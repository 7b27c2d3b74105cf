// SPDX-License-Identifier: Apache-2.0
// Dynamic-k matching on the CPU: the memory, per image structures of arrays in the workspace, and the loops over them that are
// worth vector code. Candidates are handled in chunks of 16 with corners around what a chunk holds, so that a ground truth looks
// only into chunks it can meet.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ota.h"
#include "core/ota_cpu.h"

namespace fastdet::ota {

constexpr std::int64_t kChunksAtOnce = 256;  // of a block on the stack
constexpr std::int64_t kSpread = 2 * kChunk;

// Candidates of one image, rising by index, filled up to whole chunks with such as no ground truth takes. In the workspace.
struct Candidates {
  std::int32_t *index, *source;  // position among candidates; prior
  float *x1, *y1, *x2, *y2;      // decoded box
  float* area;                   // of it
  float *x, *y, *reach;          // point; radius times stride
  // Once somebody asked; until then floor is -inf.
  double* class_sum;  // NaN: a score is not finite, the candidate is none
  float* factor;      // of the scores
  float* floor;       // no pair with an IoU of 0 has a lower class cost; +inf: no candidate
};

// Ground truths of one image that can match, rising by row, filled up to whole chunks with such as nothing meets.
struct Rows {
  std::int32_t *row, *label;
  float *x1, *y1, *x2, *y2, *center_x, *center_y;
};

// Corners around the boxes, or the points, of each chunk.
struct Hulls {
  float *x1, *y1, *x2, *y2;
};

// Everything the passes share about one image.
struct Image {
  std::int64_t* tile_count;    // [ceil(A / kTile)] candidates of each tile; they start at tile * kTile until compacted
  std::int64_t* count;         // [2] candidates, rows
  Candidates candidates;       // [A]
  Hulls boxes, points;         // [ceil(A / kChunk)]
  Rows rows;                   // [M]
  std::int32_t* chosen;        // [M, topk] positions of candidates
  std::int32_t* chosen_count;  // [M]
  std::int32_t* owner;         // [A] per candidate: position in rows, kUnmatched or kContested
};

std::int64_t kept_topk(const OtaParams& params);
// The part of the workspace that belongs to one image.
Image image_at(const OtaParams& params, std::int64_t image);

inline GroundTruth row_at(const Rows& rows, std::int64_t g) {
  const Box box = {rows.x1[g], rows.y1[g], rows.x2[g], rows.y2[g]};
  return {box, rows.center_x[g], rows.center_y[g], box_area(box), rows.label[g]};
}

// Chunks of up to kChunksAtOnce side by side that a ground truth can meet by their boxes, and all IoUs there. On the stack.
struct Block {
  std::int64_t first = -1;                     // chunk it begins with; -1: nothing is known
  std::int64_t count;                          // of chunks listed
  std::int32_t chunk[kChunksAtOnce + kChunk];  // rising
  float largest[kChunksAtOnce];                // IoU of each
  alignas(64) float spread[kSpread];           // largest IoUs of kSpread parts of the block
  alignas(64) float iou[kChunksAtOnce * kChunk];
};

// Pairs above this cost are of no interest. A pair costs at least class_weight * floor + iou_weight * -log(IoU + iou_offset).
struct Ceiling {
  float cost, class_weight, iou_weight, iou_offset;
};

// Pairs gathered for their cost, on the stack.
struct Pairs {
  std::int64_t count = 0;
  std::int32_t position[kTile];  // of the candidate, or of the ground truth
  alignas(64) double class_sum[kTile];
  alignas(64) float score[kTile], factor[kTile], iou[kTile], cost[kTile];
};

// Points of the priors of a tile, filled up to whole chunks with NaN, and whether they lie in the box or the centre window of any
// ground truth.
struct Points {
  alignas(64) float x[kTile], y[kTile], reach[kTile];
  std::int32_t reached[kTile];
};

// Fills `reached` in those of the chunks where some[chunk] becomes 1; nothing is reached in the others.
void reach_points(const Rows& rows, std::int64_t count, std::int64_t chunks, Points* points, std::int32_t* some);
void fill_areas(std::int64_t n, const Candidates& c);
// Corners around the chunks of columns; low and high are the same columns for points.
void fill_hulls(std::int64_t chunks, const float* low_x, const float* low_y, const float* high_x, const float* high_y,
                const Hulls& hulls);
// Lists those of the chunks [first, last) whose corners meet a box; returns how many. No other chunk holds what overlaps the box
// or lies strictly in it.
std::int64_t meeting_chunks(const Hulls& hulls, std::int64_t first, std::int64_t last, const Box& box, std::int32_t* list);
// IoUs of the chunks of a block with its ground truth, the largest of each chunk and of each part.
void fill_ious(const Candidates& c, const GroundTruth& gt, float min_union, Block* block);
// The k-th largest of the parts' largest IoUs; 0 where there are fewer. No IoU below it is among the k largest of the block.
float least_of_best(const Block& block, std::int64_t k);

// Candidates whose IoU is at least `least` and not 0: position and IoU. As those below, but for the chunks of the block.
std::int64_t select_best(const Block& block, std::int64_t* next, float least, std::int32_t* position, float* iou);

// Each of these lists candidates of chunks[*next], ... that make pairs of a ground truth, until kTile could be exceeded; returns
// how many, and *next moves on. Pairs apart, whose IoU is 0, are listed where floor <= limit.
//
// Inside: position and IoU.
std::int64_t select_inside(const Candidates& c, std::int64_t n, const std::int32_t* chunks, std::int64_t* next,
                           const GroundTruth& gt, float min_union, float limit, std::int32_t* position, float* iou);
// Overlapping, but with `outside` not inside, that can cost as little as the ceiling: position and IoU. The chunks are those of
// the block.
std::int64_t select_overlapping(const Candidates& c, const Block& block, std::int64_t* next, const GroundTruth& gt, bool outside,
                                const Ceiling& ceiling, std::int32_t* position, float* iou);
// Apart, but with `outside` not inside: position.
std::int64_t select_apart(const Candidates& c, std::int64_t chunks, std::int64_t* next, const GroundTruth& gt, bool outside,
                          float min_union, float limit, std::int32_t* position);
// IoUs of n ground truths with a box, n a multiple of kChunk.
void row_ious(std::int64_t n, const Rows& r, std::int64_t first, const Box& box, float min_union, float* iou);
// In which of n ground truths one candidate lies; returns how many.
std::int64_t rows_around(std::int64_t n, const Rows& r, std::int64_t first, float x, float y, float reach, std::int32_t* inside);

}  // namespace fastdet::ota
