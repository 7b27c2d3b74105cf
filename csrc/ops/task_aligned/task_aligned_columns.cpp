// SPDX-License-Identifier: Apache-2.0
#include "ops/task_aligned/task_aligned_columns.h"

#include <algorithm>

namespace fastdet {
namespace task_aligned {
namespace {

std::size_t carve_points(const TaskAlignedParams& p, void* base, Points* points) {
  Workspace workspace(base);
  workspace.take(&points->x, p.anchors());
  workspace.take(&points->y, p.anchors());
  workspace.take(&points->hull, ceil_div(p.anchors(), kTile));
  return workspace.used();
}

std::size_t carve(const TaskAlignedParams& p, void* base, Image* image) {
  const std::int64_t a = p.anchors(), m = p.rows();
  Workspace workspace(base);
  workspace.take(&image->items, a * (p.kind == IouKind::kProb ? kMaxFields : 6));
  workspace.take(&image->count, 1);
  workspace.take(&image->bounds, m);
  for (std::int32_t** column : {&image->row, &image->chosen_count}) workspace.take(column, m);
  workspace.take(&image->chosen, m * kept_topk(p));
  for (std::int32_t** column : {&image->owner, &image->held}) workspace.take(column, a);
  for (float** column : {&image->metric, &image->overlap}) workspace.take(column, a);
  workspace.take(&image->held_start, m + 1);
  workspace.take(&image->last_key, m);
  for (float** column : {&image->best_metric, &image->best_overlap}) workspace.take(column, m);
  return workspace.used();
}

// x^(whole + fraction) of n <= kTile values: power_of, loop by loop. Takes the values' place.
FD_HD void powers(std::int64_t n, const PowerRule& rule, float* FD_RESTRICT x, float* FD_RESTRICT power) {
  const float fraction = rule.fraction;
  if (fraction == 0.0f) {
    for (std::int64_t i = 0; i < n; ++i) power[i] = 1.0f;
  } else if (fraction == 0.5f) {
    for (std::int64_t i = 0; i < n; ++i) power[i] = square_root(x[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) power[i] = fraction_power(x[i], fraction);
  }
  for (std::int32_t whole = rule.whole; whole > 0; whole >>= 1) {
    if ((whole & 1) != 0) {
      for (std::int64_t i = 0; i < n; ++i) power[i] *= x[i];
    }
    for (std::int64_t i = 0; i < n; ++i) x[i] *= x[i];
  }
}

template <IouKind K>
FD_HD std::int64_t inside_loop(std::int64_t n, const float* FD_RESTRICT x, const float* FD_RESTRICT y, const Region& region,
                               std::int32_t* FD_RESTRICT inside) {
  const Region r = region;
  std::int32_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    inside[i] = static_cast<std::int32_t>(in_region<K>(x[i], y[i], r));
    count += inside[i];
  }
  return count;
}

}  // namespace

std::int64_t kept_topk(const TaskAlignedParams& p) { return std::min<std::int64_t>(p.topk, p.anchors()); }

Points points_at(const TaskAlignedParams& p) {
  Points points;
  carve_points(p, p.workspace, &points);
  return points;
}

Image image_at(const TaskAlignedParams& p, std::int64_t b) {
  Points points;
  Image image;
  const std::size_t shared = carve_points(p, nullptr, &points), bytes = carve(p, nullptr, &image);
  carve(p, static_cast<char*>(p.workspace) + shared + static_cast<std::size_t>(b) * bytes, &image);
  return image;
}

FD_TARGET_CLONES
void prepare_items(IouKind kind, const IouForm<float>& given, std::int64_t n, const float* FD_RESTRICT numbers,
                   float* FD_RESTRICT items, std::int64_t pitch) {
  for_kind(kind, [&](auto tag) FD_INLINE_LAMBDA {
    using M = Measure<decltype(tag)::kind, float>;
    const IouForm<float> form = given;
    for (std::int64_t i = 0; i < n; ++i) {
      float v[M::kNumbers];
      for (int k = 0; k < M::kNumbers; ++k) v[k] = numbers[k * kTile + i];
      M::put(M::item(BoxFormat::kXyxy, v, form), items, pitch, i);
    }
  });
}

FD_TARGET_CLONES
std::int64_t points_inside(bool rotated, std::int64_t n, const float* x, const float* y, const Region& region,
                           std::int32_t* inside) {
  return rotated ? inside_loop<IouKind::kProb>(n, x, y, region, inside) : inside_loop<IouKind::kIou>(n, x, y, region, inside);
}

FD_TARGET_CLONES
void pair_overlaps(IouKind kind, const IouForm<float>& given, const float* FD_RESTRICT one, std::int64_t n,
                   const float* FD_RESTRICT items, std::int64_t pitch, float* FD_RESTRICT overlaps) {
  for_kind(kind, [&](auto tag) FD_INLINE_LAMBDA {
    using M = Measure<decltype(tag)::kind, float>;
    const IouForm<float> form = given;
    const typename M::Item item = M::at(one, 1, 0);
    for (std::int64_t i = 0; i < n; ++i) overlaps[i] = positive(M::value(item, M::at(items, pitch, i), form));
  });
}

FD_TARGET_CLONES
void pair_metrics(const TaskAlignedParams& p, std::int64_t n, const float* FD_RESTRICT scores, const float* FD_RESTRICT overlaps,
                  float* FD_RESTRICT metrics) {
  float base[kTile], score_term[kTile], overlap_term[kTile];
  for (std::int64_t i = 0; i < n; ++i) base[i] = clamp_score(scores[i]);
  powers(n, p.score_power, base, score_term);
  for (std::int64_t i = 0; i < n; ++i) base[i] = overlaps[i];
  powers(n, p.overlap_power, base, overlap_term);
  for (std::int64_t i = 0; i < n; ++i) metrics[i] = metric_of(scores[i], score_term[i], overlap_term[i]);
}

}  // namespace task_aligned

std::size_t task_aligned_cpu_workspace_bytes(const TaskAlignedParams& p) {
  task_aligned::Points points;
  task_aligned::Image image;
  return task_aligned::carve_points(p, nullptr, &points) +
         task_aligned::carve(p, nullptr, &image) * static_cast<std::size_t>(p.images());
}

}  // namespace fastdet
