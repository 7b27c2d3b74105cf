// SPDX-License-Identifier: Apache-2.0
// The CPU path: costs in parallel over (image, object), then one thread per image solves.
#include <algorithm>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/hungarian_assign/hungarian_assign.h"
#include "ops/hungarian_assign/hungarian_assign_columns.h"
#include "ops/hungarian_assign/hungarian_assign_layout.h"
#include "ops/hungarian_assign/hungarian_assign_math.h"

namespace fastdet {
namespace hungarian_assign {
namespace {

using Task = HungarianAssignParams::Task;

constexpr std::int64_t kGrain = 16384;  // elementary steps (about 1 ns each) worth waking a thread for
constexpr std::int64_t kTile = 256;     // queries priced at once

std::int64_t grain_for(std::int64_t steps) { return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, steps)); }

// ---- costs ----

ItemColumns columns_of(const Layout& layout, std::int64_t image, std::int64_t queries) {
  return {layout.query_columns + image * layout.column_floats, queries};
}

void load_queries(const HungarianAssignParams& p, const Layout& layout) {
  const std::int64_t n = p.queries();
  parallel_for(p.images() * n, kGrain / 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) columns_of(layout, i / n, n).put(i % n, load_item(p.boxes, i / n, i % n));
  });
}

// The costs of one object with all queries, `step` apart from `out` on. Returns whether all are finite.
bool price_object(const HungarianAssignParams& p, const Layout& layout, std::int64_t image, std::int64_t row, float* out,
                  std::int64_t step) {
  const std::int64_t label = load_label(p.gt_labels, p.classes(), image, row);
  const Item object = load_item(p.gt_boxes, image, row);
  const ItemColumns queries = columns_of(layout, image, p.queries());
  const Weights weights = weights_of(p);
  float tile[kTile];
  bool finite = label >= 0 || p.queries() == 0;
  for (std::int64_t first = 0; first < p.queries(); first += kTile) {
    const std::int64_t n = std::min(kTile, p.queries() - first);
    float* costs = step == 1 ? out + first : tile;
    if (label < 0) {
      std::fill(costs, costs + n, infinity<float>());
    } else {
      dispatch_float(p.logits.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const T* from = p.logits.as<const T>() + image * p.logits.stride[0] + label * p.logits.stride[2];
        for (std::int64_t i = 0; i < n; ++i) costs[i] = to_float(from[(first + i) * p.logits.stride[1]]);
      });
      finite &= pair_costs(n, queries.from(first), object, weights, costs);
    }
    if (step == 1) continue;
    for (std::int64_t i = 0; i < n; ++i) out[(first + i) * step] = costs[i];
  }
  return finite;
}

void price(const HungarianAssignParams& p, const Layout& layout) {
  const std::int64_t rows = p.rows(), queries = p.queries();
  load_queries(p, layout);
  parallel_for(p.images() * rows, grain_for(5 * queries), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / rows, row = i % rows, count = load_count(p.count, image, rows);
      if (p.task == Task::kCost) {
        float* out = p.cost + image * layout.pairs + row;
        if (row < count) {
          price_object(p, layout, image, row, out, rows);
        } else {
          for (std::int64_t q = 0; q < queries; ++q) out[q * rows] = infinity<float>();
        }
      } else if (row < count) {
        const Problem problem = problem_of(queries, count);
        float* out = layout.costs<float>(image) + problem.at(0, row);
        layout.unordinary[i] = price_object(p, layout, image, row, out, problem.at(1, 0)) ? 0 : 1;
      }
    }
  });
}

// Returns whether all are ordinary.
template <typename T, typename Stored>
bool take_given(const HungarianAssignParams& p, std::int64_t image, const Problem& problem, T* to) {
  const TensorView& given = p.given;
  const Stored* from = given.as<const Stored>() + image * given.stride[0];
  const std::int64_t line_step = given.stride[problem.queries_are_lines ? 1 : 2];
  const std::int64_t column_step = given.stride[problem.queries_are_lines ? 2 : 1];
  bool ordinary = true;
  for (std::int64_t line = 0; line < problem.lines; ++line) {
    for (std::int64_t j = 0; j < problem.columns; ++j) {
      const T cost = widen(from[line * line_step + j * column_step]);
      ordinary &= is_ordinary(cost);
      to[line * problem.columns + j] = cost;
    }
  }
  return ordinary;
}

// Takes the given costs of an image, or has them already. Returns whether all are ordinary.
template <typename T>
bool take_costs(const HungarianAssignParams& p, const Layout& layout, std::int64_t image, const Problem& problem) {
  if (p.task != Task::kSolve) {
    const std::int64_t count = problem.queries_are_lines ? problem.columns : problem.lines;
    const unsigned char* of_image = layout.unordinary + image * p.rows();
    return std::count(of_image, of_image + count, 0) == count;
  }
  T* cost = layout.costs<T>(image);
  if constexpr (sizeof(T) == sizeof(double)) {
    return take_given<T, double>(p, image, problem, cost);
  } else {
    bool ordinary = true;
    dispatch_float(p.given.dtype,
                   [&](auto tag) { ordinary = take_given<T, typename decltype(tag)::type>(p, image, problem, cost); });
    return ordinary;
  }
}

