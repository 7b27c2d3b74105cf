// SPDX-License-Identifier: Apache-2.0
// Blocks of 16 channels of neighbouring anchors, a row for each channel, whatever the order in memory is.
#pragma once

#include <cstdint>

#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

constexpr std::int64_t kBlock = 64;   // anchors
constexpr std::int64_t kPlanes = 16;  // channels

struct RowSteps {
  std::int64_t anchor, channel;
};

struct Same {
  template <typename R>
  FD_HD R operator()(R value) const {
    return value;
  }
};
struct Sigmoid {
  template <typename R>
  FD_HD R operator()(R value) const {
    return sigmoid_exact(value);
  }
};

// to[j] = rule(number j). A rule at once saves a sweep, and the copy that compilers make of a loop that only loads.
template <typename T, typename Rule = Same>
FD_HD void load_row(const T* FD_RESTRICT from, std::int64_t step, std::int64_t size, ArithmeticOf<T>* FD_RESTRICT to,
                    const Rule& rule = {}) {
  if (step == 1) {
    for (std::int64_t j = 0; j < size; ++j) to[j] = rule(widen<T>(from[j]));
  } else {
    for (std::int64_t j = 0; j < size; ++j) to[j] = rule(widen<T>(from[j * step]));
  }
}

template <typename T>
FD_HD void store_row(const ArithmeticOf<T>* FD_RESTRICT row, std::int64_t step, std::int64_t size, T* FD_RESTRICT to) {
  if (step == 1) {
    for (std::int64_t j = 0; j < size; ++j) to[j] = narrow<T>(row[j]);
  } else {
    for (std::int64_t j = 0; j < size; ++j) to[j * step] = narrow<T>(row[j]);
  }
}

// Asks for a row that will be read or written soon: rows of a block lie in many pages, too short for the hardware to see a
// pattern.
template <int kWrite, typename T>
FD_HD void expect_access(const T* row, std::int64_t step, std::int64_t size) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  if (step != 1) return;
  for (std::int64_t j = 0; j < size; j += kLine) __builtin_prefetch(row + j, kWrite);
}

// Interleaves four rows of `size` numbers, or takes them apart: loops of a form that compilers turn into shuffles of registers.
template <typename R>
FD_HD void interleave(const R* FD_RESTRICT from, std::int64_t step, std::int64_t size, R* FD_RESTRICT to) {
  const R *a = from, *b = from + step, *c = from + 2 * step, *d = from + 3 * step;
  for (std::int64_t j = 0; j < size; ++j) {
    to[4 * j] = a[j];
    to[4 * j + 1] = b[j];
    to[4 * j + 2] = c[j];
    to[4 * j + 3] = d[j];
  }
}
template <typename R>
FD_HD void take_apart(const R* FD_RESTRICT from, std::int64_t size, R* FD_RESTRICT a, R* FD_RESTRICT b, R* FD_RESTRICT c,
                      R* FD_RESTRICT d) {
  for (std::int64_t j = 0; j < size; ++j) {
    a[j] = from[4 * j];
    b[j] = from[4 * j + 1];
    c[j] = from[4 * j + 2];
    d[j] = from[4 * j + 3];
  }
}

// rows[k * step + j] = from[j * kPlanes + k] for all planes of `size` anchors.
template <typename R>
FD_HD void turn_planes(const R* FD_RESTRICT from, std::int64_t size, std::int64_t step, R* FD_RESTRICT rows) {
  R quarters[4][4 * kBlock];
  take_apart(from, 4 * size, quarters[0], quarters[1], quarters[2], quarters[3]);
  for (std::int64_t q = 0; q < 4; ++q) {
    R* row = rows + q * step;
    take_apart(quarters[q], size, row, row + 4 * step, row + 8 * step, row + 12 * step);
  }
}

// rows[k * kBlock + j] = rule(channel k of anchor j), for `planes` channels of `size` anchors.
template <typename T, typename Rule = Same, typename R = ArithmeticOf<T>>
FD_HD void load_planes(const T* from, const RowSteps& steps, std::int64_t planes, std::int64_t size, R* FD_RESTRICT rows,
                       const Rule& rule = {}) {
  if (steps.channel != 1 || steps.anchor == 1 || planes != kPlanes) {
    for (std::int64_t k = 0; k < planes; ++k) {
      expect_access<0>(from + k * steps.channel + size, steps.anchor, size);
      load_row(from + k * steps.channel, steps.anchor, size, rows + k * kBlock, rule);
    }
    return;
  }
  R anchors[kPlanes * kBlock];
  for (std::int64_t j = 0; j < size; ++j) {
    __builtin_prefetch(from + (j + size) * steps.anchor);
    for (std::int64_t k = 0; k < kPlanes; ++k) anchors[kPlanes * j + k] = rule(widen<T>(from[j * steps.anchor + k]));
  }
  turn_planes(anchors, size, kBlock, rows);
}

template <typename T, typename R = ArithmeticOf<T>>
FD_HD void store_planes(const R* FD_RESTRICT rows, const RowSteps& steps, std::int64_t planes, std::int64_t size, T* to) {
  if (steps.channel != 1 || steps.anchor == 1 || planes != kPlanes) {
    for (std::int64_t k = 0; k < planes; ++k) store_row<T>(rows + k * kBlock, steps.anchor, size, to + k * steps.channel);
    return;
  }
  R anchors[kPlanes * kBlock], quarters[4 * 4 * kBlock];
  for (std::int64_t q = 0; q < 4; ++q) {
    interleave(rows + q * kBlock, 4 * kBlock, size, quarters + q * 4 * kBlock);
  }
  interleave(quarters, 4 * kBlock, 4 * size, anchors);
  for (std::int64_t j = 0; j < size; ++j) {
    for (std::int64_t k = 0; k < kPlanes; ++k) to[j * steps.anchor + k] = narrow<T>(anchors[kPlanes * j + k]);
  }
}

}  // namespace fastdet
