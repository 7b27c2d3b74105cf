// SPDX-License-Identifier: Apache-2.0
#include "core/suppression.h"

#include <algorithm>
#include <functional>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/walk_measure.h"

namespace fastdet {
namespace {

// Whether a kept box in [begin, end) suppresses the candidate. Blocks end early, their inside is branch-free.
template <bool kCompareLabels, bool kByDistance>
FD_HD bool suppressed_by(const KeptList& kept, std::int64_t begin, std::int64_t end, const WalkCandidate& c, float threshold) {
  constexpr std::int64_t kBlock = 128;
  const Box box = c.box;
  const float area = c.area;
  const std::int32_t label = c.label;
  for (std::int64_t start = begin; start < end; start += kBlock) {
    const std::int64_t stop = start + kBlock < end ? start + kBlock : end;
    std::int32_t hits = 0;
    for (std::int64_t i = start; i < stop; ++i) {
      const Box other{kept.x1[i], kept.y1[i], kept.x2[i], kept.y2[i]};
      const std::int32_t hit = suppresses<kByDistance>(other, kept.area[i], box, area, threshold) ? 1 : 0;
      hits |= kCompareLabels ? hit & (kept.label[i] == label ? 1 : 0) : hit;
    }
    if (hits != 0) return true;
  }
  return false;
}

using SuppressedBy = bool (*)(const KeptList&, std::int64_t, std::int64_t, const WalkCandidate&, float);

FD_TARGET_CLONES bool by_iou(const KeptList& kept, std::int64_t begin, std::int64_t end, const WalkCandidate& c,
                             float threshold) {
  return suppressed_by<false, false>(kept, begin, end, c, threshold);
}
FD_TARGET_CLONES bool by_iou_of_label(const KeptList& kept, std::int64_t begin, std::int64_t end, const WalkCandidate& c,
                                      float threshold) {
  return suppressed_by<true, false>(kept, begin, end, c, threshold);
}
FD_TARGET_CLONES bool by_diou(const KeptList& kept, std::int64_t begin, std::int64_t end, const WalkCandidate& c,
                              float threshold) {
  return suppressed_by<false, true>(kept, begin, end, c, threshold);
}
FD_TARGET_CLONES bool by_diou_of_label(const KeptList& kept, std::int64_t begin, std::int64_t end, const WalkCandidate& c,
                                       float threshold) {
  return suppressed_by<true, true>(kept, begin, end, c, threshold);
}

}  // namespace

Walk::Walk(const CandidateRule& rule, const TensorView& boxes, std::int64_t image, const std::int32_t* labels, KeptList kept,
           std::uint64_t* kept_keys)
    : rule_(rule),
      boxes_(boxes),
      image_(image),
      labels_(labels),
      threshold_(round_down(rule.iou_threshold)),
      kept_(kept),
      kept_keys_(kept_keys) {}

bool Walk::suppressed(std::int64_t begin, std::int64_t end, const WalkCandidate& candidate) const {
  constexpr SuppressedBy loops[2][2] = {{by_iou, by_iou_of_label}, {by_diou, by_diou_of_label}};
  return loops[rule_.by_distance ? 1 : 0][rule_.by_label ? 1 : 0](kept_, begin, end, candidate, threshold_);
}

WalkCandidate Walk::load(std::uint64_t key) const {
  const std::int64_t number = candidate_number(key);
  const std::int64_t at = image_ * boxes_.stride[0] + rule_.anchor_of(number) * boxes_.stride[1];
  WalkCandidate candidate;
  candidate.box = dispatch_float(boxes_.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return load_box(boxes_.as<const T>() + at, boxes_.stride[2]);
  });
  candidate.area = box_area(candidate.box);
  candidate.label = rule_.label_of(number, labels_);
  return candidate;
}

void Walk::visit(const std::uint64_t* keys, std::int64_t count, std::int64_t limit) {
  // Against boxes kept before a chunk the candidates of the chunk are independent: worth threads when the list is long.
  constexpr std::int64_t kChunk = 256;
  WalkCandidate chunk[kChunk];
  bool fallen[kChunk];
  for (std::int64_t begin = 0; begin < count && kept_.size < limit; begin += kChunk) {
    const std::int64_t size = std::min(kChunk, count - begin);
    const std::int64_t before = kept_.size;
    parallel_for(size, before > 2048 ? 16 : size, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        chunk[i] = load(keys[begin + i]);
        fallen[i] = suppressed(0, before, chunk[i]);
      }
    });
    for (std::int64_t i = 0; i < size && kept_.size < limit; ++i) {
      if (fallen[i] || suppressed(before, kept_.size, chunk[i])) continue;
      kept_keys_[kept_.size] = keys[begin + i];
      kept_.append(chunk[i].box, chunk[i].area, chunk[i].label);
    }
  }
}

void Walk::visit_best(std::uint64_t* keys, std::int64_t count) {
  constexpr std::int64_t kFirst = 2048;
  const std::int64_t taken = std::min(count, rule_.max_candidates);
  std::int64_t done = 0;
  // Sorts only as many of the best candidates as the walk turns out to need.
  for (std::int64_t portion = std::max(kFirst, 4 * rule_.max_det); done < taken && size() < rule_.max_det; portion *= 4) {
    const std::int64_t end = std::min(taken, done + portion);
    if (end < count) select_best(keys + done, count - done, end - done);
    std::sort(keys + done, keys + end, std::greater<>());
    visit(keys + done, end - done, rule_.max_det);
    done = end;
  }
}

void Walk::write(const CandidateRows& rows) const {
  for (std::int64_t d = 0; d < rule_.max_det; ++d) {
    const std::int64_t at = image_ * rule_.max_det + d;
    if (d < kept_.size) {
      const Box box{kept_.x1[d], kept_.y1[d], kept_.x2[d], kept_.y2[d]};
      rows.write(at, box, candidate_score(kept_keys_[d]), kept_.label[d], rule_.anchor_of(candidate_number(kept_keys_[d])));
    } else {
      rows.clear(at);
    }
  }
  rows.count.as<std::int32_t>()[image_] = static_cast<std::int32_t>(kept_.size);
}

// Moves the `wanted` greatest keys to the front. A histogram of the leading bits finds roughly where they end, one sweep without
// branches brings those forward, and only the last bin is left to a selection proper.
void select_best(std::uint64_t* keys, std::int64_t count, std::int64_t wanted) {
  constexpr int kShift = 52, kBins = 1 << (64 - kShift);
  std::int32_t histogram[kBins] = {};
  for (std::int64_t i = 0; i < count; ++i) ++histogram[keys[i] >> kShift];
  std::int64_t reached = 0;
  std::uint64_t bin = kBins;
  while (reached < wanted) reached += histogram[--bin];
  const std::uint64_t least = bin << kShift;
  std::int64_t front = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t key = keys[i];
    keys[i] = keys[front];
    keys[front] = key;
    front += key >= least ? 1 : 0;
  }
  std::nth_element(keys, keys + wanted, keys + front, std::greater<>());
}

}  // namespace fastdet
