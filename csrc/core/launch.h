// SPDX-License-Identifier: Apache-2.0
// Launching kernels, the same spelling for nvcc and for the emulator of tests/native. Host files may include this for
// Stream, Dim3 and ceil_div; kernels and FD_LAUNCH exist only where device code does.
//
//   __global__ FD_LAUNCH_BOUNDS(256) void scale_kernel(const float* in, float* out, int64_t n) {
//     FD_SHARED(float, tile, 256);        // float (&tile)[256]
//     FD_DYN_SHARED(float, rows);         // float* rows, as many bytes as the launch asked for, 16-byte aligned
//     ...
//   }
//   FD_LAUNCH(scale_kernel, ceil_div(n, 256), 256, shared_bytes, stream, in, out, n);
//   FD_LAUNCH((copy_kernel<float, 4>), {columns, rows}, 256, 0, stream, in, out);
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/platform.h"

namespace fastdet {

using Stream = void*;  // a cudaStream_t; null is the legacy default stream

template <typename T>
FD_HD constexpr T ceil_div(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

template <typename T, typename D, typename R = std::common_type_t<T, D>>
FD_HD constexpr R ceil_div(T value, D divisor) {
  return (static_cast<R>(value) + static_cast<R>(divisor) - 1) / static_cast<R>(divisor);
}

// Extent of a grid or a block. 64 bits wide, so that an extent too large for the device is refused, not cut.
struct Dim3 {
  std::int64_t x, y, z;
  constexpr Dim3(std::int64_t x_, std::int64_t y_ = 1, std::int64_t z_ = 1) : x(x_), y(y_), z(z_) {}
};

[[noreturn]] inline void throw_launch_error(const char* kernel, Dim3 grid, Dim3 block, std::int64_t shared_bytes,
                                            const std::string& why) {
  const auto shape = [](Dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  };
  throw std::runtime_error(std::string(kernel) + ": launch of grid " + shape(grid) + ", block " + shape(block) + ", " +
                           std::to_string(shared_bytes) + " bytes of dynamic shared memory failed: " + why);
}

// What every CUDA device refuses, in words. An empty grid is refused too: callers return before launching nothing.
inline void check_launch(const char* kernel, Dim3 grid, Dim3 block, std::int64_t shared_bytes) {
  constexpr std::int64_t max_grid_x = 2147483647, max_grid_yz = 65535, max_threads = 1024, max_block_z = 64;
  constexpr std::int64_t max_shared_bytes = 227 * 1024;  // the most any supported device lends to a block
  const auto refuse = [&](const char* why) { throw_launch_error(kernel, grid, block, shared_bytes, why); };
  if (grid.x < 1 || grid.y < 1 || grid.z < 1) refuse("the grid is empty");
  if (grid.x > max_grid_x || grid.y > max_grid_yz || grid.z > max_grid_yz) refuse("the grid is too large");
  if (block.x < 1 || block.y < 1 || block.z < 1) refuse("the block is empty");
  if (block.x > max_threads || block.y > max_threads || block.z > max_block_z || block.x * block.y * block.z > max_threads)
    refuse("the block is too large");
  if (shared_bytes < 0 || shared_bytes > max_shared_bytes) refuse("the shared memory is out of range");
}

// Keeps a parameter out of template deduction: arguments convert where FD_LAUNCH stands, under its warnings.
template <typename T>
struct SameTypeOf {
  using type = T;
};
template <typename T>
using SameType = typename SameTypeOf<T>::type;

}  // namespace fastdet

#if defined(__CUDACC__)

#define FD_LAUNCH_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define FD_SHARED(type, name, count) __shared__ type name[count]
#define FD_DYN_SHARED(type, name)                                      \
  extern __shared__ __align__(16) unsigned char fd_dyn_shared_bytes[]; \
  type* const name = reinterpret_cast<type*>(fd_dyn_shared_bytes)

namespace fastdet {

// The error reported is that of this launch; it is taken off the runtime's "last error" again, so that no other library
// trips over it.
template <typename... Params>
void launch_kernel(const char* name, void (*kernel)(Params...), Dim3 grid, Dim3 block, std::int64_t shared_bytes, Stream stream,
                   SameType<Params>... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "kernel parameters are copied byte by byte");
  constexpr std::int64_t shared_without_opt_in = 48 * 1024;
  check_launch(name, grid, block, shared_bytes);
  cudaError_t error = cudaSuccess;
  if (shared_bytes > shared_without_opt_in) {
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    const auto extent = [](Dim3 d) {
      return dim3(static_cast<unsigned>(d.x), static_cast<unsigned>(d.y), static_cast<unsigned>(d.z));
    };
    cudaLaunchConfig_t config{};
    config.gridDim = extent(grid);
    config.blockDim = extent(block);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaLaunchKernelEx(&config, kernel, args...);
  }
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw_launch_error(name, grid, block, shared_bytes,
                     std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")");
}

}  // namespace fastdet

#elif defined(FASTDET_EMULATED)

#define FD_LAUNCH_BOUNDS(...)
#define FD_SHARED(type, name, count) FD_EMULATED_SHARED(type, name, count)
#define FD_DYN_SHARED(type, name) FD_EMULATED_DYN_SHARED(type, name)

namespace fastdet {

template <typename... Params>
void launch_kernel(const char* name, void (*kernel)(Params...), Dim3 grid, Dim3 block, std::int64_t shared_bytes, Stream,
                   SameType<Params>... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "kernel parameters are copied byte by byte");
  check_launch(name, grid, block, shared_bytes);
  emulator::launch(name, grid, block, shared_bytes, [&] { kernel(args...); });
}

}  // namespace fastdet

#endif

#if defined(__CUDACC__) || defined(FASTDET_EMULATED)
// FD_LAUNCH(kernel, grid, block, shared_bytes, stream, args...); parenthesise a kernel whose template list has a comma.
#define FD_LAUNCH(kernel, ...) ::fastdet::launch_kernel(#kernel, kernel, __VA_ARGS__)
#endif
