// SPDX-License-Identifier: Apache-2.0
// The CPU path's memory: per image, structures of arrays in the workspace, and the loops over them that are worth vector code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/workspace.h"
#include "ops/task_aligned/task_aligned.h"
#include "ops/task_aligned/task_aligned_math.h"

namespace fastdet::task_aligned {

constexpr std::int64_t kTile = 64;  // anchors that share a hull and are handled at once
constexpr int kMaxFields = 11, kMaxNumbers = 5;

// The same for all images: points as columns, and the corners that hold the points of each tile.
struct Points {
  float *x, *y;  // [A]
  Box* hull;     // [ceil(A / kTile)]
};

// Everything the passes share about one image.
struct Image {
  float* items;                       // [fields, A] prepared boxes
  std::int32_t* row;                  // [M] ground truths that can match, rising
  std::int32_t* count;                // [1] how many
  Box* bounds;                        // [M] of their regions
  std::int32_t* chosen;               // [M, topk] anchors, by position in `row`
  std::int32_t* chosen_count;         // [M]
  std::int32_t* owner;                // [A] position in `row`, kUnmatched or kContested
  float *metric, *overlap;            // [A] with the owner
  std::int32_t* held_start;           // [M + 1] where in `held` the anchors of a ground truth begin
  std::int32_t* held;                 // [A]
  std::uint64_t* last_key;            // [M] of the last anchor that a ground truth keeps
  float *best_metric, *best_overlap;  // [M]
};

std::int64_t kept_topk(const TaskAlignedParams& params);
Points points_at(const TaskAlignedParams& params);
// The part of the workspace that belongs to one image.
Image image_at(const TaskAlignedParams& params, std::int64_t image);

// Calls visit(KindTag<kind>{}) for the three kinds there are.
template <typename Visit>
FD_HD void for_kind(IouKind kind, const Visit& visit) {
  switch (kind) {
    case IouKind::kIou: return visit(KindTag<IouKind::kIou>{});
    case IouKind::kProb: return visit(KindTag<IouKind::kProb>{});
    default: return visit(KindTag<IouKind::kCiou>{});
  }
}

// Numbers of n boxes, columns of kTile, to prepared items, columns `pitch` apart.
void prepare_items(IouKind kind, const IouForm<float>& form, std::int64_t n, const float* numbers, float* items,
                   std::int64_t pitch);
// Which of n points lie in a region; returns how many.
std::int64_t points_inside(bool rotated, std::int64_t n, const float* x, const float* y, const Region& region,
                           std::int32_t* inside);
// Overlaps of n items with one, given by its fields; not below 0.
void pair_overlaps(IouKind kind, const IouForm<float>& form, const float* one, std::int64_t n, const float* items,
                   std::int64_t pitch, float* overlaps);
// Metrics of n pairs.
void pair_metrics(const TaskAlignedParams& params, std::int64_t n, const float* scores, const float* overlaps, float* metrics);

}  // namespace fastdet::task_aligned
