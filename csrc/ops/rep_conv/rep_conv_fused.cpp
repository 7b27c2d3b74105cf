// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

#include "core/check.h"
#include "ops/rep_conv/rep_conv.h"

namespace fastdet {
namespace {

bool aligned(const TensorView& view) { return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0; }

// Dense with channels innermost. Strides of dimensions of size 1 do not matter.
bool channels_last(const TensorView& view) {
  const int order[] = {1, 3, 2, 0};
  std::int64_t expected = 1;
  for (const int axis : order) {
    if (view.shape[axis] != 1 && view.stride[axis] != expected) return false;
    expected *= view.shape[axis];
  }
  return true;
}

}  // namespace

std::string fused_obstacle(const FusedConvParams& params) {
  const RepConvParams& p = params.conv;
  const Epilogue& e = p.epilogue;
  if (p.x.dtype != DType::kFloat16 && p.x.dtype != DType::kBFloat16) {
    return concat("it computes float16 and bfloat16, not ", dtype_name(p.x.dtype));
  }
  if (p.x.numel() == 0 || p.weight.numel() == 0) return "there is nothing to convolve";
  if (p.weight.shape[1] % 8 != 0 || p.weight.shape[0] % 8 != 0) {
    return concat("channels must be multiples of 8, got weight ", shape_text(p.weight));
  }
  if (params.library == FusedConvParams::Library::kCutlass && p.groups != 1) return concat("groups must be 1, got ", p.groups);
  const bool last = channels_last(p.x) && channels_last(p.weight) && (!e.has_residual() || channels_last(e.residual));
  if (!last || (e.has_bias() && e.bias.stride[0] != 1)) return "x, weight and residual must be channels_last, bias contiguous";
  const bool even =
      aligned(p.x) && aligned(p.weight) && (!e.has_bias() || aligned(e.bias)) && (!e.has_residual() || aligned(e.residual));
  return even ? "" : "arrays must begin at multiples of 16 bytes";
}

void* open_cudnn() {
  static std::mutex mutex;
  static void* library = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (library != nullptr) return library;
  const char* const given = std::getenv("FASTDET_CUDNN_LIB");
  const std::string path = given != nullptr && *given != '\0' ? given : "libcudnn.so.9";
  void* const opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    const char* const reason = dlerror();
    throw RuntimeError(concat("cuDNN cannot be opened (", reason != nullptr ? reason : path, ")"));
  }
  const auto version = reinterpret_cast<std::size_t (*)()>(dlsym(opened, "cudnnGetVersion"));
  const std::size_t number = version != nullptr ? version() : 0;
  if (number < 90000 || number >= 100000) {
    dlclose(opened);
    throw RuntimeError(concat(path, " must be cuDNN 9, got version ", number));
  }
  return library = opened;
}

}  // namespace fastdet
