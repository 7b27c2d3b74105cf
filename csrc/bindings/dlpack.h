// SPDX-License-Identifier: Apache-2.0
// Binary interface of DLPack 1.3, declared from its specification (https://dmlc.github.io/dlpack): what crosses between
// frameworks in one process. Strides are in elements.
#pragma once

#include <cstdint>

namespace fastdet::dlpack {

struct Version {
  std::uint32_t major, minor;
};

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Device {
  std::int32_t type, id;
};
struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // may be null before DLPack 1.2: compact row-major
  std::uint64_t byte_offset;
};
struct Managed {  // capsule "dltensor"
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};
struct ManagedVersioned {  // capsule "dltensor_versioned"
  Version version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  std::uint64_t flags;
  Tensor tensor;
};
constexpr std::uint64_t kReadOnly = 1;

// The table behind `type(x).__dlpack_c_exchange_api__` (capsule "dlpack_exchange_api"): functions return 0, or -1 with a Python
// error set.
struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};
using SetError = void (*)(void* context, const char* kind, const char* message);
struct ExchangeApi {
  ExchangeHeader header;
  int (*allocate)(Tensor* prototype, ManagedVersioned** out, void* error_context, SetError set_error);
  int (*managed_from_object)(void* object, ManagedVersioned** out);
  int (*managed_to_object)(ManagedVersioned* tensor, void** out);
  int (*tensor_from_object)(void* object, Tensor* out);  // borrowed; may be null
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);
};

}  // namespace fastdet::dlpack
