// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/launch.h"
#include "ops/hungarian_assign/hungarian_assign.h"
#include "ops/hungarian_assign/hungarian_assign_layout.h"
#include "ops/hungarian_assign/hungarian_assign_math.h"

namespace fastdet::hungarian_assign {

constexpr int kPriceThreads = 256;
constexpr int kMaxSolveThreads = 512;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Thread: one pair. Writes its cost where the solver reads it or, for kCost, into the result. Neighbours share the object where
// the solver's lines are objects, else the query.
template <bool kSquare>
__global__ FD_LAUNCH_BOUNDS(kPriceThreads) void hungarian_assign_price_kernel(HungarianAssignParams p, Layout w,
                                                                              Weights weights) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kPriceThreads + threadIdx.x;
  if (pair >= p.images() * w.pairs) return;
  const bool want_cost = p.task == HungarianAssignParams::Task::kCost;
  const std::int64_t rows = p.rows(), queries = p.queries(), image = pair / w.pairs, rest = pair % w.pairs;
  const std::int64_t count = load_count(p.count, image, rows);
  const Problem problem = problem_of(queries, count);
  const bool rows_inside = want_cost || problem.queries_are_lines;
  const std::int64_t query = rows_inside ? rest / rows : rest % queries, row = rows_inside ? rest % rows : rest / queries;
  float cost = infinity<float>();
  if (row < count) {
    const std::int64_t label = load_label(p.gt_labels, p.classes(), image, row);
    if (label >= 0) {
      const std::int64_t at = image * p.logits.stride[0] + query * p.logits.stride[1] + label * p.logits.stride[2];
      cost = pair_cost<kSquare>(load_item(p.boxes, image, query), load_item(p.gt_boxes, image, row),
                                load_number<float>(p.logits, at), weights);
    }
    if (!want_cost) w.costs<float>(image)[problem.at(query, row)] = cost;
  }
  if (want_cost) p.cost[pair] = cost;
}

// Thread: one given cost. Copies it to where the solver reads it.
template <typename T, typename Stored>
__global__ FD_LAUNCH_BOUNDS(kPriceThreads) void hungarian_assign_take_kernel(HungarianAssignParams p, Layout w) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kPriceThreads + threadIdx.x;
  if (pair >= p.images() * w.pairs) return;
  const std::int64_t rows = p.rows(), image = pair / w.pairs, query = pair % w.pairs / rows, row = pair % rows;
  const std::int64_t count = load_count(p.count, image, rows);
  if (row >= count) return;
  const Stored* from = p.given.as<const Stored>() + image * p.given.stride[0];
  w.costs<T>(image)[problem_of(p.queries(), count).at(query, row)] =
      widen(from[query * p.given.stride[1] + row * p.given.stride[2]]);
}

struct Nearest {
  double distance;
  std::uint32_t rank;
};

FD_D Nearest nearer(const Nearest& a, const Nearest& b) {
  const bool second = b.distance < a.distance || (b.distance == a.distance && b.rank < a.rank);
  return second ? b : a;
}

// The nearest of the block, the same in every thread. One barrier; `scratch` (an entry per warp) must not be that of the call
// before.
FD_D Nearest block_nearest(Nearest mine, Nearest* scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Nearest other = {__shfl_xor_sync(kAllLanes, mine.distance, step), __shfl_xor_sync(kAllLanes, mine.rank, step)};
    mine = nearer(mine, other);
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
  __syncthreads();
  Nearest all = scratch[0];
  for (int i = 1; i < static_cast<int>(blockDim.x) / kWarp; ++i) all = nearer(all, scratch[i]);
  return all;
}

// Walks the path back from its free column, giving each line on it the column before. One thread.
FD_D void turn_path(const Search& s, std::int64_t sink, std::int64_t line) {
  for (std::int64_t column = sink, from = -1; from != line;) {
    from = s.previous[column];
    s.owner[column] = static_cast<std::int32_t>(from);
    const std::int32_t freed = s.column[from];
    s.column[from] = static_cast<std::int32_t>(column);
    column = freed;
  }
}

// Where some cost is not ordinary: marks who takes no part, makes the costs such that they can be summed, and exchanges the sides
// where the fewer are the columns now. Every thread has its own `s` and `problem`; begins and ends with all threads at one place.
template <typename T>
FD_D void settle(Search& s, Problem& problem, T* cost, Nearest* scratch, std::int32_t* surplus) {
  const std::int64_t thread = threadIdx.x, threads = blockDim.x;
  const double out = -infinity<double>();
  T largest = -infinity<T>();
  int shrinks = 0;
  std::int32_t more_lines = 0;
  for (std::int64_t j = thread; j < problem.columns; j += threads) {
    bool takes_part = false;
    for (std::int64_t line = 0; line < problem.lines; ++line) {
      const T value = cost[line * problem.columns + j];
      if (!is_finite(value)) continue;
      takes_part = true;
      largest = value > largest ? value : largest;
      shrinks |= is_ordinary(value) ? 0 : 1;
    }
    if (!takes_part) s.column_dual[j] = out;
    more_lines -= takes_part ? 1 : 0;
  }
  for (std::int64_t line = thread; line < problem.lines; line += threads) {
    bool takes_part = false;
    for (std::int64_t j = 0; j < problem.columns; ++j) takes_part |= is_finite(cost[line * problem.columns + j]);
    if (!takes_part) s.line_dual[line] = out;
    more_lines += takes_part ? 1 : 0;
  }
  if (more_lines != 0) atomicAdd(surplus, more_lines);
  largest = static_cast<T>(-block_nearest({-static_cast<double>(largest), 0u}, scratch).distance);
  shrinks = __syncthreads_or(shrinks);
  for (std::int64_t i = thread; i < problem.lines * problem.columns; i += threads) {
    cost[i] = settled_cost(cost[i], largest, shrinks != 0);
  }
  if (problem.is_wrong_way(*surplus)) {
    problem.exchange_sides();
    s.exchange_sides();
  }
  __syncthreads();
}

