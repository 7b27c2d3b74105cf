// SPDX-License-Identifier: Apache-2.0
// Workspace of selection and suppression on CUDA: sizes depend on shapes alone. One slice per image, all images share the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "core/candidate.h"
#include "core/launch.h"
#include "core/platform.h"

namespace fastdet {

constexpr int kSelectionRun = 2048;      // keys sorted by one block
constexpr int kSelectionTile = 2048;     // candidates looked at by one block
constexpr int kSelectionBins = 2048;     // histogram of 11 bits of the score key
constexpr int kSelectionHistograms = 3;  // 11 + 11 + 10 bits

struct SelectionLayout {
  std::int64_t runs;     // sorted runs; keys are padded to a whole number of them
  std::int64_t tiles;    // tiles of candidates
  std::int64_t anchors;  // one key and label each, where wanted
  std::int64_t kept;     // rows of the kept list; 0 without suppression
  std::int64_t extra;    // bytes for the operator itself, a multiple of 16
  std::int64_t item;     // bytes of a row of the kept list

  // Offsets in bytes of one image's slice; every part is a multiple of 16.
  FD_HD static std::int64_t padded(std::int64_t bytes) { return (bytes + 15) / 16 * 16; }
  FD_HD std::int64_t keys() const { return runs * kSelectionRun; }
  FD_HD std::int64_t keys_at() const { return 0; }
  FD_HD std::int64_t sorted_at() const { return keys_at() + padded(8 * keys()); }
  FD_HD std::int64_t best_key_at() const { return sorted_at() + padded(8 * keys()); }
  FD_HD std::int64_t best_label_at() const { return best_key_at() + padded(4 * anchors); }
  FD_HD std::int64_t histogram_at() const { return best_label_at() + padded(4 * anchors); }
  FD_HD std::int64_t above_at() const { return histogram_at() + padded(4 * kSelectionBins * kSelectionHistograms); }
  FD_HD std::int64_t equal_at() const { return above_at() + padded(4 * tiles); }
  FD_HD std::int64_t kept_box_at() const { return equal_at() + padded(4 * tiles); }
  FD_HD std::int64_t kept_label_at() const { return kept_box_at() + padded(item * kept); }
  FD_HD std::int64_t extra_at() const { return kept_label_at() + padded(8 * kept); }
  FD_HD std::int64_t bytes() const { return extra_at() + extra; }
};

// `anchors`: whether each anchor has a best key and label; `kept`: whether the selected are suppressed.
inline SelectionLayout selection_layout(const CandidateRule& rule, bool anchors, bool kept, std::int64_t extra = 0,
                                        std::int64_t item = sizeof(Box)) {
  const std::int64_t selected = rule.selected();
  return {ceil_div(selected, std::int64_t{kSelectionRun}),
          ceil_div(rule.candidates(), std::int64_t{kSelectionTile}),
          anchors ? rule.anchors : 0,
          kept ? (rule.max_det < selected ? rule.max_det : selected) : 0,
          extra,
          item};
}

// Images [first, first + count) of a batch.
inline TensorView images_of(TensorView view, std::int64_t first, std::int64_t count) {
  if (view.data == nullptr) return view;
  view.data = view.as<char>() + first * view.stride[0] * static_cast<std::int64_t>(item_size(view.dtype));
  view.shape[0] = count;
  return view;
}
inline CandidateRows images_of(CandidateRows rows, std::int64_t first, std::int64_t count) {
  for (TensorView CandidateRows::* array :
       {&CandidateRows::boxes, &CandidateRows::scores, &CandidateRows::labels, &CandidateRows::index, &CandidateRows::count}) {
    rows.*array = images_of(rows.*array, first, count);
  }
  return rows;
}

}  // namespace fastdet
