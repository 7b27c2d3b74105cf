// SPDX-License-Identifier: Apache-2.0
// What assigners of training targets share, whatever their rule: padded ground truths, and how candidates are owned.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/tensor_load.h"

namespace fastdet {

constexpr std::int64_t kMaxAssignTopk = 1024;

// Keys that order pairs carry an index below 2^31 in their low bits: of the candidate or of the ground truth.
constexpr std::uint64_t kNoKey = ~std::uint64_t{0};  // above every key
FD_HD std::int32_t key_index(std::uint64_t key) { return static_cast<std::int32_t>(key & 0x7fffffffu); }

// Owners of candidates that are no ground truth.
constexpr std::int32_t kUnmatched = -1;
constexpr std::int32_t kContested = -2;

FD_HD float magnitude(float value) { return value < 0.0f ? -value : value; }
FD_HD float clamp_score(float score) { return smaller(positive(score), 1.0f); }  // never -0

// Rows of an image that are not padding.
FD_HD std::int64_t load_count(const TensorView& count, std::int64_t image, std::int64_t rows) {
  const std::int64_t value = load_integer(count, image * count.stride[0]);
  return value < 0 ? 0 : value > rows ? rows : value;
}

// Throws unless gt_boxes [B, M, numbers], gt_labels [B, M] and gt_count [B] belong together, and candidates, classes and rows can
// be numbered in keys.
void check_targets(const char* op, const TensorView& gt_boxes, const TensorView& gt_labels, const TensorView& gt_count,
                   std::int64_t images, std::int64_t numbers, std::int64_t candidates, std::int64_t classes);
// Counts and labels that lie on the host: throws where one is out of range.
void check_target_values(const char* op, const TensorView& gt_labels, const TensorView& gt_count, std::int64_t classes);
void check_not_negative(const char* op, const char* name, float value);
void check_topk(const char* op, std::int64_t topk);

}  // namespace fastdet
