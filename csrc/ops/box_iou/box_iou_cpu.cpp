// SPDX-License-Identifier: Apache-2.0
// CPU path: blocks of kRows rows against tiles of kTile columns, held on the stack as columns of prepared boxes. Threads take
// blocks and tiles; each output number is written by one of them, in an order of sums that does not depend on how many there are.
#include <algorithm>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/box_iou/box_iou.h"
#include "ops/box_iou/box_iou_columns.h"

namespace fastdet {
namespace pairwise_iou {
namespace {

constexpr std::int64_t kGrain = 16384;  // pairs worth waking a thread for

template <typename T>
struct Columns {
  alignas(64) T fields[kMaxFields * kTile];

  // Prepares boxes first, first + 1, ... of an image.
  void load(const IouRules& rules, const TensorView& boxes, std::int64_t image, std::int64_t first, std::int64_t n) {
    alignas(64) T numbers[kMaxNumbers * kTile];
    const int count = rules.coordinates();
    dispatch_float_or_double(boxes.dtype, [&](auto tag) {
      using Stored = typename decltype(tag)::type;
      const Stored* from = boxes.as<const Stored>() + image * boxes.stride[0] + first * boxes.stride[1];
      for (std::int64_t i = 0; i < n; ++i) {
        for (int k = 0; k < count; ++k) {
          numbers[k * kTile + i] = static_cast<T>(widen(from[i * boxes.stride[1] + k * boxes.stride[2]]));
        }
      }
    });
    prepare(rules, n, numbers, fields);
  }
};

// Part of a row of the gradient of the result; zeros up to a multiple of kLanes.
template <typename T>
void load_grad(const TensorView& grad, std::int64_t image, std::int64_t row, std::int64_t first, std::int64_t n, T* out) {
  const T* from = grad.as<const T>() + image * grad.stride[0] + row * grad.stride[1] + first * grad.stride[2];
  for (std::int64_t j = 0; j < n; ++j) out[j] = from[j * grad.stride[2]];
  for (std::int64_t j = n; j < ceil_div(n, kLanes) * kLanes; ++j) out[j] = T{0};
}

template <typename T>
void forward(const BoxIouParams& p) {
  const std::int64_t m = p.rows(), n = p.columns(), blocks = ceil_div(m, kRows), tiles = ceil_div(n, kTile);
  const std::int64_t pairs = std::min(m, kRows) * std::min(n, kTile);
  parallel_for(p.images() * blocks * tiles, 1 + kGrain / (pairs + 1), [&](std::int64_t begin, std::int64_t end) {
    Columns<T> columns, rows;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / (blocks * tiles), row = i / tiles % blocks * kRows, column = i % tiles * kTile;
      const std::int64_t width = std::min(kTile, n - column), height = std::min(kRows, m - row);
      columns.load(p.rules, p.boxes2, image, column, width);
      rows.load(p.rules, p.boxes1, image, row, height);
      T* out = static_cast<T*>(p.out) + (image * m + row) * n + column;
      for (std::int64_t r = 0; r < height; ++r) values(p.rules, rows.fields, r, width, columns.fields, out + r * n);
    }
  });
}

template <typename T>
void backward1(const BoxIouParams& p) {
  const std::int64_t m = p.rows(), n = p.columns(), blocks = ceil_div(m, kRows);
  const int count = p.rules.coordinates();
  parallel_for(p.images() * blocks, 1 + kGrain / (std::min(m, kRows) * n + 1), [&](std::int64_t begin, std::int64_t end) {
    Columns<T> columns = {}, rows;  // cleared: lanes past the end read it
    T grad[kTile], sums[kRows][kMaxNumbers];
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / blocks, row = i % blocks * kRows, height = std::min(kRows, m - row);
      rows.load(p.rules, p.boxes1, image, row, height);
      std::fill(&sums[0][0], &sums[0][0] + kRows * kMaxNumbers, T{0});
      for (std::int64_t column = 0; column < n; column += kTile) {
        const std::int64_t width = std::min(kTile, n - column);
        columns.load(p.rules, p.boxes2, image, column, width);
        for (std::int64_t r = 0; r < height; ++r) {
          load_grad(p.grad, image, row + r, column, width, grad);
          add_to_row(p.rules, rows.fields, r, ceil_div(width, kLanes) * kLanes, columns.fields, grad, sums[r]);
        }
      }
      for (std::int64_t r = 0; r < height; ++r) {
        for (int k = 0; k < count; ++k) store_number(p.grad1, p.boxes1.dtype, (image * m + row + r) * count + k, sums[r][k]);
      }
    }
  });
}

template <typename T>
void backward2(const BoxIouParams& p) {
  const std::int64_t m = p.rows(), n = p.columns(), tiles = ceil_div(n, kTile);
  const int count = p.rules.coordinates();
  parallel_for(p.images() * tiles, 1 + kGrain / (std::min(n, kTile) * m + 1), [&](std::int64_t begin, std::int64_t end) {
    Columns<T> columns, rows;
    T grad[kTile], block[kMaxNumbers * kTile], sums[kMaxNumbers * kTile];
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / tiles, column = i % tiles * kTile, width = std::min(kTile, n - column);
      columns.load(p.rules, p.boxes2, image, column, width);
      std::fill(sums, sums + kMaxNumbers * kTile, T{0});
      for (std::int64_t row = 0; row < m; row += kRows) {
        const std::int64_t height = std::min(kRows, m - row);
        rows.load(p.rules, p.boxes1, image, row, height);
        std::fill(block, block + kMaxNumbers * kTile, T{0});
        for (std::int64_t r = 0; r < height; ++r) {
          load_grad(p.grad, image, row + r, column, width, grad);
          add_to_columns(p.rules, rows.fields, r, width, columns.fields, grad, block);
        }
        for (std::int64_t j = 0; j < kMaxNumbers * kTile; ++j) sums[j] += block[j];
      }
      for (std::int64_t j = 0; j < width; ++j) {
        for (int k = 0; k < count; ++k) {
          store_number(p.grad2, p.boxes2.dtype, (image * n + column + j) * count + k, sums[k * kTile + j]);
        }
      }
    }
  });
}

template <typename T>
void run(const BoxIouParams& p) {
  if (p.out != nullptr && p.rows() > 0 && p.columns() > 0) forward<T>(p);
  if (p.grad1 != nullptr && p.rows() > 0) backward1<T>(p);
  if (p.grad2 != nullptr && p.columns() > 0) backward2<T>(p);
}

}  // namespace
}  // namespace pairwise_iou

void box_iou_cpu(const BoxIouParams& p) {
  if (p.images() == 0) return;
  p.dtype() == DType::kFloat64 ? pairwise_iou::run<double>(p) : pairwise_iou::run<float>(p);
}

}  // namespace fastdet
