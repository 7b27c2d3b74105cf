// SPDX-License-Identifier: Apache-2.0
#include "bindings/frameworks.h"

#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "bindings/cuda_loader.h"
#include "bindings/device_array.h"
#include "bindings/dlpack.h"
#include "core/check.h"

namespace fastdet::bindings {
namespace {

[[noreturn]] void refuse_dtype(const char* op, const char* name, const std::string& dtype) {
  throw TypeError(
      concat(op, ": ", name, " must be of float16, bfloat16, float32, float64, uint8, int32, int64 or bool, got ", dtype));
}

[[noreturn]] void refuse_rank(const char* op, const char* name, std::int64_t ndim) {
  throw ValueError(concat(op, ": ", name, " must have at most ", TensorView::kMaxDims, " dimensions, got ", ndim));
}

// A tensor without memory of its own to read: sparse, quantized, or of a subclass that only wraps others.
[[noreturn]] void refuse_memory(const char* op, const char* name) {
  const py::error_already_set error;
  if (!error.matches(PyExc_RuntimeError) && !error.matches(PyExc_BufferError)) throw error;
  const std::string why = error.what();
  throw TypeError(concat(op, ": ", name, " must be dense, in memory that can be read, got ", why.substr(0, why.find('\n'))));
}

DType dtype_from_dlpack(dlpack::DataType type, const char* op, const char* name) {
  if (type.lanes == 1) {
    if (type.code == dlpack::kFloat && type.bits == 16) return DType::kFloat16;
    if (type.code == dlpack::kFloat && type.bits == 32) return DType::kFloat32;
    if (type.code == dlpack::kFloat && type.bits == 64) return DType::kFloat64;
    if (type.code == dlpack::kBfloat && type.bits == 16) return DType::kBFloat16;
    if (type.code == dlpack::kUInt && type.bits == 8) return DType::kUInt8;
    if (type.code == dlpack::kInt && type.bits == 32) return DType::kInt32;
    if (type.code == dlpack::kInt && type.bits == 64) return DType::kInt64;
    if (type.code == dlpack::kBool && type.bits == 8) return DType::kBool;
  }
  refuse_dtype(op, name, concat("code ", int{type.code}, " of ", int{type.bits}, " bits"));
}

dlpack::DataType dtype_to_dlpack(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * item_size(dtype));
  switch (dtype) {
    case DType::kBool: return {dlpack::kBool, bits, 1};
    case DType::kUInt8: return {dlpack::kUInt, bits, 1};
    case DType::kInt32:
    case DType::kInt64: return {dlpack::kInt, bits, 1};
    case DType::kBFloat16: return {dlpack::kBfloat, bits, 1};
    default: return {dlpack::kFloat, bits, 1};
  }
}

// Elements are loaded whole, on every device.
void check_aligned(const TensorView& view, const char* op, const char* name) {
  FD_CHECK(reinterpret_cast<std::uintptr_t>(view.data) % item_size(view.dtype) == 0, ValueError, op, ": ", name,
           " must lie at a multiple of its item size, got an address that is not; copy it first");
}

TensorView view_from_dlpack(const dlpack::Tensor& tensor, bool read_only, const char* op, const char* name) {
  if (tensor.ndim < 0 || tensor.ndim > TensorView::kMaxDims) refuse_rank(op, name, tensor.ndim);
  TensorView view;
  switch (tensor.device.type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost: view.device = Device::kCpu; break;
    case dlpack::kCuda:
    case dlpack::kCudaManaged: view.device = Device::kCuda; break;
    default:
      throw TypeError(
          concat(op, ": ", name, " must lie on the CPU or a CUDA device, got DLPack device type ", tensor.device.type));
  }
  view.device_id = view.device == Device::kCuda ? tensor.device.id : 0;
  view.dtype = dtype_from_dlpack(tensor.dtype, op, name);
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.ndim = tensor.ndim;
  view.read_only = read_only;
  std::int64_t compact = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    view.shape[i] = tensor.shape[i];
    view.stride[i] = tensor.strides != nullptr ? tensor.strides[i] : compact;
    compact *= tensor.shape[i];
  }
  check_aligned(view, op, name);
  return view;
}

