// SPDX-License-Identifier: Apache-2.0
// Where arrays come from and where results go: one Framework per way of exchanging arrays. Recognised by type, never by name.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace fastdet::bindings {

namespace py = pybind11;

// An argument borrowed for one call. `owner` keeps the memory alive where the view alone does not.
struct Loan {
  TensorView view;
  py::object owner;
};

class Framework {
 public:
  virtual ~Framework() = default;
  // A view of `array`; `op` and `name` go into messages.
  virtual Loan borrow(py::handle array, const char* op, const char* name) const = 0;
  // A new contiguous array; the loan's owner is the array itself.
  virtual Loan empty(const std::vector<std::int64_t>& shape, DType dtype, Device device, int device_id) const = 0;
  // The stream this framework's work runs on now; null on the CPU.
  virtual void* stream(Device device, int device_id) const = 0;
};

// The framework of an object, or null when it is no array at all. Cached per Python type.
const Framework* framework_of(py::handle object);

// Translation shared by the frameworks.
namespace detail {
Loan loan_from_dlpack_capsule(py::object capsule, const char* op, const char* name);
}

}  // namespace fastdet::bindings
