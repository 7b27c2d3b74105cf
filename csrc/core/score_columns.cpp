// SPDX-License-Identifier: Apache-2.0
#include "core/score_columns.h"

#include <algorithm>

#include "core/dispatch.h"

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

// One image. labels[anchor] is 1 where the box may be a candidate until a label takes the place.
struct Scan {
  const TensorView* scores;
  std::int64_t anchors, columns;
  std::uint32_t threshold;
  std::uint64_t* keys;
  std::int32_t* labels;
};

// Appends the keys of one tile that pass: anchor + j * anchor_step is the anchor of element j, its number advances by
// number_step.
FD_HD std::int64_t append_tile(const Scan& scan, const std::uint32_t* tile, std::int64_t size, std::int64_t anchor,
                               std::int64_t anchor_step, std::uint32_t number, std::uint32_t number_step, std::int64_t count) {
  std::uint32_t most = 0;
  for (std::int64_t j = 0; j < size; ++j) most = most > tile[j] ? most : tile[j];
  if (most <= scan.threshold) return count;
  for (std::int64_t j = 0; j < size; ++j) {
    scan.keys[count] = candidate_key(tile[j], number);
    count += tile[j] > scan.threshold ? scan.labels[anchor] : 0;
    anchor += anchor_step;
    number += number_step;
  }
  return count;
}

// Every (anchor, column) pair is a candidate of its own. Walks along whichever of the two is contiguous.
template <typename T>
FD_TARGET_CLONES std::int64_t collect_pairs(const Scan& scan, const T* scores) {
  const std::int64_t step_n = scan.scores->stride[1], step_c = scan.scores->stride[2];
  const auto columns = static_cast<std::uint32_t>(scan.columns);
  std::int64_t count = 0;
  std::uint32_t tile[kTile];
  if (step_c == 1 || step_n != 1) {
    for (std::int64_t n = 0; n < scan.anchors; ++n) {
      for (std::int64_t c = 0; c < scan.columns; c += kTile) {
        const std::int64_t size = std::min(kTile, scan.columns - c);
        keys_of(scores + n * step_n + c * step_c, step_c, size, tile);
        count = append_tile(scan, tile, size, n, 0, static_cast<std::uint32_t>(n) * columns + static_cast<std::uint32_t>(c), 1,
                            count);
      }
    }
    return count;
  }
  for (std::int64_t c = 0; c < scan.columns; ++c) {
    for (std::int64_t n = 0; n < scan.anchors; n += kTile) {
      const std::int64_t size = std::min(kTile, scan.anchors - n);
      keys_of(scores + n + c * step_c, 1, size, tile);
      count = append_tile(scan, tile, size, n, 1, static_cast<std::uint32_t>(n) * columns + static_cast<std::uint32_t>(c),
                          columns, count);
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
    std::fill(best, best + size, scan.threshold);
    std::fill(column, column + size, 0);
    if (step_c == 1 && step_n != 1) {
      for (std::int64_t i = 0; i < size; ++i) {
        for (std::int64_t c = 0; c < scan.columns; c += kTile) {
          const std::int64_t width = std::min(kTile, scan.columns - c);
          keys_of(first + i * step_n + c, 1, width, tile);
          std::uint32_t most = 0;
          for (std::int64_t j = 0; j < width; ++j) most = std::max(most, tile[j]);
          if (most <= best[i]) continue;
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
      scan.keys[count] = candidate_key(best[i], static_cast<std::uint32_t>(begin + i));
      count += best[i] > scan.threshold ? scan.labels[begin + i] : 0;
      scan.labels[begin + i] = column[i];
    }
  }
  return count;
}

}  // namespace

std::int64_t collect_candidates(const CandidateRule& rule, const TensorView& scores, std::int64_t image, double score_threshold,
                                std::uint64_t* keys, std::int32_t* labels) {
  const Scan scan{&scores, rule.anchors, rule.columns, threshold_key(score_threshold), keys, labels};
  return dispatch_float(scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* first = scores.as<const T>() + image * scores.stride[0];
    return rule.multi_label ? collect_pairs(scan, first) : collect_best(scan, first);
  });
}

}  // namespace fastdet