// NumPy: the buffer is read through pybind11's array, whose layout is NumPy's C interface.
class NumpyFramework final : public Framework {
 public:
  Loan borrow(py::handle object, const char* op, const char* name) const override {
    py::array array = py::reinterpret_borrow<py::array>(object);
    Loan loan;
    loan.view.dtype = dtype_of(array.dtype(), op, name);
    const auto size = static_cast<py::ssize_t>(item_size(loan.view.dtype));
    if (array.ndim() > TensorView::kMaxDims) refuse_rank(op, name, array.ndim());
    bool regular = reinterpret_cast<std::uintptr_t>(array.data()) % static_cast<std::uintptr_t>(size) == 0;
    for (py::ssize_t i = 0; i < array.ndim(); ++i) regular = regular && array.strides(i) % size == 0;
    // Fields of records and byte-shifted buffers cannot be addressed in elements: work on a copy.
    if (!regular) array = py::module_::import("numpy").attr("ascontiguousarray")(array.attr("copy")());
    loan.view.data = const_cast<void*>(array.data());
    loan.view.read_only = !array.writeable();
    loan.view.ndim = static_cast<int>(array.ndim());
    for (int i = 0; i < loan.view.ndim; ++i) {
      loan.view.shape[i] = array.shape(i);
      loan.view.stride[i] = array.strides(i) / size;
    }
    loan.owner = std::move(array);
    return loan;
  }

  Loan empty(const std::vector<std::int64_t>& shape, DType dtype, Device, int) const override {
    FD_CHECK(dtype != DType::kBFloat16, TypeError, "NumPy has no bfloat16: pass torch tensors, or ask for float32 or float16");
    py::array array(py::dtype(dtype_name(dtype)), std::vector<py::ssize_t>(shape.begin(), shape.end()));
    return borrow(array, "output", "array");
  }

  void* stream(Device, int) const override { return nullptr; }

 private:
  static DType dtype_of(const py::dtype& dtype, const char* op, const char* name) {
    const char order = dtype.byteorder();
    if (order != '>') {
      const auto size = dtype.itemsize();
      switch (dtype.kind()) {
        case 'b': return DType::kBool;
        case 'u':
          if (size == 1) return DType::kUInt8;
          break;
        case 'i':
          if (size == 4) return DType::kInt32;
          if (size == 8) return DType::kInt64;
          break;
        case 'f':
          if (size == 2) return DType::kFloat16;
          if (size == 4) return DType::kFloat32;
          if (size == 8) return DType::kFloat64;
          break;
        default: break;
      }
    }
    refuse_dtype(op, name, py::str(py::object(dtype)));
  }
};

// Frameworks with the DLPack exchange table: torch from 2.10 or so. No Python code runs for an argument.
class ExchangeFramework final : public Framework {
 public:
  explicit ExchangeFramework(const dlpack::ExchangeApi* api) : api_(api) {}

  Loan borrow(py::handle object, const char* op, const char* name) const override {
    Loan loan;
    if (api_->tensor_from_object != nullptr) {
      dlpack::Tensor tensor{};
      if (api_->tensor_from_object(object.ptr(), &tensor) != 0) refuse_memory(op, name);
      loan.view = view_from_dlpack(tensor, false, op, name);
      loan.owner = py::reinterpret_borrow<py::object>(object);
      return loan;
    }
    dlpack::ManagedVersioned* managed = nullptr;
    if (api_->managed_from_object(object.ptr(), &managed) != 0) refuse_memory(op, name);
    loan.owner = py::capsule(managed, [](void* pointer) {
      auto* tensor = static_cast<dlpack::ManagedVersioned*>(pointer);
      if (tensor->deleter != nullptr) tensor->deleter(tensor);
    });
    loan.view = view_from_dlpack(managed->tensor, (managed->flags & dlpack::kReadOnly) != 0, op, name);
    return loan;
  }

  Loan empty(const std::vector<std::int64_t>& shape, DType dtype, Device device, int device_id) const override {
    dlpack::Tensor prototype{};
    prototype.device = {device == Device::kCuda ? dlpack::kCuda : dlpack::kCpu, device_id};
    prototype.ndim = static_cast<std::int32_t>(shape.size());
    prototype.dtype = dtype_to_dlpack(dtype);
    std::vector<std::int64_t> sizes(shape);
    prototype.shape = sizes.data();
    dlpack::ManagedVersioned* managed = nullptr;
    std::string failure;
    const auto set_error = [](void* context, const char* kind, const char* message) {
      *static_cast<std::string*>(context) = concat(kind, ": ", message);
    };
    FD_CHECK(api_->allocate(&prototype, &managed, &failure, set_error) == 0 && managed != nullptr, RuntimeError,
             "output of shape ", shape_text(shape.data(), static_cast<int>(shape.size())),
             " could not be allocated: ", failure.substr(0, failure.find('\n')));  // torch adds where in its own code
    void* object = nullptr;
    Loan loan;
    loan.view = view_from_dlpack(managed->tensor, false, "output", "array");
    if (api_->managed_to_object(managed, &object) != 0) throw py::error_already_set();
    loan.owner = py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
    return loan;
  }

