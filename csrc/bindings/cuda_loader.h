// SPDX-License-Identifier: Apache-2.0
// The CUDA library is opened on the first call that needs it, never at import.
#pragma once

#include <string>

#include "bindings/cuda_table.h"

namespace fastdet::bindings {

// Opens the library once: FASTDET_CUDA_LIB, else the one for the driver in the package's lib folder. Throws RuntimeError saying
// what is missing; the next call tries again.
const CudaTable& cuda();
// Whether cuda() would succeed with at least one device.
bool cuda_available(std::string* why);
// The table's functions with errors turned into RuntimeError.
int device_of_pointer(const void* pointer);
void synchronize_stream(void* stream);

template <typename Params>
void launch_cuda(CudaTable::Launcher<Params> launcher, const Params& params, void* stream);
[[noreturn]] void throw_cuda_error(const char* message);

template <typename Params>
void launch_cuda(CudaTable::Launcher<Params> launcher, const Params& params, void* stream) {
  char message[CudaTable::kMessageSize];
  if (launcher(&params, stream, message) != 0) throw_cuda_error(message);
}

// Makes `device` current and puts the previous one back. Negative: does nothing.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

void set_library_folder(const std::string& folder);

}  // namespace fastdet::bindings
