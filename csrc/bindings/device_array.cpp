// SPDX-License-Identifier: Apache-2.0
#include "bindings/device_array.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/cuda_loader.h"
#include "bindings/dlpack.h"
#include "core/check.h"

namespace fastdet::bindings {
namespace {

const char* typestr(DType dtype) {
  switch (dtype) {
    case DType::kBool: return "|b1";
    case DType::kUInt8: return "|u1";
    case DType::kInt32: return "<i4";
    case DType::kInt64: return "<i8";
    case DType::kFloat16: return "<f2";
    case DType::kFloat64: return "<f8";
    default: return "<f4";
  }
}

// What a DLPack consumer holds: the shape it points to and a share of the memory.
struct Export {
  dlpack::ManagedVersioned managed;
  std::vector<std::int64_t> shape, strides;
  std::shared_ptr<void> memory;
};

}  // namespace

DeviceArray::DeviceArray(const std::vector<std::int64_t>& shape, DType dtype, int device_id, std::shared_ptr<void> memory)
    : shape_(shape), dtype_(dtype), device_id_(device_id), memory_(std::move(memory)) {}

Loan DeviceArray::make(const std::vector<std::int64_t>& shape, DType dtype, int device_id) {
  FD_CHECK(dtype != DType::kBFloat16, TypeError,
           "DeviceArray: __cuda_array_interface__ has no bfloat16; ask for float32 or float16");
  std::size_t bytes = item_size(dtype);
  for (const std::int64_t extent : shape) bytes *= static_cast<std::size_t>(extent);
  const DeviceGuard guard(device_id);
  char message[CudaTable::kMessageSize];
  void* pointer = nullptr;
  if (bytes > 0 && cuda().allocate(bytes, &pointer, message) != 0) throw_cuda_error(message);
  std::shared_ptr<void> memory(pointer, [](void* allocated) {
    char ignored[CudaTable::kMessageSize];
    if (allocated != nullptr) cuda().release(allocated, ignored);
  });
  std::unique_ptr<DeviceArray> array(new DeviceArray(shape, dtype, device_id, std::move(memory)));
  Loan loan;
  loan.view.data = array->memory_.get();
  loan.view.dtype = dtype;
  loan.view.device = Device::kCuda;
  loan.view.device_id = device_id;
  loan.view.ndim = static_cast<int>(shape.size());
  std::int64_t compact = 1;
  for (int i = loan.view.ndim - 1; i >= 0; --i) {
    loan.view.shape[i] = shape[static_cast<std::size_t>(i)];
    loan.view.stride[i] = compact;
    compact *= loan.view.shape[i];
  }
  loan.owner = py::cast(array.release(), py::return_value_policy::take_ownership);
  return loan;
}

DeviceArray DeviceArray::head(std::int64_t count) const {
  std::vector<std::int64_t> shape = shape_;
  shape.at(0) = count;
  return DeviceArray(shape, dtype_, device_id_, memory_);
}

DeviceArray DeviceArray::row(std::int64_t index) const {
  const std::vector<std::int64_t> shape(shape_.begin() + 1, shape_.end());
  std::size_t bytes = item_size(dtype_);
  for (const std::int64_t extent : shape) bytes *= static_cast<std::size_t>(extent);
  char* start = static_cast<char*>(memory_.get()) + static_cast<std::size_t>(index) * bytes;
  return DeviceArray(shape, dtype_, device_id_, std::shared_ptr<void>(memory_, start));
}

std::int64_t DeviceArray::integer() const {
  const bool one = std::all_of(shape_.begin(), shape_.end(), [](std::int64_t extent) { return extent == 1; });
  FD_CHECK(one && (dtype_ == DType::kInt32 || dtype_ == DType::kInt64), TypeError,
           "DeviceArray: only one integer can be converted to int, got ", dtype_name(dtype_), ' ',
           shape_text(shape_.data(), static_cast<int>(shape_.size())));
  std::int64_t wide = 0;
  std::int32_t narrow = 0;
  const DeviceGuard guard(device_id_);
  char message[CudaTable::kMessageSize];
  void* host = dtype_ == DType::kInt64 ? static_cast<void*>(&wide) : &narrow;
  if (cuda().read(host, memory_.get(), item_size(dtype_), nullptr, message) != 0) throw_cuda_error(message);
  return dtype_ == DType::kInt64 ? wide : narrow;
}

py::dict DeviceArray::cuda_array_interface() const {
  py::dict interface;
  interface["shape"] = py::tuple(py::cast(shape_));
  interface["typestr"] = typestr(dtype_);
  interface["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(memory_.get()), false);
  interface["strides"] = py::none();
  interface["stream"] = 1;  // results are written on the legacy default stream
  interface["version"] = 3;
  return interface;
}

py::capsule DeviceArray::dlpack() const {
  auto* made = new Export{};
  made->shape = shape_;
  made->strides.resize(shape_.size());
  std::int64_t compact = 1;
  for (std::size_t i = shape_.size(); i-- > 0;) {
    made->strides[i] = compact;
    compact *= shape_[i];
  }
  made->memory = memory_;
  const auto bits = static_cast<std::uint8_t>(8 * item_size(dtype_));
  std::uint8_t code = dlpack::kFloat;
  if (dtype_ == DType::kInt32 || dtype_ == DType::kInt64) code = dlpack::kInt;
  if (dtype_ == DType::kUInt8) code = dlpack::kUInt;
  if (dtype_ == DType::kBool) code = dlpack::kBool;
  made->managed.version = {1, 0};
  made->managed.context = made;
  made->managed.deleter = [](dlpack::ManagedVersioned* managed) { delete static_cast<Export*>(managed->context); };
  const auto ndim = static_cast<std::int32_t>(shape_.size());
  const dlpack::Device device{dlpack::kCuda, device_id_};
  made->managed.tensor = {memory_.get(), device, ndim, {code, bits, 1}, made->shape.data(), made->strides.data(), 0};
  return py::capsule(&made->managed, "dltensor_versioned", [](PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor_versioned") == 0) return;  // taken over by a consumer
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    managed->deleter(managed);
  });
}

py::tuple DeviceArray::dlpack_device() const { return py::make_tuple(static_cast<int>(dlpack::kCuda), device_id_); }

void bind_device_array(py::module_& module) {
  py::class_<DeviceArray>(module, "DeviceArray",
                          "A result on a CUDA device, for callers whose package cannot make arrays itself. Speaks "
                          "__cuda_array_interface__ and DLPack.")
      .def_property_readonly("shape", [](const DeviceArray& array) { return py::tuple(py::cast(array.shape())); })
      .def_property_readonly("dtype", &DeviceArray::dtype)
      .def("__len__",
           [](const DeviceArray& array) {
             if (array.shape().empty()) throw py::type_error("len() of an array without axes");
             return array.shape()[0];
           })
      .def("__getitem__",
           [](const DeviceArray& array, std::int64_t index) {
             if (array.shape().empty()) throw py::index_error("an array without axes has no rows");
             const std::int64_t rows = array.shape()[0];
             if (index < -rows || index >= rows) throw py::index_error();
             return array.row(index < 0 ? index + rows : index);
           })
      .def("__getitem__",
           [](const DeviceArray& array, const py::slice& slice) {
             py::ssize_t start = 0, stop = 0, step = 0, count = 0;
             if (array.shape().empty()) throw py::index_error("an array without axes has no rows");
             if (!slice.compute(array.shape()[0], &start, &stop, &step, &count)) throw py::error_already_set();
             FD_CHECK(start == 0 && step == 1, ValueError, "DeviceArray: a slice must start at 0, with step 1");
             return array.head(count);
           })
      .def("__int__", &DeviceArray::integer)
      .def_property_readonly("__cuda_array_interface__", &DeviceArray::cuda_array_interface)
      .def("__dlpack__", [](const DeviceArray& array, const py::kwargs&) { return array.dlpack(); })
      .def("__dlpack_device__", &DeviceArray::dlpack_device);
}

}  // namespace fastdet::bindings
