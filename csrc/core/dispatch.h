// SPDX-License-Identifier: Apache-2.0
// From a dtype known at run time to a type known at compile time.
#pragma once

#include <utility>

#include "core/check.h"
#include "core/numeric.h"
#include "core/tensor.h"

namespace fastdet {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls visit(TypeTag<float | Half | BFloat16>{}); other dtypes were refused by the operator's check.
template <typename Visit>
decltype(auto) dispatch_float(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kFloat16: return std::forward<Visit>(visit)(TypeTag<Half>{});
    case DType::kBFloat16: return std::forward<Visit>(visit)(TypeTag<BFloat16>{});
    case DType::kFloat32: return std::forward<Visit>(visit)(TypeTag<float>{});
    default: throw TypeError(concat("dispatch: floating point dtype expected, got ", dtype_name(dtype)));
  }
}

// The same with float64, for operators that have gradients and are checked in it.
template <typename Visit>
decltype(auto) dispatch_float_or_double(DType dtype, Visit&& visit) {
  if (dtype == DType::kFloat64) return std::forward<Visit>(visit)(TypeTag<double>{});
  return dispatch_float(dtype, std::forward<Visit>(visit));
}

}  // namespace fastdet