  void* stream(Device device, int device_id) const override {
    if (device == Device::kCpu) return nullptr;
    void* stream = nullptr;
    if (api_->current_stream(dlpack::kCuda, device_id, &stream) != 0) throw py::error_already_set();
    return stream;
  }

 private:
  const dlpack::ExchangeApi* api_;
};

// Everything that speaks __dlpack__ or __cuda_array_interface__ in Python. New arrays are made by the type's own package where
// it has `empty` (torch without the exchange table, CuPy), by NumPy on the CPU, else as fastdet.DeviceArray.
class ProtocolFramework final : public Framework {
 public:
  ProtocolFramework(std::string package, bool has_dlpack) : package_(std::move(package)), has_dlpack_(has_dlpack) {}

  Loan borrow(py::handle object, const char* op, const char* name) const override {
    if (!has_dlpack_) return borrow_cuda_interface(object, op, name);
    py::object source = py::reinterpret_borrow<py::object>(object);
    // Inside a registered operator a torch tensor may still require grad, and then refuses to be exported.
    if (package_ == "torch" && py::bool_(source.attr("requires_grad"))) source = source.attr("detach")();
    py::object capsule;
    const py::object export_array = source.attr("__dlpack__");
    try {
      capsule = export_array(py::arg("max_version") = py::make_tuple(1, 3));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      capsule = export_array();
    }
    return detail::loan_from_dlpack_capsule(std::move(capsule), op, name);
  }

  Loan empty(const std::vector<std::int64_t>& shape, DType dtype, Device device, int device_id) const override {
    const py::tuple size = py::cast(shape);
    if (package_ == "torch") {
      const py::module_ torch = py::module_::import("torch");
      const std::string place = device == Device::kCuda ? concat("cuda:", device_id) : std::string("cpu");
      return named(torch.attr("empty")(size, py::arg("dtype") = torch.attr(dtype_name(dtype)), py::arg("device") = place));
    }
    if (device == Device::kCpu) {
      static const NumpyFramework numpy;
      return numpy.empty(shape, dtype, device, device_id);
    }
    if (package_ == "cupy") return named(py::module_::import("cupy").attr("empty")(size, dtype_name(dtype)));
    return DeviceArray::make(shape, dtype, device_id);
  }

  void* stream(Device device, int device_id) const override {
    if (device == Device::kCpu) return nullptr;
    py::object handle;
    if (package_ == "torch") {
      handle = py::module_::import("torch").attr("cuda").attr("current_stream")(device_id).attr("cuda_stream");
    } else if (package_ == "cupy") {
      handle = py::module_::import("cupy").attr("cuda").attr("get_current_stream")().attr("ptr");
    } else {
      return nullptr;  // the legacy default stream, which waits for the producer's
    }
    return reinterpret_cast<void*>(handle.cast<std::uintptr_t>());
  }

 private:
  Loan named(py::object array) const {
    Loan loan = borrow(array, "output", "array");
    loan.owner = std::move(array);
    return loan;
  }

