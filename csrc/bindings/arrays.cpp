// SPDX-License-Identifier: Apache-2.0
#include "bindings/arrays.h"

#include <algorithm>

namespace fastdet::bindings {
namespace {

std::string place_text(Device device, int device_id) {
  return device == Device::kCpu ? std::string("the CPU") : concat("CUDA device ", device_id);
}

std::string dtype_list(std::initializer_list<DType> dtypes) {
  std::string text;
  std::size_t i = 0;
  for (const DType dtype : dtypes) {
    if (i > 0) text += i + 1 == dtypes.size() ? " or " : ", ";
    text += dtype_name(dtype);
    ++i;
  }
  return text;
}

// First and one-past-last byte an array touches.
std::pair<const char*, const char*> extent(const TensorView& view) {
  const char* low = static_cast<const char*>(view.data);
  const char* high = low;
  if (view.numel() == 0) return {low, low};
  const auto size = static_cast<std::int64_t>(item_size(view.dtype));
  for (int i = 0; i < view.ndim; ++i) {
    const std::int64_t reach = (view.shape[i] - 1) * view.stride[i] * size;
    (reach < 0 ? low : high) += reach;
  }
  return {low, high + size};
}

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kMostKept = 0;  // so that what lies behind a workspace is known to be outside
#else
constexpr std::size_t kMostKept = std::size_t{32} << 20;  // of a thread
#endif
thread_local HostWorkspace::Memory kept;

// NumPy's own dtype, float64, is what most often comes by mistake.
const char* narrower(DType given, std::initializer_list<DType> dtypes) {
  const bool taken = std::find(dtypes.begin(), dtypes.end(), DType::kFloat32) != dtypes.end();
  return given == DType::kFloat64 && taken ? "; convert it to float32" : "";
}

}  // namespace

HostWorkspace::~HostWorkspace() {
  if (memory_.size <= kMostKept && memory_.size > kept.size) std::swap(kept, memory_);
}

void* HostWorkspace::reserve(std::size_t bytes) {
  std::swap(kept, memory_);
  bytes += 63;
  if (memory_.size < bytes) memory_ = {std::unique_ptr<char[]>(new char[bytes]), bytes};
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.bytes.get());
  return reinterpret_cast<void*>((address + 63) / 64 * 64);
}

Call::Call(const char* op, std::string_view backend) : op_(op), backend_(backend) {}

TensorView Call::input(const char* name, py::handle array, std::initializer_list<DType> dtypes, int ndim) {
  const Framework* framework = framework_of(array);
  FD_CHECK(framework != nullptr, TypeError, op_, ": ", name, " must be an array (NumPy, torch, CuPy, DLPack), got ",
           std::string(py::str(py::type::handle_of(array).attr("__name__"))));
  Loan loan = framework->borrow(array, op_, name);
  FD_CHECK(std::find(dtypes.begin(), dtypes.end(), loan.view.dtype) != dtypes.end(), TypeError, op_, ": ", name, " must be ",
           dtype_list(dtypes), ", got ", dtype_name(loan.view.dtype), narrower(loan.view.dtype, dtypes));
  FD_CHECK(ndim < 0 || loan.view.ndim == ndim, ValueError, op_, ": ", name, " must have ", ndim, " dimensions, got ",
           shape_text(loan.view));
  if (framework_ == nullptr) framework_ = framework;
  adopt(name, array, loan.view);
  loans_.push_back(std::move(loan));
  return loans_.back().view;
}

void Call::adopt(const char* name, py::handle, const TensorView& view) {
  if (loans_.empty()) {
    first_name_ = name;
    device_ = view.device;
    device_id_ = view.device_id;
    cuda_ = device_ == Device::kCuda;
    FD_CHECK(!(cuda_ && backend_ == "cpu"), ValueError, op_, ": backend \"cpu\" was asked for, but ", name, " lies on ",
             place_text(device_, device_id_));
    // The emulated library runs kernels on host memory; the real one needs device memory.
    if (!cuda_ && backend_ == "cuda") {
      FD_CHECK(cuda().emulated != 0, ValueError, op_, ": backend \"cuda\" was asked for, but ", name, " lies on the CPU");
      cuda_ = true;
    }
    return;
  }
  FD_CHECK(view.device == device_ && view.device_id == device_id_, ValueError, op_, ": ", name, " must lie on ",
           place_text(device_, device_id_), " like ", first_name_, ", got ", place_text(view.device, view.device_id));
}

TensorView Call::writable(const char* name, py::handle array, std::initializer_list<DType> dtypes, int ndim) {
  const std::size_t before = loans_.size();
  const TensorView view = input(name, array, dtypes, ndim);
  FD_CHECK(!view.read_only, ValueError, op_, ": ", name, " must be writable, got a read-only array");
  const auto [low, high] = extent(view);
  for (std::size_t i = 0; i < before; ++i) {
    const auto [other_low, other_high] = extent(loans_[i].view);
    FD_CHECK(high <= other_low || other_high <= low, ValueError, op_, ": ", name, " must not share memory with an input");
  }
  return view;
}

TensorView Call::output(const std::vector<std::int64_t>& shape, DType dtype, py::object* object) {
  Loan loan = framework_->empty(shape, dtype, device_, device_id_);
  *object = std::move(loan.owner);
  return loan.view;
}

void* Call::workspace(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  if (device_ == Device::kCuda) {
    device_workspace_ = framework_->empty({static_cast<std::int64_t>(bytes)}, DType::kUInt8, device_, device_id_);
    return device_workspace_.view.data;
  }
  return host_workspace_.reserve(bytes);
}

void* Call::stream() { return framework_->stream(device_, device_id_); }

}  // namespace fastdet::bindings
