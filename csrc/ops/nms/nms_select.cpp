// SPDX-License-Identifier: Apache-2.0
#include "ops/nms/nms_select.h"

#include <algorithm>

#include "core/dispatch.h"
#include "ops/nms/nms_math.h"

namespace fastdet {
namespace {

constexpr std::int64_t kTile = 64;

// Score keys of `count` elements `stride` apart. With a constant stride of 1 the loop becomes vector code.
template <typename T>
FD_HD void keys_of(const T* scores, std::int64_t stride, std::int64_t count, std::uint32_t* out) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = score_key(to_float(scores[i]));
  } else {
    for (std::int64_t i = 0; i < count; ++i) out[i] = score_key(to_float(scores[i * stride]));
  }
}

struct Scan {
  const TensorView* boxes;
  const TensorView* scores;
  std::int64_t image, anchors, columns;
  std::uint32_t threshold;
  std::uint64_t* keys;
  std::int32_t* labels;
};

bool anchor_finite(const Scan& scan, std::int64_t anchor) {
  const TensorView& boxes = *scan.boxes;
  const std::int64_t at = scan.image * boxes.stride[0] + anchor * boxes.stride[1];
  return dispatch_float(boxes.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return box_finite(load_box(boxes.as<const T>() + at, boxes.stride[2]));
  });
}

// Every (anchor, column) pair is a candidate of its own. Walks along whichever of the two is contiguous.
template <typename T>
FD_TARGET_CLONES std::int64_t collect_pairs(const Scan& scan, const T* scores) {
  const std::int64_t step_n = scan.scores->stride[1], step_c = scan.scores->stride[2];
  const bool along_columns = step_c == 1 || step_n != 1;
  const std::int64_t outer = along_columns ? scan.anchors : scan.columns, inner = along_columns ? scan.columns : scan.anchors;
  const std::int64_t outer_step = along_columns ? step_n : step_c, inner_step = along_columns ? step_c : step_n;
  std::int64_t count = 0;
  std::uint32_t tile[kTile];
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t begin = 0; begin < inner; begin += kTile) {
      const std::int64_t size = std::min(kTile, inner - begin);
      keys_of(scores + i * outer_step + begin * inner_step, inner_step, size, tile);
      std::uint32_t most = 0;
      for (std::int64_t j = 0; j < size; ++j) most = std::max(most, tile[j]);
      if (most <= scan.threshold) continue;
      for (std::int64_t j = 0; j < size; ++j) {
        if (tile[j] <= scan.threshold) continue;
        const std::int64_t anchor = along_columns ? i : begin + j, column = along_columns ? begin + j : i;
        if (anchor_finite(scan, anchor)) {
          scan.keys[count++] = candidate_key(tile[j], static_cast<std::uint32_t>(anchor * scan.columns + column));
        }
      }
    }
  }
  return count;
}

// One candidate per anchor: its best column, the lowest one among equals.
template <typename T>
FD_TARGET_CLONES std::int64_t collect_best(const Scan& scan, const T* scores) {
  const std::int64_t step_n = scan.scores->stride[1], step_c = scan.scores->stride[2];
  std::int64_t count = 0;
  std::uint32_t tile[kTile], best[kTile];
  std::int32_t column[kTile];
  for (std::int64_t begin = 0; begin < scan.anchors; begin += kTile) {
    const std::int64_t size = std::min(kTile, scan.anchors - begin);
    const T* first = scores + begin * step_n;
    std::fill(best, best + size, 0u);
    std::fill(column, column + size, 0);
    if (step_c == 1 && step_n != 1) {
      for (std::int64_t i = 0; i < size; ++i) {
        for (std::int64_t c = 0; c < scan.columns; c += kTile) {
          const std::int64_t width = std::min(kTile, scan.columns - c);
          keys_of(first + i * step_n + c, 1, width, tile);
          std::uint32_t most = 0;
          for (std::int64_t j = 0; j < width; ++j) most = std::max(most, tile[j]);
          if (most <= best[i] || most <= scan.threshold) continue;
          best[i] = most;
          column[i] = static_cast<std::int32_t>(c + (std::find(tile, tile + width, most) - tile));
        }
      }
    } else {
      for (std::int64_t c = 0; c < scan.columns; ++c) {
        keys_of(first + c * step_c, step_n, size, tile);
        for (std::int64_t i = 0; i < size; ++i) {
          const bool better = tile[i] > best[i];
          column[i] = better ? static_cast<std::int32_t>(c) : column[i];
          best[i] = better ? tile[i] : best[i];
        }
      }
    }
    for (std::int64_t i = 0; i < size; ++i) {
      scan.labels[begin + i] = column[i];
      if (best[i] > scan.threshold && anchor_finite(scan, begin + i)) {
        scan.keys[count++] = candidate_key(best[i], static_cast<std::uint32_t>(begin + i));
      }
    }
  }
  return count;
}

}  // namespace

std::int64_t nms_collect(const NmsParams& p, std::int64_t image, std::uint64_t* keys, std::int32_t* labels) {
  const Scan scan{&p.boxes, &p.scores, image, p.anchors(), p.columns(), threshold_key(p.score_threshold), keys, labels};
  return dispatch_float(p.scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* scores = p.scores.as<const T>() + image * p.scores.stride[0];
    return p.multi_label ? collect_pairs(scan, scores) : collect_best(scan, scores);
  });
}

}  // namespace fastdet
