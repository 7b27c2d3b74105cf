// SPDX-License-Identifier: Apache-2.0
// First half of dynamic-k matching on the CPU: which ground truths can match, which priors are candidates.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dispatch.h"
#include "core/ota_passes.h"

namespace fastdet::ota {
namespace {

// Points `step` and radii `stride_step` numbers apart; the two of a point lie `across` apart.
FD_HD void fill_points(std::int64_t n, const float* points, std::int64_t step, std::int64_t across, const float* strides,
                       std::int64_t stride_step, float radius, Points* to) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float stride = strides[i * stride_step], x = points[i * step], y = points[i * step + across];
    const bool finite = is_finite(x) & is_finite(y) & is_finite(stride);
    // NaN is never reached.
    to->x[i] = finite ? x : NAN;
    to->y[i] = finite ? y : NAN;
    to->reach[i] = finite ? radius * stride : NAN;
  }
}

FD_TARGET_CLONES
void load_points(const OtaParams& p, std::int64_t first, std::int64_t n, Points* to) {
  const std::int64_t step = p.points.stride[0], across = p.points.stride[1], stride_step = p.strides.stride[0];
  const float *points = p.points.as<const float>() + first * step, *strides = p.strides.as<const float>() + first * stride_step;
  if (step == 2 && across == 1 && stride_step == 1) {
    fill_points(n, points, 2, 1, strides, 1, p.center_radius, to);
  } else {
    fill_points(n, points, step, across, strides, stride_step, p.center_radius, to);
  }
  for (std::int64_t i = n; i % kChunk != 0; ++i) to->x[i] = to->y[i] = to->reach[i] = NAN;
}

// Writes candidates from `at` on: those of n positions from `first` on, less than kTile, whose boxes are finite. x, y, reach are
// of the tile. Returns how many.
template <typename T>
std::int64_t write_candidates(const OtaParams& p, std::int64_t b, std::int64_t first, std::int64_t n,
                              const std::int32_t* position, const std::int32_t* source, const Candidates& c, std::int64_t at) {
  const std::int64_t start = at, step = p.boxes.stride[1];
  const T* boxes = p.boxes.as<const T>() + b * p.boxes.stride[0];
  if (p.listed) {
    for (std::int64_t i = 0; i < n; ++i) __builtin_prefetch(boxes + source[i] * step);  // they lie anywhere in memory
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const Box box = load_box(boxes + source[i] * step, p.boxes.stride[2]);
    c.index[at] = static_cast<std::int32_t>(first) + position[i];
    c.source[at] = source[i];
    c.x1[at] = box.x1, c.y1[at] = box.y1, c.x2[at] = box.x2, c.y2[at] = box.y2;
    at += box_finite(box) ? 1 : 0;
  }
  return at - start;
}

}  // namespace

void collect_rows(const OtaParams& p, std::int64_t b) {
  const Image image = image_at(p, b);
  const Rows& r = image.rows;
  std::int64_t count = 0;
  const std::int64_t rows = load_count(p.gt_count, b, p.rows());
  for (std::int64_t row = 0; row < rows; ++row) {
    GroundTruth gt;
    if (!load_ground_truth(p, b, row, &gt)) continue;
    r.row[count] = static_cast<std::int32_t>(row);
    r.label[count] = gt.label;
    r.x1[count] = gt.box.x1, r.y1[count] = gt.box.y1, r.x2[count] = gt.box.x2, r.y2[count] = gt.box.y2;
    r.center_x[count] = gt.center_x, r.center_y[count] = gt.center_y;
    ++count;
  }
  image.count[1] = count;
  for (std::int64_t g = count; g % kChunk != 0; ++g) {
    r.x1[g] = r.y1[g] = r.x2[g] = r.y2[g] = r.center_x[g] = r.center_y[g] = NAN;
  }
}

std::int64_t collect_tile(const OtaParams& p, std::int64_t b, const Image& image, std::int64_t tile, std::int64_t at) {
  const std::int64_t first = tile * kTile, n = std::min(kTile, p.priors() - first);
  if (image.count[1] == 0) return 0;
  Points points;
  std::int32_t position[kTile + kChunk], source[kTile + kChunk], some[kTile / kChunk];
  std::int64_t hits = 0;
  if (p.listed) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t prior = source_of(p, b, first + i);
      position[hits] = static_cast<std::int32_t>(i);
      source[hits] = static_cast<std::int32_t>(prior);
      hits += prior >= 0 ? 1 : 0;
    }
  } else {
    load_points(p, first, n, &points);
    reach_points(image.rows, image.count[1], ceil_div(n, kChunk), &points, some);
    for (std::int64_t begin = 0; begin < n; begin += kChunk) {
      for (std::int64_t i = begin; some[begin / kChunk] != 0 && i < begin + kChunk; ++i) {
        position[hits] = static_cast<std::int32_t>(i);
        source[hits] = static_cast<std::int32_t>(first + i);
        hits += points.reached[i];
      }
    }
  }
  const Candidates& c = image.candidates;
  const std::int64_t count = dispatch_float(p.boxes.dtype, [&](auto tag) {
    return write_candidates<typename decltype(tag)::type>(p, b, first, hits, position, source, c, at);
  });
  if (p.listed) {
    for (float* column : {c.x, c.y, c.reach}) std::fill(column + at, column + at + count, 0.0f);
    return count;
  }
  for (std::int64_t i = at; i < at + count; ++i) {
    const std::int64_t from = c.index[i] - first;
    c.x[i] = points.x[from];
    c.y[i] = points.y[from];
    c.reach[i] = points.reach[from];
  }
  return count;
}

void compact(const OtaParams& p, const Image& image) {
  const Candidates& c = image.candidates;
  std::int64_t total = 0;
  for (std::int64_t tile = 0; tile < ceil_div(p.priors(), kTile); ++tile) {
    const std::int64_t from = tile * kTile, n = image.tile_count[tile];
    if (from != total) {
      std::copy(c.index + from, c.index + from + n, c.index + total);
      std::copy(c.source + from, c.source + from + n, c.source + total);
      for (float* column : {c.x1, c.y1, c.x2, c.y2, c.x, c.y, c.reach})
        std::copy(column + from, column + from + n, column + total);
    }
    total += n;
  }
  finish_candidates(image, total);
}

void finish_candidates(const Image& image, std::int64_t total) {
  const Candidates& c = image.candidates;
  const std::int64_t chunks = ceil_div(total, kChunk);
  const float unknown = -std::numeric_limits<float>::infinity();
  std::fill(c.floor, c.floor + total, unknown);
  for (std::int64_t i = total; i < chunks * kChunk; ++i) {
    c.x1[i] = c.y1[i] = c.x2[i] = c.y2[i] = 0.0f;  // an IoU of 0 with everything
    c.x[i] = c.y[i] = c.reach[i] = NAN;
    c.floor[i] = -unknown;
  }
  fill_areas(chunks * kChunk, c);
  fill_hulls(chunks, c.x1, c.y1, c.x2, c.y2, image.boxes);
  fill_hulls(chunks, c.x, c.y, c.x, c.y, image.points);
  image.count[0] = total;
}

}  // namespace fastdet::ota
