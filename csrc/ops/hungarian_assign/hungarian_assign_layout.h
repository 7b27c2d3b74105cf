// SPDX-License-Identifier: Apache-2.0
// How the workspace is cut up, the same on both devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/workspace.h"
#include "ops/hungarian_assign/hungarian_assign.h"
#include "ops/hungarian_assign/hungarian_assign_math.h"

namespace fastdet::hungarian_assign {

template <typename T>
FD_HD void exchange(T& a, T& b) {
  const T kept = a;
  a = b;
  b = kept;
}

// One image's problem: which side are the lines. Costs lie as [lines, columns], unless the sides were exchanged since.
struct Problem {
  std::int64_t lines, columns, line_step, column_step;
  bool queries_are_lines;

  FD_HD std::int64_t at(std::int64_t query, std::int64_t row) const {
    return queries_are_lines ? query * line_step + row * column_step : row * line_step + query * column_step;
  }

  // Whether the sides have to be exchanged when this many more lines than columns take part.
  FD_HD bool is_wrong_way(std::int64_t surplus) const { return queries_are_lines ? surplus >= 0 : surplus > 0; }

  FD_HD void exchange_sides() {
    exchange(lines, columns);
    exchange(line_step, column_step);
    queries_are_lines = !queries_are_lines;
  }
};

FD_HD Problem problem_of(std::int64_t queries, std::int64_t count) {
  return count > queries ? Problem{queries, count, count, 1, true} : Problem{count, queries, queries, 1, false};
}

// What the search over one image's problem keeps.
struct Search {
  double* column_dual;     // [columns]; -inf while a column is in the tree, and where it takes no part
  double* distance;        // [columns] shortest path found so far; +inf while it is in the tree
  std::int64_t* previous;  // [columns] the line before it on that path
  std::int32_t* owner;     // [columns] its line, -1: free
  double* line_dual;       // [lines]; -inf where a line takes no part
  std::int32_t* column;    // [lines] its column, -1: none
  // Columns in the tree, in the order in which they entered: fewer than lines take part.
  double* tree_distance;      // [lines]
  double* tree_dual;          // [lines]
  std::int32_t* tree_column;  // [lines]

  // For Problem::exchange_sides. There are at most as many lines as columns before; after it some of the other arrays are longer
  // than need be.
  FD_HD void exchange_sides() {
    exchange(column_dual, line_dual);
    exchange(owner, column);
  }

  // Cuts it from `base` (null: only measures) for a problem of at most this size; returns the bytes.
  FD_HD std::size_t cut(void* base, std::int64_t lines, std::int64_t columns) {
    char* next = static_cast<char*>(base);
    std::size_t used = 0;
    const auto take = [&](auto** pointer, std::int64_t n) {
      *pointer = next == nullptr ? nullptr : reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(next + used);
      used += (static_cast<std::size_t>(n) * sizeof(**pointer) + 15) / 16 * 16;
    };
    take(&column_dual, columns);
    take(&distance, columns);
    take(&previous, columns);
    take(&owner, columns);
    take(&line_dual, lines);
    take(&column, lines);
    take(&tree_distance, lines);
    take(&tree_dual, lines);
    take(&tree_column, lines);
    return used;
  }
};

struct Layout {
  std::int64_t pairs;          // Q M, costs of an image
  std::int64_t search_bytes;   // of an image
  std::int64_t column_floats;  // of an image, for the CPU's columns of queries
  unsigned char* cost;         // [B, Q M] of double where they are given so, else of float
  unsigned char* search;       // [B, search_bytes]
  float* query_columns;        // [B, column_floats]
  unsigned char* unordinary;   // [B, M] the CPU's note that some cost of an object is not

  template <typename T>
  FD_HD T* costs(std::int64_t image) const {
    return reinterpret_cast<T*>(cost) + image * pairs;
  }
};

constexpr int kQueryColumns = 9;  // the numbers of an Item that GIoU needs

inline Layout layout_of(const HungarianAssignParams& p, std::size_t* bytes) {
  using Task = HungarianAssignParams::Task;
  Layout layout = {};
  const std::int64_t q = p.queries(), m = p.rows();
  Search search;
  layout.pairs = q * m;
  layout.search_bytes = (static_cast<std::int64_t>(search.cut(nullptr, q < m ? q : m, q < m ? m : q)) + 63) / 64 * 64;
  layout.column_floats = kQueryColumns * q;
  Workspace workspace(p.workspace);
  const bool wide = p.task == Task::kSolve && p.given.dtype == DType::kFloat64;
  const bool solves = p.task != Task::kCost, prices = p.task != Task::kSolve;
  workspace.take(&layout.cost, solves ? p.images() * layout.pairs * (wide ? 8 : 4) : 0);
  workspace.take(&layout.search, solves ? p.images() * layout.search_bytes : 0);
  workspace.take(&layout.query_columns, prices ? p.images() * layout.column_floats : 0);
  workspace.take(&layout.unordinary, solves && prices ? p.images() * m : 0);
  *bytes = workspace.used();
  return layout;
}

inline Weights weights_of(const HungarianAssignParams& p) {
  return {p.class_weight, p.l1_weight, p.giou_weight, p.alpha, 1.0f - p.alpha, p.gamma};
}

}  // namespace fastdet::hungarian_assign
