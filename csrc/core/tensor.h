// SPDX-License-Identifier: Apache-2.0
// TensorView: how every operator sees an array, whoever made it. Owns nothing, copies freely, may be passed to a kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/platform.h"

namespace fastdet {

enum class DType : std::uint8_t { kBool, kUInt8, kInt32, kInt64, kFloat16, kBFloat16, kFloat32, kFloat64 };
enum class Device : std::uint8_t { kCpu, kCuda };

FD_HD std::size_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8: return 1;
    case DType::kFloat16:
    case DType::kBFloat16: return 2;
    case DType::kInt32:
    case DType::kFloat32: return 4;
    default: return 8;
  }
}

inline const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kBool: return "bool";
    case DType::kUInt8: return "uint8";
    case DType::kInt32: return "int32";
    case DType::kInt64: return "int64";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat32: return "float32";
    default: return "float64";
  }
}

struct TensorView {
  static constexpr int kMaxDims = 6;

  void* data = nullptr;
  std::int64_t shape[kMaxDims] = {};
  std::int64_t stride[kMaxDims] = {};  // in elements; may be 0 or negative
  int ndim = 0;
  int device_id = 0;
  DType dtype = DType::kFloat32;
  Device device = Device::kCpu;
  bool read_only = false;

  FD_HD std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  FD_HD bool contiguous() const {
    std::int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
  template <typename T>
  FD_HD T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace fastdet