  static Loan borrow_cuda_interface(py::handle object, const char* op, const char* name) {
    const py::dict interface = object.attr("__cuda_array_interface__");
    const auto [pointer, read_only] = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
    const std::string typestr = py::str(interface["typestr"]);
    const auto shape = interface["shape"].cast<std::vector<std::int64_t>>();
    static const std::unordered_map<std::string, DType> known = {
        {"|b1", DType::kBool},    {"|u1", DType::kUInt8},   {"<i4", DType::kInt32},  {"<i8", DType::kInt64},
        {"<f2", DType::kFloat16}, {"<f4", DType::kFloat32}, {"<f8", DType::kFloat64}};
    const auto found = known.find(typestr);
    if (found == known.end()) refuse_dtype(op, name, typestr);
    Loan loan;
    TensorView& view = loan.view;
    if (shape.size() > TensorView::kMaxDims) refuse_rank(op, name, static_cast<std::int64_t>(shape.size()));
    view.dtype = found->second;
    view.device = Device::kCuda;
    view.data = reinterpret_cast<void*>(pointer);
    view.device_id = device_of_pointer(view.data);
    view.read_only = read_only;
    view.ndim = static_cast<int>(shape.size());
    const auto size = static_cast<std::int64_t>(item_size(view.dtype));
    const bool compact = !interface.contains("strides") || interface["strides"].is_none();
    const auto strides = compact ? shape : interface["strides"].cast<std::vector<std::int64_t>>();
    FD_CHECK(strides.size() == shape.size(), ValueError, op, ": ", name, " must have as many strides as dimensions, got ",
             strides.size(), " and ", shape.size());
    std::int64_t next = 1;
    for (int i = view.ndim - 1; i >= 0; --i) {
      const auto k = static_cast<std::size_t>(i);
      view.shape[i] = shape[k];
      view.stride[i] = compact ? next * size : strides[k];
      FD_CHECK(view.stride[i] % size == 0, ValueError, op, ": ", name, " must have strides that are multiples of ", size,
               " bytes, got ", view.stride[i], "; copy it first");
      view.stride[i] /= size;
      next *= shape[k];
    }
    check_aligned(view, op, name);
    wait_for_producer(interface);
    loan.owner = py::reinterpret_borrow<py::object>(object);
    return loan;
  }

  // Version 3 names the stream whose work must come first; we launch on another one, so wait for it here.
  static void wait_for_producer(const py::dict& interface) {
    if (interface.contains("stream") && !interface["stream"].is_none()) {
      synchronize_stream(reinterpret_cast<void*>(interface["stream"].cast<std::uintptr_t>()));
    }
  }

  std::string package_;
  bool has_dlpack_;
};

std::unique_ptr<Framework> recognise(py::handle type) {
  if (py::hasattr(type, "__dlpack_c_exchange_api__")) {
    const py::object capsule = type.attr("__dlpack_c_exchange_api__");
    if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api") != 0) {
      const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
      if (api->header.version.major == 1) return std::make_unique<ExchangeFramework>(api);
    }
  }
  const py::object numpy_array = py::module_::import("numpy").attr("ndarray");
  if (PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type.ptr()), reinterpret_cast<PyTypeObject*>(numpy_array.ptr())) != 0) {
    return std::make_unique<NumpyFramework>();
  }
  const std::string module = py::hasattr(type, "__module__") ? py::cast<std::string>(py::str(type.attr("__module__"))) : "";
  const std::string package = module.substr(0, module.find('.'));
  if (py::hasattr(type, "__dlpack__")) return std::make_unique<ProtocolFramework>(package, true);
  if (py::hasattr(type, "__cuda_array_interface__")) return std::make_unique<ProtocolFramework>(package, false);
  return nullptr;
}

}  // namespace

namespace detail {

Loan loan_from_dlpack_capsule(py::object capsule, const char* op, const char* name) {
  Loan loan;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    loan.owner = py::capsule(managed, [](void* pointer) {
      auto* tensor = static_cast<dlpack::ManagedVersioned*>(pointer);
      if (tensor->deleter != nullptr) tensor->deleter(tensor);
    });
    FD_CHECK(managed->version.major == 1, TypeError, op, ": ", name, " is exported in DLPack version ", managed->version.major,
             ", version 1 is understood");
    loan.view = view_from_dlpack(managed->tensor, (managed->flags & dlpack::kReadOnly) != 0, op, name);
    return loan;
  }
  FD_CHECK(PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0, TypeError, op, ": ", name, " gave no DLPack capsule");
  auto* managed = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  loan.owner = py::capsule(managed, [](void* pointer) {
    auto* tensor = static_cast<dlpack::Managed*>(pointer);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
  loan.view = view_from_dlpack(managed->tensor, false, op, name);
  return loan;
}

}  // namespace detail

const Framework* framework_of(py::handle object) {
  // Keyed by type object; a reference keeps each cached type alive, so an address is never reused.
  static std::unordered_map<PyTypeObject*, std::unique_ptr<Framework>> cache;
  static std::mutex mutex;
  PyTypeObject* type = Py_TYPE(object.ptr());
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = cache.find(type);
    if (found != cache.end()) return found->second.get();
  }
  std::unique_ptr<Framework> framework = recognise(py::handle(reinterpret_cast<PyObject*>(type)));
  if (framework == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [place, inserted] = cache.emplace(type, std::move(framework));
  if (inserted) Py_INCREF(reinterpret_cast<PyObject*>(type));
  return place->second.get();
}

}  // namespace fastdet::bindings
