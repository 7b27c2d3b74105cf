// SPDX-License-Identifier: Apache-2.0
// The loops of the CPU path that are vector code.
#pragma once

#include <cstdint>

#include "ops/hungarian_assign/hungarian_assign_layout.h"
#include "ops/hungarian_assign/hungarian_assign_math.h"

namespace fastdet::hungarian_assign {

// Items side by side: number f of item i stands at base[f * pitch + i].
struct ItemColumns {
  float* base;
  std::int64_t pitch;

  void put(std::int64_t i, const Item& item) const;
  ItemColumns from(std::int64_t first) const { return {base + first, pitch}; }
};

// Costs of n queries with one object. `logits` holds those of the object's class and receives the costs. Returns whether all are
// finite.
bool pair_costs(std::int64_t n, const ItemColumns& queries, const Item& object, const Weights& weights, float* logits);

// Shortens the paths to all columns over one line, `base` away, and returns the shortest of all.
double lengthen(const Search& search, const Problem& problem, const float* cost, std::int64_t line, double base);
double lengthen(const Search& search, const Problem& problem, const double* cost, std::int64_t line, double base);

// The first of the columns at distance `least`: of the free ones, if there is any.
std::int64_t nearest(std::int64_t columns, double least, const double* distance, const std::int32_t* owner);

}  // namespace fastdet::hungarian_assign
