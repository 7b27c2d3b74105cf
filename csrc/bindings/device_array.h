// SPDX-License-Identifier: Apache-2.0
// fastdet.DeviceArray: results on a CUDA device for callers whose own package cannot make arrays (Numba, plain
// __cuda_array_interface__). Offers __cuda_array_interface__ and DLPack; owns its memory.
#pragma once

#include <memory>
#include <vector>

#include "bindings/frameworks.h"

namespace fastdet::bindings {

class DeviceArray {
 public:
  static Loan make(const std::vector<std::int64_t>& shape, DType dtype, int device_id);

  // The first `count` rows, or one of them without its axis; both share this memory.
  DeviceArray head(std::int64_t count) const;
  DeviceArray row(std::int64_t index) const;
  // The value of an array of one integer; waits for the device.
  std::int64_t integer() const;

  py::dict cuda_array_interface() const;
  py::capsule dlpack() const;
  py::tuple dlpack_device() const;
  const std::vector<std::int64_t>& shape() const { return shape_; }
  const char* dtype() const { return dtype_name(dtype_); }

 private:
  DeviceArray(const std::vector<std::int64_t>& shape, DType dtype, int device_id, std::shared_ptr<void> memory);

  std::vector<std::int64_t> shape_;
  DType dtype_;
  int device_id_;
  std::shared_ptr<void> memory_;
};

void bind_device_array(py::module_& module);

}  // namespace fastdet::bindings
