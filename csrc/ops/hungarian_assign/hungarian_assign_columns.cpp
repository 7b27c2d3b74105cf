// SPDX-License-Identifier: Apache-2.0
#include "ops/hungarian_assign/hungarian_assign_columns.h"

namespace fastdet::hungarian_assign {
namespace {

template <bool kSquare>
FD_HD bool price(std::int64_t n, const ItemColumns& queries, const Item& object, const Weights& weights,
                 float* FD_RESTRICT logits) {
  const std::int64_t pitch = queries.pitch;
  const float *FD_RESTRICT x = queries.base, *FD_RESTRICT y = x + pitch, *FD_RESTRICT w = y + pitch, *FD_RESTRICT h = w + pitch;
  const float *FD_RESTRICT x1 = h + pitch, *FD_RESTRICT y1 = x1 + pitch, *FD_RESTRICT x2 = y1 + pitch;
  const float *FD_RESTRICT y2 = x2 + pitch, *FD_RESTRICT area = y2 + pitch;
  const Item to = object;
  const Weights by = weights;
  std::uint32_t odd = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const Item query = {x[i], y[i], w[i], h[i], {x1[i], y1[i], x2[i], y2[i], area[i], 0.0f}};
    const float cost = pair_cost<kSquare>(query, to, logits[i], by);
    odd |= is_finite(cost) ? 0u : 1u;
    logits[i] = cost;
  }
  return odd == 0u;
}

// In tiles, so that every loop is one that compilers turn into vector code.
constexpr std::int64_t kTile = 64;

template <typename T>
FD_HD double walk(std::int64_t n, double base, const T* FD_RESTRICT cost, std::int64_t step, double line_dual,
                  const double* FD_RESTRICT column_dual, std::int64_t line, double* FD_RESTRICT distance,
                  std::int64_t* FD_RESTRICT previous) {
  double least[kTile];
  T gathered[kTile];
  for (std::int64_t i = 0; i < kTile; ++i) least[i] = infinity<double>();
  for (std::int64_t first = 0; first < n; first += kTile) {
    const std::int64_t size = n - first < kTile ? n - first : kTile;
    const T* costs = cost + first;
    if (step != 1) {
      for (std::int64_t i = 0; i < size; ++i) gathered[i] = cost[(first + i) * step];
      costs = gathered;
    }
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t j = first + i;
      const double length = path_length(base, static_cast<double>(costs[i]), line_dual, column_dual[j]), before = distance[j];
      const bool shorter = length < before;
      const double now = shorter ? length : before;
      const std::int64_t over = previous[j];
      distance[j] = now;
      previous[j] = shorter ? line : over;
      const double held = least[i];
      least[i] = now < held ? now : held;
    }
  }
  for (std::int64_t half = kTile / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) least[i] = smaller(least[i], least[i + half]);
  }
  return least[0];
}

template <typename T>
FD_HD double lengthen_over(const Search& s, const Problem& problem, const T* cost, std::int64_t line, double base) {
  return walk(problem.columns, base, cost + line * problem.line_step, problem.column_step, s.line_dual[line], s.column_dual, line,
              s.distance, s.previous);
}

}  // namespace

void ItemColumns::put(std::int64_t i, const Item& item) const {
  const float numbers[] = {item.x, item.y, item.w, item.h, item.box.x1, item.box.y1, item.box.x2, item.box.y2, item.box.area};
  std::int64_t at = i;
  for (const float number : numbers) {
    base[at] = number;
    at += pitch;
  }
}

FD_TARGET_CLONES
bool price_square(std::int64_t n, const ItemColumns& queries, const Item& object, const Weights& weights, float* logits) {
  return price<true>(n, queries, object, weights, logits);
}

FD_TARGET_CLONES
bool price_power(std::int64_t n, const ItemColumns& queries, const Item& object, const Weights& weights, float* logits) {
  return price<false>(n, queries, object, weights, logits);
}

bool pair_costs(std::int64_t n, const ItemColumns& queries, const Item& object, const Weights& weights, float* logits) {
  return (weights.gamma == 2.0f ? price_square : price_power)(n, queries, object, weights, logits);
}

FD_TARGET_CLONES
double lengthen(const Search& search, const Problem& problem, const float* cost, std::int64_t line, double base) {
  return lengthen_over(search, problem, cost, line, base);
}

FD_TARGET_CLONES
double lengthen(const Search& search, const Problem& problem, const double* cost, std::int64_t line, double base) {
  return lengthen_over(search, problem, cost, line, base);
}

FD_TARGET_CLONES
std::int64_t nearest(std::int64_t columns, double least, const double* distance, const std::int32_t* owner) {
  std::int64_t taken = -1;
  for (std::int64_t first = 0; first < columns; first += kTile) {
    const std::int64_t end = columns - first < kTile ? columns : first + kTile;
    std::int64_t hits = 0;
    for (std::int64_t j = first; j < end; ++j) hits += distance[j] == least ? 1 : 0;
    for (std::int64_t j = first; hits > 0; ++j) {
      if (distance[j] != least) continue;
      if (owner[j] < 0) return j;
      if (taken < 0) taken = j;
      --hits;
    }
  }
  return taken;
}

}  // namespace fastdet::hungarian_assign
