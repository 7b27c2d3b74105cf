// SPDX-License-Identifier: Apache-2.0
// Single elements of arrays whose dtype is known at run time alone.
#pragma once

#include <cstdint>

#include "core/numeric.h"
#include "core/tensor.h"

namespace fastdet {

// int32 or int64.
FD_HD std::int64_t load_integer(const TensorView& view, std::int64_t at) {
  return view.dtype == DType::kInt32 ? view.as<const std::int32_t>()[at] : view.as<const std::int64_t>()[at];
}

// One number of an array of any floating dtype, as T.
template <typename T>
FD_HD T load_number(const TensorView& view, std::int64_t at) {
  switch (view.dtype) {
    case DType::kFloat16: return static_cast<T>(to_float(view.as<const Half>()[at]));
    case DType::kBFloat16: return static_cast<T>(to_float(view.as<const BFloat16>()[at]));
    case DType::kFloat64: return static_cast<T>(view.as<const double>()[at]);
    default: return static_cast<T>(view.as<const float>()[at]);
  }
}

// The numbers of a row that starts at element `at`, `step` apart.
template <typename T, int N>
FD_HD void load_row(const TensorView& view, std::int64_t at, std::int64_t step, T (&row)[N]) {
  for (int i = 0; i < N; ++i) row[i] = load_number<T>(view, at + i * step);
}

}  // namespace fastdet