// ---- the solver ----

// Where some cost is not ordinary: marks who takes no part, makes the costs such that they can be summed, and exchanges the sides
// where the fewer are the columns now.
template <typename T>
void settle(Search& s, Problem& problem, T* cost) {
  const double out = -infinity<double>();
  std::fill(s.column_dual, s.column_dual + problem.columns, out);
  std::fill(s.line_dual, s.line_dual + problem.lines, out);
  T largest = -infinity<T>();
  bool shrinks = false;
  for (std::int64_t line = 0; line < problem.lines; ++line) {
    for (std::int64_t j = 0; j < problem.columns; ++j) {
      const T value = cost[line * problem.columns + j];
      if (!is_finite(value)) continue;
      s.line_dual[line] = s.column_dual[j] = 0.0;
      largest = std::max(largest, value);
      shrinks |= !is_ordinary(value);
    }
  }
  for (std::int64_t i = 0; i < problem.lines * problem.columns; ++i) cost[i] = settled_cost(cost[i], largest, shrinks);
  const std::int64_t lines = std::count(s.line_dual, s.line_dual + problem.lines, 0.0);
  const std::int64_t columns = std::count(s.column_dual, s.column_dual + problem.columns, 0.0);
  if (!problem.is_wrong_way(lines - columns)) return;
  problem.exchange_sides();
  s.exchange_sides();
}

// Gives a column to `line`, at least total cost for all lines so far.
template <typename T>
void add_line(const Search& s, const Problem& problem, const T* cost, std::int64_t line) {
  std::fill(s.distance, s.distance + problem.columns, infinity<double>());
  double least = 0.0;
  std::int64_t last = line, column = -1, size = 0;
  while (true) {
    least = lengthen(s, problem, cost, last, least);
    column = nearest(problem.columns, least, s.distance, s.owner);
    if (s.owner[column] < 0) break;
    s.tree_column[size] = static_cast<std::int32_t>(column);
    s.tree_distance[size] = least;
    s.tree_dual[size++] = s.column_dual[column];
    s.column_dual[column] = -infinity<double>();
    s.distance[column] = infinity<double>();
    last = s.owner[column];
  }
  for (std::int64_t k = 0; k < size; ++k) {
    const std::int32_t taken = s.tree_column[k];
    const double change = least - s.tree_distance[k];
    s.column_dual[taken] = s.tree_dual[k] - change;
    s.line_dual[s.owner[taken]] += change;
  }
  s.line_dual[line] = least;
  for (std::int64_t from = -1; from != line;) {
    from = s.previous[column];
    s.owner[column] = static_cast<std::int32_t>(from);
    const std::int32_t freed = s.column[from];
    s.column[from] = static_cast<std::int32_t>(column);
    column = freed;
  }
}

template <typename T>
void solve(const HungarianAssignParams& p, const Layout& layout, std::int64_t image) {
  const std::int64_t queries = p.queries(), rows = p.rows();
  Problem problem = problem_of(queries, load_count(p.count, image, rows));
  T* cost = layout.costs<T>(image);
  Search s;
  s.cut(layout.search + image * layout.search_bytes, problem.lines, problem.columns);
  std::fill(s.column_dual, s.column_dual + problem.columns, 0.0);
  std::fill(s.owner, s.owner + problem.columns, -1);
  std::fill(s.line_dual, s.line_dual + problem.lines, 0.0);
  std::fill(s.column, s.column + problem.lines, -1);
  if (!take_costs<T>(p, layout, image, problem)) settle(s, problem, cost);
  for (std::int64_t line = 0; line < problem.lines; ++line) {
    if (s.line_dual[line] != -infinity<double>()) add_line(s, problem, cost, line);
  }

  std::int32_t* of_query = p.matched_gt + image * queries;
  std::int32_t* of_row = p.matched_query + image * rows;
  std::fill(of_query, of_query + queries, -1);
  std::fill(of_row, of_row + rows, -1);
  std::copy(s.column, s.column + problem.lines, problem.queries_are_lines ? of_query : of_row);
  std::copy(s.owner, s.owner + problem.columns, problem.queries_are_lines ? of_row : of_query);
  p.num_pos[image] = static_cast<std::int32_t>(problem.lines - std::count(s.column, s.column + problem.lines, std::int32_t{-1}));
}

}  // namespace
}  // namespace hungarian_assign

void hungarian_assign_cpu(const HungarianAssignParams& p) {
  using namespace hungarian_assign;
  std::size_t bytes = 0;
  const Layout layout = layout_of(p, &bytes);
  if (p.task != Task::kSolve) price(p, layout);
  if (p.task == Task::kCost) return;
  parallel_for(p.images(), grain_for(4 * layout.pairs), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t image = begin; image < end; ++image) {
      if (p.task == Task::kSolve && p.given.dtype == DType::kFloat64) {
        solve<double>(p, layout, image);
      } else {
        solve<float>(p, layout, image);
      }
    }
  });
}

}  // namespace fastdet
