// SPDX-License-Identifier: Apache-2.0
#include "core/ota_columns.h"

#include <algorithm>
#include <cmath>

#include "core/ota_cpu.h"
#include "core/workspace.h"

namespace fastdet::ota {
namespace {

std::size_t carve(const OtaParams& p, void* base, Image* image) {
  const std::int64_t chunks = ceil_div(p.priors(), kChunk), a = chunks * kChunk, m = ceil_div(p.rows(), kChunk) * kChunk;
  Workspace workspace(base);
  workspace.take(&image->tile_count, ceil_div(a, kTile));
  workspace.take(&image->count, 2);
  Candidates& c = image->candidates;
  workspace.take(&c.class_sum, a);
  for (std::int32_t** column : {&c.index, &c.source}) workspace.take(column, a);
  for (float** column : {&c.x1, &c.y1, &c.x2, &c.y2, &c.x, &c.y, &c.reach, &c.factor, &c.floor}) workspace.take(column, a);
  for (Hulls* hulls : {&image->boxes, &image->points}) {
    for (float** column : {&hulls->x1, &hulls->y1, &hulls->x2, &hulls->y2}) workspace.take(column, chunks);
  }
  Rows& r = image->rows;
  for (std::int32_t** column : {&r.row, &r.label}) workspace.take(column, m);
  for (float** column : {&r.x1, &r.y1, &r.x2, &r.y2, &r.center_x, &r.center_y}) workspace.take(column, m);
  workspace.take(&image->chosen, p.rows() * kept_topk(p));
  workspace.take(&image->chosen_count, p.rows());
  workspace.take(&image->owner, a);
  return workspace.used();
}

}  // namespace

std::int64_t kept_topk(const OtaParams& p) { return std::min<std::int64_t>(p.topk, p.priors()); }

Image image_at(const OtaParams& p, std::int64_t b) {
  Image image;
  const std::size_t bytes = carve(p, nullptr, &image);
  carve(p, static_cast<char*>(p.workspace) + static_cast<std::size_t>(b) * bytes, &image);
  return image;
}

std::size_t cpu_workspace_bytes(const OtaParams& p) {
  Image image;
  return carve(p, nullptr, &image) * static_cast<std::size_t>(p.images());
}

FD_TARGET_CLONES
void reach_points(const Rows& r, std::int64_t count, const float* FD_RESTRICT x, const float* FD_RESTRICT y,
                  const float* FD_RESTRICT reach, std::int32_t* FD_RESTRICT reached) {
  float x1 = INFINITY, y1 = INFINITY, x2 = -INFINITY, y2 = -INFINITY, farthest = 0.0f;
  for (int i = 0; i < kChunk; ++i) {
    x1 = smaller(x1, x[i]), y1 = smaller(y1, y[i]), x2 = larger(x2, x[i]), y2 = larger(y2, y[i]);
    farthest = larger(farthest, reach[i]);
    reached[i] = 0;
  }
  for (std::int64_t first = 0; first < count; first += kChunk) {
    std::int32_t near[kChunk], any = 0;
    for (int i = 0; i < kChunk; ++i) {
      const std::int64_t g = first + i;
      const bool meets = (x2 > r.x1[g]) & (y2 > r.y1[g]) & (r.x2[g] > x1) & (r.y2[g] > y1);
      const bool around = (x1 - r.center_x[g] < farthest) & (r.center_x[g] - x2 < farthest) & (y1 - r.center_y[g] < farthest) &
                          (r.center_y[g] - y2 < farthest);
      near[i] = static_cast<std::int32_t>(meets | around);
      any |= near[i];
    }
    if (any == 0) continue;
    for (int k = 0; k < kChunk; ++k) {
      if (near[k] == 0) continue;
      const std::int64_t g = first + k;
      const Box box = {r.x1[g], r.y1[g], r.x2[g], r.y2[g]};
      const float center_x = r.center_x[g], center_y = r.center_y[g];
      for (int i = 0; i < kChunk; ++i) {
        const bool hit = in_box(x[i], y[i], box) | in_center(x[i], y[i], reach[i], center_x, center_y);
        reached[i] |= static_cast<std::int32_t>(hit);
      }
    }
    std::int32_t all = 1;
    for (int i = 0; i < kChunk; ++i) all &= reached[i];
    if (all != 0) return;
  }
}

FD_TARGET_CLONES
void fill_hulls(std::int64_t chunks, const float* FD_RESTRICT low_x, const float* FD_RESTRICT low_y, const float* high_x,
                const float* high_y, const Hulls& hulls) {
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    float x1 = INFINITY, y1 = INFINITY, x2 = -INFINITY, y2 = -INFINITY;
    for (std::int64_t i = chunk * kChunk; i < (chunk + 1) * kChunk; ++i) {
      x1 = smaller(x1, low_x[i]), y1 = smaller(y1, low_y[i]), x2 = larger(x2, high_x[i]), y2 = larger(y2, high_y[i]);
    }
    hulls.x1[chunk] = x1, hulls.y1[chunk] = y1, hulls.x2[chunk] = x2, hulls.y2[chunk] = y2;
  }
}

