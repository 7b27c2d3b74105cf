// SPDX-License-Identifier: Apache-2.0
// Rows in the order of small whole numbers, and the overlap of two boxes as pycocotools computes it.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace fastdet::evaluation {

// `rows` sorted by key[row] in [0, keys), ties kept as they are; `first` [keys + 1] says where each key begins.
inline std::vector<std::int64_t> by_key(const std::vector<std::int64_t>& rows, const std::int64_t* key, std::int64_t keys,
                                        std::vector<std::int64_t>* first) {
  first->assign(static_cast<std::size_t>(keys) + 1, 0);
  for (const std::int64_t row : rows) ++(*first)[static_cast<std::size_t>(key[row]) + 1];
  for (std::size_t k = 1; k < first->size(); ++k) (*first)[k] += (*first)[k - 1];
  std::vector<std::int64_t> next(*first), sorted(rows.size());
  for (const std::int64_t row : rows) sorted[static_cast<std::size_t>(next[static_cast<std::size_t>(key[row])]++)] = row;
  return sorted;
}

// x, y, width, height; with a crowd the part of the detection that lies in it.
inline double overlap(const double* detection, const double* truth, bool crowd) {
  const double right = std::fmin(detection[2] + detection[0], truth[2] + truth[0]);
  const double width = right - std::fmax(detection[0], truth[0]);
  if (width <= 0) return 0;
  const double bottom = std::fmin(detection[3] + detection[1], truth[3] + truth[1]);
  const double height = bottom - std::fmax(detection[1], truth[1]);
  if (height <= 0) return 0;
  const double area = detection[2] * detection[3], shared = width * height;
  return shared / (crowd ? area : area + truth[2] * truth[3] - shared);
}

}  // namespace fastdet::evaluation
