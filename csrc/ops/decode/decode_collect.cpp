// SPDX-License-Identifier: Apache-2.0
#include "ops/decode/decode_collect.h"

#include <algorithm>
#include <limits>

#include "core/dispatch.h"
#include "ops/decode/decode_tile.h"

namespace fastdet {
namespace {

constexpr std::int64_t kUnit = 4096;  // anchors a thread takes at once, at least one row
constexpr std::int64_t kTile = 1024;  // anchors scanned before candidates are looked for
constexpr std::int64_t kLanes = 16;

std::int64_t rows_per_unit(const HeadLevel& in) { return std::max<std::int64_t>(1, kUnit / std::max<std::int64_t>(1, in.width)); }
std::int64_t units_per_prior(const HeadLevel& in) { return in.width == 0 ? 0 : ceil_div(in.height, rows_per_unit(in)); }

// most[j] = greatest logit of anchor j over all columns, -inf if there is none; NaN is passed over. Anchors lie `step` apart.
template <typename T>
FD_TARGET_CLONES void most_of_planes(const T* logits, std::int64_t step, std::int64_t step_c, std::int64_t columns,
                                     std::int64_t size, float* FD_RESTRICT most) {
  for (std::int64_t c = 0; c < columns; ++c) {
    const T* FD_RESTRICT plane = logits + c * step_c;
    if (step == 1) {
      for (std::int64_t j = 0; j < size; ++j) {
        const float value = to_float(plane[j]);
        most[j] = value > most[j] ? value : most[j];
      }
    } else {
      for (std::int64_t j = 0; j < size; ++j) {
        const float value = to_float(plane[j * step]);
        most[j] = value > most[j] ? value : most[j];
      }
    }
  }
}

// The same where columns are neighbours: lanes of partial maxima, so that the loop becomes vector code.
template <typename T>
FD_TARGET_CLONES void most_of_rows(const T* logits, std::int64_t step, std::int64_t columns, std::int64_t size, float* most) {
  for (std::int64_t j = 0; j < size; ++j) {
    const T* FD_RESTRICT row = logits + j * step;
    float lanes[kLanes];
    for (float& lane : lanes) lane = most[j];
    std::int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      for (std::int64_t k = 0; k < kLanes; ++k) {
        const float value = to_float(row[c + k]);
        lanes[k] = value > lanes[k] ? value : lanes[k];
      }
    }
    for (; c < columns; ++c) {
      const float value = to_float(row[c]);
      lanes[0] = value > lanes[0] ? value : lanes[0];
    }
    for (const float lane : lanes) most[j] = lane > most[j] ? lane : most[j];
  }
}

// One unit of one image.
template <typename T>
class Collector {
 public:
  Collector(const HeadMaps& maps, const CollectRule& rule, std::int64_t image, const CollectUnit& unit, std::uint64_t* keys,
            Box* boxes, std::int32_t* labels)
      : maps_(maps),
        in_(maps.level[unit.level]),
        rule_(rule),
        image_(image),
        unit_(unit),
        keys_(keys),
        boxes_(boxes),
        labels_(labels) {}

  std::int64_t run() {
    // Rows that follow each other without a gap are scanned as one.
    const bool flat =
        in_.logits_stride[3] == in_.width * in_.logits_stride[4] && in_.codes_stride[3] == in_.width * in_.codes_stride[4];
    const std::int64_t rows = unit_.row_end - unit_.row_begin, run_rows = flat ? rows : 1;
    for (std::int64_t y = unit_.row_begin; y < unit_.row_end; y += run_rows) scan(y, run_rows * in_.width);
    return count_;
  }

 private:
  void scan(std::int64_t y, std::int64_t size) {
    float most[kTile];
    const std::int64_t* stride = in_.logits_stride;
    const T* first = logits_at<T>(in_, image_, unit_.prior, y, 0);
    for (std::int64_t begin = 0; begin < size; begin += kTile) {
      const std::int64_t part = std::min(kTile, size - begin);
      std::fill(most, most + part, -std::numeric_limits<float>::infinity());
      if (stride[2] == 1 && stride[4] != 1) {
        most_of_rows(first + begin * stride[4], stride[4], maps_.classes, part, most);
      } else {
        most_of_planes(first + begin * stride[4], stride[4], stride[2], maps_.classes, part, most);
      }
      std::int64_t passing = 0;
      for (std::int64_t j = 0; j < part; ++j) passing += most[j] >= rule_.least ? 1 : 0;
      if (rule_.multi_label && passing * 8 > part) {  // so many that whole tiles are cheaper
        for (std::int64_t k = 0; k < part; k += kBlock) pairs_of_tile(y, begin + k, std::min(kBlock, part - k), most + k);
        continue;
      }
      for (std::int64_t j = 0; j < part && passing > 0; ++j) {
        if (most[j] >= rule_.least) anchor(y + (begin + j) / in_.width, (begin + j) % in_.width, most[j]);
      }
    }
  }

  void anchor(std::int64_t y, std::int64_t x, float most) {
    const T* logits = logits_at<T>(in_, image_, unit_.prior, y, x);
    const T* codes = codes_at<T>(in_, image_, unit_.prior, y, x);
    float objectness = 1.0f;
    if (maps_.objectness) {
      const float logit = to_float(codes[4 * in_.codes_stride[2]]);
      if (!(logit >= rule_.least)) return;
      objectness = sigmoid_exact(logit);
    }
    const std::int64_t number = in_.first + (unit_.prior * in_.height + y) * in_.width + x;
    rule_.multi_label ? pairs(logits, codes, objectness, number, y, x) : best(logits, codes, objectness, most, number, y, x);
  }

