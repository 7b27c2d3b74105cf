// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "core/parallel.h"
#include "evaluation/evaluation.h"
#include "evaluation/order.h"

namespace fastdet::evaluation {
namespace {

// One picture and label: places in Matches, and rows of Truth in `truths`.
struct Cell {
  Index begin, end, truth_begin, truth_end;
};

struct Work {
  std::vector<double> overlaps;  // [detections, truths], truths in the order of `turn`
  std::vector<Index> turn;       // rows of Truth, those that count first
  std::vector<std::uint8_t> ignored, taken;
};

bool outside(double area, const std::array<double, 2>& range) { return area < range[0] || area > range[1]; }

std::vector<Index> all_rows(Index count) {
  std::vector<Index> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), Index{0});
  return rows;
}

// Rows by label, then picture, ties as they are.
std::vector<Index> by_label_and_picture(Index count, const Index* picture, const Index* label, Index pictures, Index labels) {
  std::vector<Index> first;
  return by_key(by_key(all_rows(count), picture, pictures, &first), label, labels, &first);
}

// Sorts each cell by falling score, keeps its first `most`, and finds the truths that belong to it.
std::vector<Cell> make_cells(const Truth& truth, const Found& found, const std::vector<Index>& truths, Index most, Matches* out,
                             const std::vector<Index>& order) {
  std::vector<Cell> cells;
  const auto before = [](Index label_a, Index picture_a, Index label_b, Index picture_b) {
    return label_a != label_b ? label_a < label_b : picture_a < picture_b;
  };
  std::size_t t = 0;
  for (std::size_t begin = 0, end; begin < order.size(); begin = end) {
    const Index label = found.label[order[begin]], picture = found.picture[order[begin]];
    for (end = begin + 1; end < order.size(); ++end) {
      if (found.label[order[end]] != label || found.picture[order[end]] != picture) break;
    }
    Cell cell{static_cast<Index>(out->row.size()), 0, 0, 0};
    out->row.insert(out->row.end(), order.begin() + static_cast<Index>(begin), order.begin() + static_cast<Index>(end));
    std::stable_sort(out->row.begin() + cell.begin, out->row.end(),
                     [&](Index a, Index b) { return found.score[a] > found.score[b]; });
    cell.end = std::min(static_cast<Index>(out->row.size()), cell.begin + most);
    out->row.resize(static_cast<std::size_t>(cell.end));
    for (Index i = cell.begin; i < cell.end; ++i) out->rank.push_back(static_cast<std::int32_t>(i - cell.begin));
    while (t < truths.size() && before(truth.label[truths[t]], truth.picture[truths[t]], label, picture)) ++t;
    cell.truth_begin = static_cast<Index>(t);
    while (t < truths.size() && truth.label[truths[t]] == label && truth.picture[truths[t]] == picture) ++t;
    cell.truth_end = static_cast<Index>(t);
    cells.push_back(cell);
  }
  return cells;
}

// The place in work.turn that a detection takes at `threshold`, or -1. Of equal overlaps the later one wins.
Index choose(const Work& work, const double* overlaps, const Truth& truth, double threshold) {
  double best = std::min(threshold, 1 - 1e-10);
  Index chosen = -1;
  for (std::size_t g = 0; g < work.turn.size(); ++g) {
    if (work.taken[g] && !truth.crowd[work.turn[g]]) continue;
    if (chosen >= 0 && !work.ignored[static_cast<std::size_t>(chosen)] && work.ignored[g]) break;
    if (overlaps[g] < best) continue;
    best = overlaps[g];
    chosen = static_cast<Index>(g);
  }
  return chosen;
}

