// SPDX-License-Identifier: Apache-2.0
// Call: one call of an operator from Python. Takes its arrays, finds out device and stream, makes the results in the
// caller's framework, provides the workspace, and runs the operator without the GIL.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/cuda_loader.h"
#include "bindings/frameworks.h"
#include "core/check.h"

namespace fastdet::bindings {

// Host memory of a call, which its thread keeps for the next one: pages fresh from the system cost as much as some operators.
class HostWorkspace {
 public:
  HostWorkspace() = default;
  HostWorkspace(const HostWorkspace&) = delete;
  HostWorkspace& operator=(const HostWorkspace&) = delete;
  ~HostWorkspace();
  // Aligned to cache lines, not cleared; what was reserved before is lost.
  void* reserve(std::size_t bytes);

  struct Memory {
    std::unique_ptr<char[]> bytes;
    std::size_t size = 0;
  };

 private:
  Memory memory_;
};

// A pybind11 signature takes the backend as the last argument: "auto", "cpu" or "cuda".
class Call {
 public:
  Call(const char* op, std::string_view backend);

  // Borrows an array argument until the call is over. All arrays of a call lie on one device.
  TensorView input(const char* name, py::handle array, std::initializer_list<DType> dtypes, int ndim);
  // The same for a writable array given by the caller (`out=`), which must not overlap any input taken before.
  TensorView writable(const char* name, py::handle array, std::initializer_list<DType> dtypes, int ndim);
  // A new contiguous array in the framework of the first input.
  TensorView output(const std::vector<std::int64_t>& shape, DType dtype, py::object* object);
  // Scratch memory on the device of the call, valid until the Call ends.
  void* workspace(std::size_t bytes);

  bool on_cuda() const { return cuda_; }
  void* stream();

  // Runs launch() without the GIL, on the right device; launch calls either the CPU path or cuda().<op>.
  template <typename Launch>
  void run(Launch&& launch) {
    const DeviceGuard guard(cuda_ ? device_id_ : -1);
    const py::gil_scoped_release released;
    launch();
  }

 private:
  void adopt(const char* name, py::handle array, const TensorView& view);

  const char* op_;
  std::string_view backend_;
  const Framework* framework_ = nullptr;
  std::string first_name_;
  Device device_ = Device::kCpu;
  int device_id_ = 0;
  bool cuda_ = false;
  std::vector<Loan> loans_;
  HostWorkspace host_workspace_;
  Loan device_workspace_;
};

}  // namespace fastdet::bindings
