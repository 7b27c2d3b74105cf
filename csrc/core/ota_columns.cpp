// SPDX-License-Identifier: Apache-2.0
#include "core/ota_columns.h"

#include <algorithm>
#include <cmath>

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
  for (float** column : {&c.x1, &c.y1, &c.x2, &c.y2, &c.area, &c.x, &c.y, &c.reach, &c.factor, &c.floor})
    workspace.take(column, a);
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
void reach_points(const Rows& r, std::int64_t count, std::int64_t chunks, Points* points, std::int32_t* FD_RESTRICT some) {
  constexpr std::int64_t most = kTile / kChunk;
  float low_x[most], low_y[most], high_x[most], high_y[most], farthest[most];
  std::int32_t open[most];  // not all of the chunk is reached
  for (std::int64_t k = 0; k < most; ++k) {
    const float *x = points->x + k * kChunk, *y = points->y + k * kChunk, *reach = points->reach + k * kChunk;
    float x1 = INFINITY, y1 = INFINITY, x2 = -INFINITY, y2 = -INFINITY, far = 0.0f;
    for (std::int64_t i = 0; k < chunks && i < kChunk; ++i) {
      x1 = smaller(x1, x[i]), y1 = smaller(y1, y[i]), x2 = larger(x2, x[i]), y2 = larger(y2, y[i]), far = larger(far, reach[i]);
    }
    low_x[k] = x1, low_y[k] = y1, high_x[k] = x2, high_y[k] = y2, farthest[k] = far;
    open[k] = 1, some[k] = 0;
  }
  float x1 = INFINITY, y1 = INFINITY, x2 = -INFINITY, y2 = -INFINITY, far = 0.0f;
  for (int k = 0; k < most; ++k) {
    x1 = smaller(x1, low_x[k]), y1 = smaller(y1, low_y[k]), x2 = larger(x2, high_x[k]), y2 = larger(y2, high_y[k]);
    far = larger(far, farthest[k]);
  }
  for (std::int64_t first = 0; first < count; first += kChunk) {
    std::int32_t near[kChunk], any = 0;
    for (int i = 0; i < kChunk; ++i) {
      const std::int64_t g = first + i;
      const bool meets = (x2 > r.x1[g]) & (y2 > r.y1[g]) & (r.x2[g] > x1) & (r.y2[g] > y1);
      const bool around =
          (x1 - r.center_x[g] < far) & (r.center_x[g] - x2 < far) & (y1 - r.center_y[g] < far) & (r.center_y[g] - y2 < far);
      near[i] = static_cast<std::int32_t>(meets | around);
      any |= near[i];
    }
    for (int i = 0; any != 0 && i < kChunk; ++i) {
      if (near[i] == 0) continue;
      const std::int64_t g = first + i;
      const Box box = {r.x1[g], r.y1[g], r.x2[g], r.y2[g]};
      const float center_x = r.center_x[g], center_y = r.center_y[g];
      std::int32_t met[most];
      for (int k = 0; k < most; ++k) {
        const bool meets = (high_x[k] > box.x1) & (high_y[k] > box.y1) & (box.x2 > low_x[k]) & (box.y2 > low_y[k]);
        const bool around = (low_x[k] - center_x < farthest[k]) & (center_x - high_x[k] < farthest[k]) &
                            (low_y[k] - center_y < farthest[k]) & (center_y - high_y[k] < farthest[k]);
        met[k] = static_cast<std::int32_t>(meets | around) & open[k];
      }
      for (std::int64_t k = 0; k < chunks; ++k) {
        if (met[k] == 0) continue;
        const float *x = points->x + k * kChunk, *y = points->y + k * kChunk, *reach = points->reach + k * kChunk;
        std::int32_t* FD_RESTRICT reached = points->reached + k * kChunk;
        std::int32_t all = 1;
        for (int j = 0; j < kChunk; ++j) {
          const bool hit = in_box(x[j], y[j], box) | in_center(x[j], y[j], reach[j], center_x, center_y);
          const std::int32_t now = (some[k] != 0 ? reached[j] : 0) | static_cast<std::int32_t>(hit);
          reached[j] = now;
          all &= now;
        }
        some[k] = 1;
        open[k] = 1 - all;
      }
    }
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
    std::int32_t meets[kChunk], any = 0, all = n == kChunk ? 1 : 0;
    for (int i = 0; i < n; ++i) {
      const std::int64_t at = begin + i;
      meets[i] = static_cast<std::int32_t>((x2[at] > box.x1) & (y2[at] > box.y1) & (box.x2 > x1[at]) & (box.y2 > y1[at]));
      any |= meets[i];
      all &= meets[i];
    }
    if (any == 0) continue;
    if (all != 0) {
      for (int i = 0; i < kChunk; ++i) list[count + i] = static_cast<std::int32_t>(begin) + i;
      count += kChunk;
      continue;
    }
    for (int i = 0; i < n; ++i) {
      list[count] = static_cast<std::int32_t>(begin + i);
      count += meets[i];
    }
  }
  return count;
}