// Gives a column to `line`. Thread t owns columns t, t + blockDim.x, ...: nobody else touches their distance, previous and dual
// while the tree grows. Begins and ends with all threads agreeing on everything else.
template <typename T>
FD_D void add_line(const Search& s, const Problem& problem, const T* cost, std::int64_t line, Nearest* scratch) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const double none = infinity<double>();
  double base = 0.0;
  std::int64_t last = line, sink = -1, size = 0;
  while (true) {
    const T* row = cost + last * problem.line_step;
    const double line_dual = s.line_dual[last];
    Nearest mine = {none, 0xffffffffu};
    for (std::int64_t j = thread; j < problem.columns; j += threads) {
      const double before = last == line ? none : s.distance[j];
      const double length = path_length(base, static_cast<double>(row[j * problem.column_step]), line_dual, s.column_dual[j]);
      const double now = length < before ? length : before;
      s.distance[j] = now;
      if (length < before) s.previous[j] = last;
      mine = nearer(mine, {now, column_rank(s.owner[j], j)});
    }
    const Nearest found = block_nearest(mine, scratch + size % 2 * (kMaxSolveThreads / kWarp));
    base = found.distance;
    const std::int64_t column = rank_column(found.rank);
    if (rank_is_free(found.rank)) {
      sink = column;
      break;
    }
    if (column % threads == thread) {
      s.tree_column[size] = static_cast<std::int32_t>(column);
      s.tree_distance[size] = base;
      s.tree_dual[size] = s.column_dual[column];
      s.column_dual[column] = -none;
      s.distance[column] = none;
    }
    ++size;
    last = s.owner[column];
  }
  __syncthreads();
  for (std::int64_t k = thread; k < size; k += threads) {
    const std::int32_t column = s.tree_column[k];
    const double change = base - s.tree_distance[k];
    s.column_dual[column] = s.tree_dual[k] - change;
    s.line_dual[s.owner[column]] += change;
  }
  __syncthreads();
  if (thread == 0) {
    s.line_dual[line] = base;
    turn_path(s, sink, line);
  }
  __syncthreads();
}

// Block: one image. The search lies in dynamic shared memory where it fits, else in the workspace. Reads the costs (and settles
// them where they are not ordinary), writes matched_gt, matched_query and num_pos.
template <typename T>
__global__ FD_LAUNCH_BOUNDS(kMaxSolveThreads, 1) void hungarian_assign_solve_kernel(HungarianAssignParams p, Layout w,
                                                                                    bool in_shared) {
  FD_SHARED(Nearest, scratch, 2 * kMaxSolveThreads / kWarp);
  FD_SHARED(std::int32_t, matched, 1);
  FD_SHARED(std::int32_t, surplus, 1);
  FD_DYN_SHARED(unsigned char, shared);
  const std::int64_t image = blockIdx.x, thread = threadIdx.x, threads = blockDim.x;
  const std::int64_t queries = p.queries(), rows = p.rows();
  Problem problem = problem_of(queries, load_count(p.count, image, rows));
  T* cost = w.costs<T>(image);
  Search s;
  s.cut(in_shared ? shared : w.search + image * w.search_bytes, problem.lines, problem.columns);
  for (std::int64_t j = thread; j < problem.columns; j += threads) {
    s.column_dual[j] = 0.0;
    s.owner[j] = -1;
  }
  for (std::int64_t line = thread; line < problem.lines; line += threads) {
    s.line_dual[line] = 0.0;
    s.column[line] = -1;
  }
  if (thread == 0) matched[0] = surplus[0] = 0;
  int odd = 0;
  for (std::int64_t i = thread; i < problem.lines * problem.columns; i += threads) odd |= is_ordinary(cost[i]) ? 0 : 1;
  if (__syncthreads_or(odd) != 0) settle(s, problem, cost, scratch, surplus);
  for (std::int64_t line = 0; line < problem.lines; ++line) {
    if (s.line_dual[line] != -infinity<double>()) add_line(s, problem, cost, line, scratch);
  }

  const std::int32_t* of_query = problem.queries_are_lines ? s.column : s.owner;
  const std::int32_t* of_row = problem.queries_are_lines ? s.owner : s.column;
  const std::int64_t count = problem.queries_are_lines ? problem.columns : problem.lines;
  std::int32_t found = 0;
  for (std::int64_t q = thread; q < queries; q += threads) {
    p.matched_gt[image * queries + q] = of_query[q];
    found += of_query[q] >= 0 ? 1 : 0;
  }
  for (std::int64_t row = thread; row < rows; row += threads) {
    p.matched_query[image * rows + row] = row < count ? of_row[row] : -1;
  }
  if (found > 0) atomicAdd(&matched[0], found);
  __syncthreads();
  if (thread == 0) p.num_pos[image] = matched[0];
}

}  // namespace fastdet::hungarian_assign