void match_cell(const Truth& truth, const Found& found, const Rules& rules, const std::vector<Index>& truths, const Cell& cell,
                Work& work, Matches* out) {
  const std::size_t count = static_cast<std::size_t>(cell.truth_end - cell.truth_begin), n = out->row.size();
  for (std::size_t a = 0; a < rules.areas.size(); ++a) {
    const auto& range = rules.areas[a];
    work.turn.assign(truths.begin() + cell.truth_begin, truths.begin() + cell.truth_end);
    const auto ignore = [&](Index row) { return truth.crowd[row] || outside(truth.area[row], range); };
    std::stable_partition(work.turn.begin(), work.turn.end(), [&](Index row) { return !ignore(row); });
    work.ignored.resize(count);
    for (std::size_t g = 0; g < count; ++g) work.ignored[g] = ignore(work.turn[g]);
    work.overlaps.clear();
    for (Index i = cell.begin; i < cell.end; ++i) {
      const double* box = found.box + 4 * out->row[static_cast<std::size_t>(i)];
      for (const Index row : work.turn) work.overlaps.push_back(overlap(box, truth.box + 4 * row, truth.crowd[row] != 0));
    }
    for (std::size_t t = 0; t < rules.thresholds.size(); ++t) {
      work.taken.assign(count, 0);
      for (Index i = cell.begin; i < cell.end; ++i) {
        const std::size_t place = static_cast<std::size_t>(i), cell_row = static_cast<std::size_t>(i - cell.begin);
        const double* box = found.box + 4 * out->row[place];
        const Index chosen = choose(work, work.overlaps.data() + cell_row * count, truth, rules.thresholds[t]);
        const bool ignored = chosen < 0 ? outside(box[2] * box[3], range) : work.ignored[static_cast<std::size_t>(chosen)] != 0;
        out->ignored[a * n + place] |= static_cast<std::uint32_t>(ignored) << t;
        if (chosen < 0) continue;
        out->matched[a * n + place] |= std::uint32_t{1} << t;
        work.taken[static_cast<std::size_t>(chosen)] = 1;
        if (a == 0 && t == 0) out->partner[place] = work.turn[static_cast<std::size_t>(chosen)];
      }
    }
  }
}

}  // namespace

Matches match(const Truth& truth, const Found& found, const Rules& rules, Index pictures, Index labels) {
  Matches out;
  out.row.reserve(static_cast<std::size_t>(found.count));
  const auto truths = by_label_and_picture(truth.count, truth.picture, truth.label, pictures, labels);
  const auto order = by_label_and_picture(found.count, found.picture, found.label, pictures, labels);
  const auto cells = make_cells(truth, found, truths, rules.most, &out, order);
  out.partner.assign(out.row.size(), -1);
  out.matched.assign(rules.areas.size() * out.row.size(), 0);
  out.ignored.assign(rules.areas.size() * out.row.size(), 0);
  parallel_for(static_cast<Index>(cells.size()), 64, [&](Index begin, Index end) {
    Work work;
    for (Index c = begin; c < end; ++c) {
      match_cell(truth, found, rules, truths, cells[static_cast<std::size_t>(c)], work, &out);
    }
  });
  return out;
}

Nearest nearest(const Truth& truth, const Found& found, Index pictures) {
  std::vector<Index> first;
  const auto truths = by_key(all_rows(truth.count), truth.picture, pictures, &first);
  const auto n = static_cast<std::size_t>(found.count);
  Nearest out{std::vector<Index>(n, -1), std::vector<Index>(n, -1), std::vector<double>(n, 0), std::vector<double>(n, 0)};
  parallel_for(found.count, 1024, [&](Index begin, Index end) {
    for (std::size_t i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const auto picture = static_cast<std::size_t>(found.picture[i]);
      for (Index t = first[picture]; t < first[picture + 1]; ++t) {
        const Index row = truths[static_cast<std::size_t>(t)];
        if (truth.crowd[row]) continue;
        const double value = overlap(found.box + 4 * i, truth.box + 4 * row, false);
        const bool own = truth.label[row] == found.label[i];
        double& best = own ? out.own_iou[i] : out.other_iou[i];
        if (value > best) best = value, (own ? out.own : out.other)[i] = row;
      }
    }
  });
  return out;
}

}  // namespace fastdet::evaluation