FD_TARGET_CLONES
void fill_areas(std::int64_t n, const Candidates& c) {
  const float *x1 = c.x1, *y1 = c.y1, *x2 = c.x2, *y2 = c.y2;
  float* FD_RESTRICT area = c.area;
  for (std::int64_t i = 0; i < n; ++i) area[i] = box_area({x1[i], y1[i], x2[i], y2[i]});
}

FD_TARGET_CLONES
void fill_ious(const Candidates& c, const GroundTruth& gt, float min_union, Block* block) {
  const GroundTruth row = gt;
  float spread[kSpread] = {};
  for (std::int64_t k = 0; k < block->count; ++k) {
    const std::int64_t first = static_cast<std::int64_t>(block->chunk[k]) * kChunk;
    const float *x1 = c.x1 + first, *y1 = c.y1 + first, *x2 = c.x2 + first, *y2 = c.y2 + first, *area = c.area + first;
    float *FD_RESTRICT to = block->iou + k * kChunk, *FD_RESTRICT part = spread + k % 2 * kChunk;
    std::int32_t most = 0;  // IoUs are not negative, so their bits order as they do
    for (int i = 0; i < kChunk; ++i) {
      const float iou = pair_iou({x1[i], y1[i], x2[i], y2[i]}, area[i], row.box, row.area, min_union);
      const std::int32_t bits = bit_cast<std::int32_t>(iou);
      to[i] = iou;
      part[i] = larger(part[i], iou);
      most = bits > most ? bits : most;
    }
    block->largest[k] = bit_cast<float>(most);
  }
  std::copy(spread, spread + kSpread, block->spread);
}

FD_TARGET_CLONES
float least_of_best(const Block& block, std::int64_t k) {
  if (k > kSpread) return 0.0f;
  const float* value = block.spread;
  std::int32_t rank[kSpread] = {}, best = 0;  // values from here on
  for (int j = 0; j < kSpread; ++j) {
    const float other = value[j];
    for (int i = 0; i < kSpread; ++i) rank[i] += other >= value[i] ? 1 : 0;
  }
  const auto wanted = static_cast<std::int32_t>(k);
  for (int i = 0; i < kSpread; ++i) {
    const std::int32_t bits = rank[i] >= wanted ? bit_cast<std::int32_t>(value[i]) : 0;
    best = bits > best ? bits : best;
  }
  return bit_cast<float>(best);
}

FD_TARGET_CLONES
std::int64_t select_best(const Block& block, std::int64_t* next, float least, std::int32_t* FD_RESTRICT position,
                         float* FD_RESTRICT iou) {
  const std::int32_t from = std::max(bit_cast<std::int32_t>(least), 1);
  std::int64_t count = 0, k = *next;
  for (; k < block.count && count <= kTile - kChunk; ++k) {
    if (bit_cast<std::int32_t>(block.largest[k]) < from) continue;
    const std::int32_t first = block.chunk[k] * static_cast<std::int32_t>(kChunk);
    const float* value = block.iou + k * kChunk;
    for (int i = 0; i < kChunk; ++i) {
      position[count] = first + i;
      iou[count] = value[i];
      count += bit_cast<std::int32_t>(value[i]) >= from ? 1 : 0;
    }
  }
  *next = k;
  return count;
}

