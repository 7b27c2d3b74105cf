// SPDX-License-Identifier: Apache-2.0
// CPU path: blocks of kRows rows against tiles of kTile columns, held on the stack as columns of prepared boxes; aligned boxes in
// tiles of both. Threads take blocks and tiles.
#include <algorithm>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/rotated_box_iou/rotated_box_iou.h"
#include "ops/rotated_box_iou/rotated_box_iou_columns.h"

namespace fastdet {
namespace rotated_iou {
namespace {

constexpr std::int64_t kGrain = 8192;         // pairs worth waking a thread for
constexpr std::int64_t kAlignedGrain = 1024;  // the same, aligned

template <typename T>
struct Columns {
  alignas(64) T fields[kMaxFields * kTile];

  // Prepares boxes first, first + 1, ... of an image.
  void load(Kind kind, const Form<T>& form, const TensorView& boxes, std::int64_t image, std::int64_t first, std::int64_t n) {
    alignas(64) T numbers[kNumbers * kTile];
    dispatch_float_or_double(boxes.dtype, [&](auto tag) {
      using Stored = typename decltype(tag)::type;
      const Stored* from = boxes.as<const Stored>() + image * boxes.stride[0] + first * boxes.stride[1];
      for (std::int64_t i = 0; i < n; ++i) {
        for (int k = 0; k < kNumbers; ++k) {
          numbers[k * kTile + i] = static_cast<T>(widen(from[i * boxes.stride[1] + k * boxes.stride[2]]));
        }
      }
    });
    prepare(kind, form, n, numbers, fields);
  }
};

template <typename T>
void pairs(const RotatedBoxIouParams& p, Kind kind, const Form<T>& form) {
  const std::int64_t m = p.rows(), n = p.columns(), blocks = ceil_div(m, kRows), tiles = ceil_div(n, kTile);
  const std::int64_t each = std::min(m, kRows) * std::min(n, kTile);
  parallel_for(p.images() * blocks * tiles, 1 + kGrain / (each + 1), [&](std::int64_t begin, std::int64_t end) {
    Columns<T> columns, rows;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / (blocks * tiles), row = i / tiles % blocks * kRows, column = i % tiles * kTile;
      const std::int64_t width = std::min(kTile, n - column), height = std::min(kRows, m - row);
      columns.load(kind, form, p.boxes2, image, column, width);
      rows.load(kind, form, p.boxes1, image, row, height);
      T* out = static_cast<T*>(p.out) + (image * m + row) * n + column;
      for (std::int64_t r = 0; r < height; ++r) values(kind, form, rows.fields, r, width, columns.fields, out + r * n);
    }
  });
}

template <typename T>
void aligned(const RotatedBoxIouParams& p, Kind kind, const Form<T>& form) {
  const std::int64_t m = p.rows(), tiles = ceil_div(m, kTile);
  parallel_for(p.images() * tiles, 1 + kAlignedGrain / (std::min(m, kTile) + 1), [&](std::int64_t begin, std::int64_t end) {
    Columns<T> columns, rows;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / tiles, row = i % tiles * kTile, n = std::min(kTile, m - row);
      rows.load(kind, form, p.boxes1, image, row, n);
      columns.load(kind, form, p.boxes2, image, row, n);
      aligned_values(kind, form, n, rows.fields, columns.fields, static_cast<T*>(p.out) + image * m + row);
    }
  });
}

template <typename T>
void run(const RotatedBoxIouParams& p) {
  const Form<T> form = form_of<T>(p.degrees);
  const Kind kind = kind_of(p.gaussian, p.over_first);
  p.aligned ? aligned<T>(p, kind, form) : pairs<T>(p, kind, form);
}

}  // namespace
}  // namespace rotated_iou

void rotated_box_iou_cpu(const RotatedBoxIouParams& p) {
  if (p.images() == 0 || p.rows() == 0 || p.columns() == 0) return;
  p.dtype() == DType::kFloat64 ? rotated_iou::run<double>(p) : rotated_iou::run<float>(p);
}

}  // namespace fastdet
