// SPDX-License-Identifier: Apache-2.0
// What kernels see of the running block. Everything declared here lives in files that are compiled without
// instrumentation, so that sanitizers look at the kernel and not at the emulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "vector_types.h"

namespace fastdet {
struct Dim3;
}

namespace fastdet::emulator {

// One place in a kernel's source; its address is its identity.
struct Site {
  const char* file;
  int line;
  const char* text;
};

// Const within a kernel: one thread never sees another's value.
[[gnu::const]] uint3 thread_index();
[[gnu::const]] uint3 block_index();
[[gnu::const]] dim3 block_extent();
[[gnu::const]] dim3 grid_extent();

// Memory of a shared array of the running block, filled with 0xCD when the block first reaches it.
void* shared_array(const Site* site, std::size_t bytes, std::size_t alignment);
void* dynamic_shared();

void memory_fence();

// Runs body once per thread of the grid. Throws std::runtime_error when a thread breaks a rule of CUDA.
void launch_threads(const char* kernel, const Dim3& grid, const Dim3& block, std::int64_t shared_bytes,
                    void (*body)(void* argument), void* argument);

template <typename Body>
void launch(const char* kernel, const Dim3& grid, const Dim3& block, std::int64_t shared_bytes, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  launch_threads(
      kernel, grid, block, shared_bytes, [](void* argument) { (*static_cast<Plain*>(argument))(); }, std::addressof(body));
}

}  // namespace fastdet::emulator

#define FD_EMULATED_SITE(text)                                                    \
  ([]() -> const ::fastdet::emulator::Site* {                                     \
    static constexpr ::fastdet::emulator::Site fd_site{__FILE__, __LINE__, text}; \
    return &fd_site;                                                              \
  }())

#define FD_EMULATED_SHARED(type, name, count)                                                          \
  static_assert(std::is_trivially_default_constructible_v<type>, "shared memory runs no constructor"); \
  auto& name = *static_cast<type(*)[count]>(                                                           \
      ::fastdet::emulator::shared_array(FD_EMULATED_SITE("shared array " #name), sizeof(type[count]), alignof(type)))

#define FD_EMULATED_DYN_SHARED(type, name) type* const name = static_cast<type*>(::fastdet::emulator::dynamic_shared())

#define threadIdx (::fastdet::emulator::thread_index())
#define blockIdx (::fastdet::emulator::block_index())
#define blockDim (::fastdet::emulator::block_extent())
#define gridDim (::fastdet::emulator::grid_extent())
constexpr int warpSize = 32;

inline void __threadfence_block() { ::fastdet::emulator::memory_fence(); }
inline void __threadfence() { ::fastdet::emulator::memory_fence(); }
