// SPDX-License-Identifier: Apache-2.0
// Errors of the library: one type per Python exception, one form of message, `op: argument rule, got value`.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "core/tensor.h"

namespace fastdet {

// An argument's value or shape breaks a rule: Python's ValueError.
struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// An argument's kind or dtype is not accepted: Python's TypeError.
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// The device or the system failed: Python's RuntimeError.
struct RuntimeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

inline std::string shape_text(const std::int64_t* shape, int ndim) {
  std::ostringstream out;
  out << '(';
  for (int i = 0; i < ndim; ++i) out << (i ? ", " : "") << shape[i];
  out << (ndim == 1 ? ",)" : ")");
  return out.str();
}
inline std::string shape_text(const TensorView& view) { return shape_text(view.shape, view.ndim); }

}  // namespace fastdet

// FD_CHECK(condition, ValueError, "nms: boxes must be (N, 4), got ", shape_text(boxes)): throws unless the condition holds.
#define FD_CHECK(condition, Error, ...)                                       \
  do {                                                                        \
    if (!(condition)) throw ::fastdet::Error(::fastdet::concat(__VA_ARGS__)); \
  } while (false)