FD_TARGET_CLONES
std::int64_t select_inside(const Candidates& c, std::int64_t n, const std::int32_t* FD_RESTRICT chunks, std::int64_t* next,
                           const GroundTruth& gt, float min_union, float limit, std::int32_t* FD_RESTRICT position,
                           float* FD_RESTRICT iou) {
  const GroundTruth row = gt;
  std::int64_t count = 0, k = *next;
  for (; k < n && count <= kTile - kChunk; ++k) {
    const std::int64_t first = static_cast<std::int64_t>(chunks[k]) * kChunk;
    const float *x1 = c.x1 + first, *y1 = c.y1 + first, *x2 = c.x2 + first, *y2 = c.y2 + first, *area = c.area + first;
    const float *x = c.x + first, *y = c.y + first, *reach = c.reach + first, *floor = c.floor + first;
    std::int32_t taken[kChunk], any = 0;
    for (int i = 0; i < kChunk; ++i) {
      const bool both = in_box(x[i], y[i], row.box) & in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
      taken[i] = static_cast<std::int32_t>(both);
      any |= taken[i];
    }
    if (any == 0) continue;
    float value[kChunk];
    for (int i = 0; i < kChunk; ++i) {
      value[i] = pair_iou({x1[i], y1[i], x2[i], y2[i]}, area[i], row.box, row.area, min_union);
      taken[i] &= static_cast<std::int32_t>((value[i] > 0.0f) | (floor[i] <= limit));
    }
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
std::int64_t select_overlapping(const Candidates& c, const Block& block, std::int64_t* next, const GroundTruth& gt, bool outside,
                                const Ceiling& ceiling, std::int32_t* FD_RESTRICT position, float* FD_RESTRICT iou) {
  // The bits of a float v, as a number, are 2^23 (127 + log2(v)) less up to 0.0861 of that: -log(v) is at least high - slope
  // bits.
  constexpr float high = (127.0f - 0.0861f) * 0.69314718f, slope = 0.69314718f / 8388608.0f;
  const GroundTruth row = gt;
  const Ceiling most = ceiling;
  const std::int32_t everywhere = outside ? 0 : 1;
  std::int64_t count = 0, k = *next;
  for (; k < block.count && count <= kTile - kChunk; ++k) {
    if (block.largest[k] == 0.0f) continue;
    const std::int64_t first = static_cast<std::int64_t>(block.chunk[k]) * kChunk;
    const float *value = block.iou + k * kChunk, *floor = c.floor + first;
    const float *x = c.x + first, *y = c.y + first, *reach = c.reach + first;
    std::int32_t taken[kChunk], any = 0;
    for (int i = 0; i < kChunk; ++i) {
      const bool both = in_box(x[i], y[i], row.box) & in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
      const float log_cost = high - slope * static_cast<float>(bit_cast<std::int32_t>(value[i] + most.iou_offset));
      const bool above = most.class_weight * floor[i] + most.iou_weight * log_cost > most.cost;  // not where floor is unknown
      taken[i] = static_cast<std::int32_t>((value[i] > 0.0f) & !above) & (static_cast<std::int32_t>(!both) | everywhere);
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
std::int64_t select_apart(const Candidates& c, std::int64_t chunks, std::int64_t* next, const GroundTruth& gt, bool outside,
                          float min_union, float limit, std::int32_t* FD_RESTRICT position) {
  const GroundTruth row = gt;
  const std::int32_t everywhere = outside ? 0 : 1;
  std::int64_t count = 0, k = *next;
  for (; k < chunks && count <= kTile - kChunk; ++k) {
    const std::int64_t first = k * kChunk;
    const float *x1 = c.x1 + first, *y1 = c.y1 + first, *x2 = c.x2 + first, *y2 = c.y2 + first, *area = c.area + first;
    const float *x = c.x + first, *y = c.y + first, *reach = c.reach + first, *floor = c.floor + first;
    std::int32_t taken[kChunk], any = 0;
    for (int i = 0; i < kChunk; ++i) {
      taken[i] = static_cast<std::int32_t>(floor[i] <= limit);
      any |= taken[i];
    }
    if (any == 0) continue;
    for (int i = 0; i < kChunk; ++i) {
      const float value = pair_iou({x1[i], y1[i], x2[i], y2[i]}, area[i], row.box, row.area, min_union);
      const bool both = in_box(x[i], y[i], row.box) & in_center(x[i], y[i], reach[i], row.center_x, row.center_y);
      taken[i] &= static_cast<std::int32_t>(!(value > 0.0f)) & (static_cast<std::int32_t>(!both) | everywhere);
    }
    for (int i = 0; i < kChunk; ++i) {
      position[count] = static_cast<std::int32_t>(first + i);
      count += taken[i];
    }
  }
  *next = k;
  return count;
}

FD_TARGET_CLONES
void row_ious(std::int64_t n, const Rows& r, std::int64_t first, const Box& given, float min_union, float* FD_RESTRICT iou) {
  const float *x1 = r.x1 + first, *y1 = r.y1 + first, *x2 = r.x2 + first, *y2 = r.y2 + first;
  const Box box = given;
  const float area = box_area(box);
  for (std::int64_t i = 0; i < n; ++i) {
    const Box row = {x1[i], y1[i], x2[i], y2[i]};
    iou[i] = pair_iou(box, area, row, box_area(row), min_union);
  }
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