  // Whether the anchor's box may be a candidate; stores it.
  bool store_box(const T* codes, std::int64_t number, std::int64_t y, std::int64_t x) {
    boxes_[number] = to_box(corners_at<T>(maps_, in_, codes, unit_.prior, y, x));
    return box_finite(boxes_[number]);
  }

  void best(const T* logits, const T* codes, float objectness, float most, std::int64_t number, std::int64_t y, std::int64_t x) {
    const std::int64_t step = in_.logits_stride[2];
    const BestColumn found = maps_.objectness ? best_product(logits, step, maps_.classes, objectness, rule_.least)
                                              : best_column(logits, step, maps_.classes, most);
    if (found.column < 0) return;
    const std::uint32_t key = score_key(found.score);
    if (key <= rule_.threshold || !store_box(codes, number, y, x)) return;
    labels_[number] = found.column;
    keys_[count_++] = candidate_key(key, static_cast<std::uint32_t>(number));
  }

  void pairs(const T* logits, const T* codes, float objectness, std::int64_t number, std::int64_t y, std::int64_t x) {
    bool stored = false;
    for (std::int64_t c = 0; c < maps_.classes; ++c) {
      const float logit = to_float(logits[c * in_.logits_stride[2]]);
      if (!(logit >= rule_.least)) continue;
      const float score = sigmoid_exact(logit);
      const std::uint32_t key = score_key(maps_.objectness ? objectness * score : score);
      if (key <= rule_.threshold) continue;
      if (!stored && !store_box(codes, number, y, x)) return;
      stored = true;
      keys_[count_++] = candidate_key(key, static_cast<std::uint32_t>(number * maps_.classes + c));
    }
  }

  // Pairs of neighbouring anchors, the first of which is number x of the run of row y; keys come by class, then anchor.
  void pairs_of_tile(std::int64_t y, std::int64_t x, std::int64_t size, const float* most) {
    const std::int64_t first = in_.first + (unit_.prior * in_.height + y) * in_.width + x;
    decode_boxes_tile<T>(maps_, {unit_.level, image_, unit_.prior, y, x, size, first}, &boxes_[first].x1);
    const T* logits = logits_at<T>(in_, image_, unit_.prior, y, 0) + x * in_.logits_stride[4];
    const T* codes = codes_at<T>(in_, image_, unit_.prior, y, 0) + x * in_.codes_stride[4] + 4 * in_.codes_stride[2];
    float objectness[kBlock], least[kBlock];
    for (std::int64_t j = 0; j < size; ++j) {
      bool passes = most[j] >= rule_.least && box_finite(boxes_[first + j]);
      objectness[j] = 1.0f;
      if (passes && maps_.objectness) {
        const float logit = to_float(codes[j * in_.codes_stride[4]]);
        passes = logit >= rule_.least;
        objectness[j] = sigmoid_exact(logit);
      }
      least[j] = passes ? rule_.least : std::numeric_limits<float>::quiet_NaN();
    }
    for (std::int64_t c = 0; c < maps_.classes; ++c) {
      const T* plane = logits + c * in_.logits_stride[2];
      for (std::int64_t j = 0; j < size; ++j) {
        const float logit = to_float(plane[j * in_.logits_stride[4]]);
        if (!(logit >= least[j])) continue;
        const float score = sigmoid_exact(logit);
        const std::uint32_t key = score_key(maps_.objectness ? objectness[j] * score : score);
        if (key <= rule_.threshold) continue;
        keys_[count_++] = candidate_key(key, static_cast<std::uint32_t>((first + j) * maps_.classes + c));
      }
    }
  }

  const HeadMaps& maps_;
  const HeadLevel& in_;
  const CollectRule& rule_;
  std::int64_t image_;
  const CollectUnit& unit_;
  std::uint64_t* keys_;
  Box* boxes_;
  std::int32_t* labels_;
  std::int64_t count_ = 0;
};

}  // namespace

std::int64_t collect_units(const HeadMaps& maps) {
  std::int64_t units = 0;
  for (int i = 0; i < maps.levels; ++i) units += maps.level[i].priors * units_per_prior(maps.level[i]);
  return units;
}

CollectUnit collect_unit(const HeadMaps& maps, std::int64_t number) {
  CollectUnit unit;
  while (number >= maps.level[unit.level].priors * units_per_prior(maps.level[unit.level])) {
    number -= maps.level[unit.level].priors * units_per_prior(maps.level[unit.level]);
    ++unit.level;
  }
  const HeadLevel& in = maps.level[unit.level];
  unit.prior = number / units_per_prior(in);
  unit.row_begin = number % units_per_prior(in) * rows_per_unit(in);
  unit.row_end = std::min(in.height, unit.row_begin + rows_per_unit(in));
  return unit;
}

std::int64_t first_anchor(const HeadMaps& maps, const CollectUnit& unit) {
  const HeadLevel& in = maps.level[unit.level];
  return in.first + (unit.prior * in.height + unit.row_begin) * in.width;
}

std::int64_t collect(const HeadMaps& maps, const CollectRule& rule, std::int64_t image, const CollectUnit& unit,
                     std::uint64_t* keys, Box* boxes, std::int32_t* labels) {
  return dispatch_float(maps.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return Collector<T>(maps, rule, image, unit, keys, boxes, labels).run();
  });
}

}  // namespace fastdet
