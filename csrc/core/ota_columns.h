// SPDX-License-Identifier: Apache-2.0
// Dynamic-k matching on the CPU: the memory, per image structures of arrays in the workspace, and the loops over them that are
// worth vector code. Candidates are handled in chunks of 16 with corners around what a chunk holds, so that a ground truth looks
// only into chunks it can meet.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ota.h"

namespace fastdet::ota {

constexpr std::int64_t kChunk = 16;
constexpr std::int64_t kChunksAtOnce = 128;  // listed on the stack

// Candidates of one image, rising by index, filled up to whole chunks with such as no ground truth takes. In the workspace.
struct Candidates {
  std::int32_t *index, *source;  // position among candidates; prior
  float *x1, *y1, *x2, *y2;      // decoded box
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

// Kinds of pairs of a ground truth with candidates.
struct Kind {
  bool inside, overlapping;
};

// Pairs gathered for their cost, on the stack.
struct Pairs {
  std::int64_t count = 0;
  std::int32_t position[kTile];  // of the candidate, or of the ground truth
  double class_sum[kTile];
  float score[kTile], factor[kTile], iou[kTile], cost[kTile];
};

// Which of kChunk points lie in the box or the centre window of any of the `count` rows.
void reach_points(const Rows& rows, std::int64_t count, const float* x, const float* y, const float* reach,
                  std::int32_t* reached);
// Corners around the chunks of columns; low and high are the same columns for points.
void fill_hulls(std::int64_t chunks, const float* low_x, const float* low_y, const float* high_x, const float* high_y,
                const Hulls& hulls);
// Lists those of the chunks [first, last) whose corners meet a box; returns how many. No other chunk holds what overlaps the box
// or lies strictly in it.
std::int64_t meeting_chunks(const Hulls& hulls, std::int64_t first, std::int64_t last, const Box& box, std::int32_t* list);
// IoUs of n chunks with a ground truth, and the largest of each chunk.
void chunk_ious(const Candidates& c, std::int64_t n, const std::int32_t* chunks, const GroundTruth& gt, float min_union,
                float* iou, float* largest);
// Candidates of chunks[*next], ... that make a pair of the kind and have floor <= limit: position and IoU, until kTile could be
// exceeded. Returns how many; *next moves on.
std::int64_t select_pairs(const Candidates& c, std::int64_t n, const std::int32_t* chunks, std::int64_t* next,
                          const GroundTruth& gt, bool all_inside, Kind kind, float min_union, float limit, std::int32_t* position,
                          float* iou);
// In which of n ground truths one candidate lies; returns how many.
std::int64_t rows_around(std::int64_t n, const Rows& r, std::int64_t first, float x, float y, float reach, std::int32_t* inside);

}  // namespace fastdet::ota
