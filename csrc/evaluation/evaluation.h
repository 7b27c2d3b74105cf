// SPDX-License-Identifier: Apache-2.0
// COCO's judgement of boxes, with the arithmetic and the order of pycocotools: every number it computes comes out bit for bit.
// Rows of truth and detections are columns of numbers; pictures and labels are counted from 0. Boxes are x, y, width, height.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace fastdet::evaluation {

using Index = std::int64_t;

struct Truth {
  Index count = 0;
  const Index* picture = nullptr;
  const Index* label = nullptr;
  const double* box = nullptr;  // [count, 4]
  const double* area = nullptr;
  const std::uint8_t* crowd = nullptr;  // a region of many objects: overlap is by the detection's area, matches are ignored
};

struct Found {
  Index count = 0;
  const Index* picture = nullptr;
  const Index* label = nullptr;
  const double* box = nullptr;    // [count, 4]
  const double* score = nullptr;  // no NaN
};

struct Rules {
  std::vector<double> thresholds;            // of IoU, at most 32
  std::vector<std::array<double, 2>> areas;  // smallest and largest, in square pixels
  Index most = 0;                            // detections of a picture and class that count
};

// The detections that count, by label, picture and falling score (ties by row).
struct Matches {
  std::vector<Index> row;              // of Found
  std::vector<Index> partner;          // row of Truth that the first threshold and area range gave it, or -1
  std::vector<std::int32_t> rank;      // place among those of its picture and label
  std::vector<std::uint32_t> matched;  // [areas, n]: bit t is set where threshold t found a truth for it,
  std::vector<std::uint32_t> ignored;  // [areas, n]: and here where it counts neither for nor against
};

// Gives truths to detections, best first: each takes the free one of its picture and label that it overlaps most, above the
// threshold; those that count go before crowds and before those outside the range of areas.
Matches match(const Truth& truth, const Found& found, const Rules& rules, Index pictures, Index labels);

// What `accumulate` reads, in the order of Matches.
struct Ranked {
  Index count = 0;
  const Index* label = nullptr;  // rising
  const std::int32_t* rank = nullptr;
  const double* score = nullptr;
  const std::uint32_t* matched = nullptr;  // [areas, count]
  const std::uint32_t* ignored = nullptr;  // [areas, count]
  const Index* truths = nullptr;           // [labels, areas]: those that count
  std::vector<double> recalls;             // where precision is read, rising
  std::vector<Index> most;                 // rising: how many of a picture and class count
  Index thresholds = 0, labels = 0, areas = 0;
};

// precision and scores [thresholds, recalls, labels, areas, most], recall without `recalls`; -1 where no truth counts.
void accumulate(const Ranked& ranked, double* precision, double* recall, double* scores);

// For each detection, the truths of its picture that it overlaps most, crowds aside: of its own label and of any other.
struct Nearest {
  std::vector<Index> own, other;  // rows of Truth, or -1
  std::vector<double> own_iou, other_iou;
};
Nearest nearest(const Truth& truth, const Found& found, Index pictures);

}  // namespace fastdet::evaluation
