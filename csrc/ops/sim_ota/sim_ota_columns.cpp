// SPDX-License-Identifier: Apache-2.0
#include "ops/sim_ota/sim_ota_columns.h"

#include <algorithm>

#include "ops/sim_ota/sim_ota_layout.h"

namespace fastdet {
namespace sim_ota {
namespace {

std::size_t carve(const SimOtaParams& p, void* base, Image* image) {
  const std::int64_t a = p.priors(), m = p.rows();
  Workspace workspace(base);
  workspace.take(&image->tile_count, ceil_div(a, kTile));
  workspace.take(&image->count, 2);
  Candidates& c = image->candidates;
  workspace.take(&c.class_sum, a);
  workspace.take(&c.index, a);
  workspace.take(&c.source, a);
  for (float** column : {&c.x1, &c.y1, &c.x2, &c.y2, &c.x, &c.y, &c.reach, &c.objectness}) workspace.take(column, a);
  for (Hull** hulls : {&image->boxes, &image->points}) workspace.take(hulls, ceil_div(a, kTile));
  Rows& r = image->rows;
  workspace.take(&r.row, m);
  workspace.take(&r.label, m);
  for (float** column : {&r.x1, &r.y1, &r.x2, &r.y2, &r.center_x, &r.center_y}) workspace.take(column, m);
  workspace.take(&image->chosen, m * kept_topk(p));
  workspace.take(&image->chosen_count, m);
  workspace.take(&image->owner, a);
  return workspace.used();
}

}  // namespace

std::int64_t kept_topk(const SimOtaParams& p) { return std::min<std::int64_t>(p.topk, p.priors()); }

Image image_at(const SimOtaParams& p, std::int64_t b) {
  Image image;
  const std::size_t bytes = carve(p, nullptr, &image);
  carve(p, static_cast<char*>(p.workspace) + static_cast<std::size_t>(b) * bytes, &image);
  return image;
}

FD_TARGET_CLONES
void mark_reached(std::int64_t n, const float* FD_RESTRICT x, const float* FD_RESTRICT y, const float* FD_RESTRICT reach,
                  const GroundTruth& gt, std::int32_t* FD_RESTRICT reached) {
  const GroundTruth row = gt;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool hit = in_box(x[i], y[i], row.box) | in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
    reached[i] |= static_cast<std::int32_t>(hit);
  }
}

FD_TARGET_CLONES
void ordinary_rests(std::int64_t rows, std::int64_t width, const float* FD_RESTRICT logits, const float* FD_RESTRICT objectness,
                    float* FD_RESTRICT rests, std::int32_t* FD_RESTRICT farthest) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const float *from = logits + row * width, factor = objectness[row];
    float* to = rests + row * width;
    std::int32_t most = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int32_t distance = bit_cast<std::int32_t>(from[i] - kOrdinaryMiddle) & 0x7fffffff;
      most = distance > most ? distance : most;
      to[i] = 1.0f - square_root(factor * (1.0f / (1.0f + exp_in_range(-from[i]))));
    }
    farthest[row] = most;
  }
}

FD_TARGET_CLONES
void all_rests(std::int64_t n, const float* FD_RESTRICT logits, float objectness, float* FD_RESTRICT rests) {
  for (std::int64_t i = 0; i < n; ++i) rests[i] = score_rest(logits[i], objectness);
}

FD_TARGET_CLONES
void add_terms(std::int64_t rows, std::int64_t width, const float* FD_RESTRICT rests, float* FD_RESTRICT products,
               double* FD_RESTRICT lanes) {
  constexpr std::int64_t wide = kLanes * kFactors;
  const std::int64_t groups = ceil_div(width, wide);
  for (std::int64_t i = 0; i < rows * groups; ++i) {
    const std::int64_t first = i % groups * wide, last = std::min(first + wide, width);
    const float* from = rests + i / groups * width;
    float product[kLanes];
    for (int j = 0; j < kLanes; ++j) product[j] = kProductStart;
    for (std::int64_t c = first; c < last; c += kLanes) {
      for (int j = 0; j < kLanes; ++j) product[j] *= from[c + j];
    }
    for (int j = 0; j < kLanes; ++j) products[i * kLanes + j] = product[j];
  }
  for (std::int64_t i = 0; i < rows * groups * kLanes; ++i) products[i] = product_term(products[i]);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < groups; ++i) {
      for (int j = 0; j < kLanes; ++j) {
        lanes[row * kLanes + j] += static_cast<double>(products[(row * groups + i) * kLanes + j]);
      }
    }
  }
}

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

namespace {

FD_TARGET_CLONES
void cost_loop(std::int64_t n, const double* FD_RESTRICT class_sum, const float* FD_RESTRICT score,
               const float* FD_RESTRICT objectness, const float* FD_RESTRICT iou, float class_weight, float iou_weight,
               float* FD_RESTRICT cost) {
  for (std::int64_t i = 0; i < n; ++i) {
    cost[i] = pair_cost(class_sum[i], joint_score(score[i], objectness[i]), iou[i], class_weight, iou_weight);
  }
}

}  // namespace

void pair_costs(Pairs* pairs, float class_weight, float iou_weight) {
  cost_loop(pairs->count, pairs->class_sum, pairs->score, pairs->objectness, pairs->iou, class_weight, iou_weight, pairs->cost);
}

}  // namespace sim_ota

std::size_t sim_ota_cpu_workspace_bytes(const SimOtaParams& p) {
  sim_ota::Image image;
  return sim_ota::carve(p, nullptr, &image) * static_cast<std::size_t>(p.images());
}

}  // namespace fastdet