FD_TARGET_CLONES
std::int64_t meeting_chunks(const Hulls& h, std::int64_t first, std::int64_t last, const Box& given,
                            std::int32_t* FD_RESTRICT list) {
  const Box box = given;
  const float *x1 = h.x1, *y1 = h.y1, *x2 = h.x2, *y2 = h.y2;
  std::int64_t count = 0;
  for (std::int64_t begin = first; begin < last; begin += kChunk) {
    const int n = static_cast<int>(std::min(kChunk, last - begin));
    std::int32_t meets[kChunk], any = 0;
    for (int i = 0; i < n; ++i) {
      const std::int64_t at = begin + i;
      meets[i] = static_cast<std::int32_t>((x2[at] > box.x1) & (y2[at] > box.y1) & (box.x2 > x1[at]) & (box.y2 > y1[at]));
      any |= meets[i];
    }
    if (any == 0) continue;
    for (int i = 0; i < n; ++i) {
      list[count] = static_cast<std::int32_t>(begin + i);
      count += meets[i];
    }
  }
  return count;
}

FD_TARGET_CLONES
void chunk_ious(const Candidates& c, std::int64_t n, const std::int32_t* FD_RESTRICT chunks, const GroundTruth& gt,
                float min_union, float* FD_RESTRICT iou, float* FD_RESTRICT largest) {
  const GroundTruth row = gt;
  for (std::int64_t k = 0; k < n; ++k) {
    const std::int64_t first = static_cast<std::int64_t>(chunks[k]) * kChunk;
    const float *x1 = c.x1 + first, *y1 = c.y1 + first, *x2 = c.x2 + first, *y2 = c.y2 + first;
    float* to = iou + k * kChunk;
    std::int32_t most = 0;  // IoUs are not negative, so their bits order as they do
    for (int i = 0; i < kChunk; ++i) {
      to[i] = pair_iou({x1[i], y1[i], x2[i], y2[i]}, row.box, row.area, min_union);
      const std::int32_t bits = bit_cast<std::int32_t>(to[i]);
      most = bits > most ? bits : most;
    }
    largest[k] = bit_cast<float>(most);
  }
}

FD_TARGET_CLONES
std::int64_t select_pairs(const Candidates& c, std::int64_t n, const std::int32_t* FD_RESTRICT chunks, std::int64_t* next,
                          const GroundTruth& gt, bool all_inside, Kind kind, float min_union, float limit,
                          std::int32_t* FD_RESTRICT position, float* FD_RESTRICT iou) {
  const GroundTruth row = gt;
  const std::int32_t wants_inside = kind.inside ? 1 : 0, wants_overlapping = kind.overlapping ? 1 : 0,
                     everywhere = all_inside ? 1 : 0;
  std::int64_t count = 0, k = *next;
  for (; k < n && count <= kTile - kChunk; ++k) {
    const std::int64_t first = static_cast<std::int64_t>(chunks[k]) * kChunk;
    const float *x1 = c.x1 + first, *y1 = c.y1 + first, *x2 = c.x2 + first, *y2 = c.y2 + first;
    const float *x = c.x + first, *y = c.y + first, *reach = c.reach + first, *floor = c.floor + first;
    float value[kChunk];
    std::int32_t taken[kChunk], any = 0;
    for (int i = 0; i < kChunk; ++i) {
      value[i] = pair_iou({x1[i], y1[i], x2[i], y2[i]}, row.box, row.area, min_union);
      const bool both = in_box(x[i], y[i], row.box) & in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
      const std::int32_t inside = static_cast<std::int32_t>(both) | everywhere;
      const std::int32_t overlapping = static_cast<std::int32_t>(value[i] > 0.0f);
      taken[i] = static_cast<std::int32_t>((inside == wants_inside) & (overlapping == wants_overlapping) & (floor[i] <= limit));
      any |= taken[i];
    }
    if (any == 0) continue;
    for (int i = 0; i < kChunk; ++i) {
      position[count] = static_cast<std::int32_t>(first + i);
      iou[count] = value[i];
      count += taken[i];
    }
  }
  *next = k;
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

}  // namespace fastdet::ota
