// SPDX-License-Identifier: Apache-2.0
#include "bindings/cuda_loader.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "core/check.h"

namespace fastdet::bindings {
namespace {

std::string library_folder;
std::atomic<const CudaTable*> loaded{nullptr};
std::mutex load_mutex;

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' && std::string(value) != "0";
}

// Version of the installed driver as cuDriverGetVersion gives it, 0 when there is none.
int driver_version() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return 0;
  using GetVersion = int (*)(int*);
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(driver, "cuDriverGetVersion"));
  int version = 0;
  if (get_version == nullptr || get_version(&version) != 0) version = 0;
  return version;
}

std::string library_path() {
  FD_CHECK(!is_set("FASTDET_DISABLE_CUDA"), RuntimeError, "cuda: disabled by FASTDET_DISABLE_CUDA");
  if (const char* path = std::getenv("FASTDET_CUDA_LIB")) return path;
  const int version = driver_version();
  FD_CHECK(version > 0, RuntimeError, "cuda: no NVIDIA driver was found (libcuda.so.1)");
  FD_CHECK(version >= 12000, RuntimeError, "cuda: the driver supports CUDA ", version / 1000, ".", version % 1000 / 10,
           ", 12.0 or newer is needed");
  return library_folder + (version >= 13000 ? "/libfastdet_cuda13.so" : "/libfastdet_cuda12.so");
}

const CudaTable* open_library() {
  const std::string path = library_path();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw RuntimeError(concat("cuda: this fastdet has no usable CUDA library (", reason != nullptr ? reason : path, ")"));
  }
  const auto get_table = reinterpret_cast<decltype(&fastdet_cuda_table)>(dlsym(library, "fastdet_cuda_table"));
  FD_CHECK(get_table != nullptr, RuntimeError, "cuda: ", path, " is not a CUDA library of fastdet");
  const CudaTable* table = get_table();
  FD_CHECK(table->abi == CudaTable::kAbi && table->size == sizeof(CudaTable), RuntimeError, "cuda: ", path, " has interface ",
           table->abi, ", this fastdet needs ", CudaTable::kAbi, "; both must come from one build");
  return table;
}

void check(int status, const char* message) {
  if (status != 0) throw_cuda_error(message);
}

}  // namespace

void set_library_folder(const std::string& folder) { library_folder = folder; }

const CudaTable& cuda() {
  if (const CudaTable* table = loaded.load(std::memory_order_acquire)) return *table;
  const std::lock_guard<std::mutex> lock(load_mutex);
  const CudaTable* table = loaded.load(std::memory_order_relaxed);
  if (table == nullptr) {
    table = open_library();
    loaded.store(table, std::memory_order_release);
  }
  return *table;
}

bool cuda_available(std::string* why) {
  try {
    char message[CudaTable::kMessageSize];
    int count = 0;
    check(cuda().device_count(&count, message), message);
    if (count > 0) return true;
    *why = "cuda: no device is visible";
  } catch (const RuntimeError& error) {
    *why = error.what();
  }
  return false;
}

void throw_cuda_error(const char* message) { throw RuntimeError(message); }

int device_of_pointer(const void* pointer) {
  char message[CudaTable::kMessageSize];
  int device = 0;
  check(cuda().device_of_pointer(pointer, &device, message), message);
  return device;
}

void synchronize_stream(void* stream) {
  char message[CudaTable::kMessageSize];
  check(cuda().synchronize(stream, message), message);
}

DeviceGuard::DeviceGuard(int device) {
  if (device < 0) return;
  char message[CudaTable::kMessageSize];
  int current = 0;
  check(cuda().current_device(&current, message), message);
  if (current == device) return;
  check(cuda().set_device(device, message), message);
  previous_ = current;
}

DeviceGuard::~DeviceGuard() {
  char message[CudaTable::kMessageSize];
  if (previous_ >= 0) cuda().set_device(previous_, message);
}

}  // namespace fastdet::bindings
