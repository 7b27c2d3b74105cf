// SPDX-License-Identifier: Apache-2.0
// Kernels that touch memory they should not, or compute indices that do not fit.
#include "case.h"

namespace planted {
namespace {

// One thread too many writes: into the next array, or nothing, on hardware.
__global__ void dynamic_overrun_kernel(int* out, int first) {
  FD_DYN_SHARED(int, rows);
  rows[first + static_cast<int>(threadIdx.x)] = 1;
  __syncthreads();
  out[threadIdx.x] = rows[threadIdx.x];
}

__global__ void dynamic_overread_kernel(int* out, int first) {
  FD_DYN_SHARED(int, rows);
  rows[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = rows[first + static_cast<int>(threadIdx.x)];
}

__global__ void static_overrun_kernel(int* out, int first) {
  FD_SHARED(int, tile, 32);
  tile[first + static_cast<int>(threadIdx.x)] = 1;
  out[threadIdx.x] = tile[threadIdx.x];
}

// Past a pointer into a static array, where the index check of the array cannot help.
__global__ void pointer_overrun_kernel(int* out, int first) {
  FD_SHARED(int, tile, 32);
  int* const place = tile + threadIdx.x;
  place[first] = 1;
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void global_overrun_kernel(int* out, int n) { out[n + static_cast<int>(threadIdx.x)] = 1; }

__global__ void uninitialised_shared_kernel(int* out) {
  FD_SHARED(int, tile, 32);
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void misaligned_vector_kernel(int* out) {
  FD_DYN_SHARED(float, row);
  row[threadIdx.x] = 1.0f;
  __syncthreads();
  const float4 four = *reinterpret_cast<const float4*>(row + 1);
  out[threadIdx.x] = static_cast<int>(four.x);
}

__global__ void index_overflow_kernel(int* out, int boxes, int classes) {
  const int offset = boxes * classes;
  out[threadIdx.x] = offset;
}

__global__ void too_much_static_kernel(int* out) {
  FD_SHARED(double, first, 4096);
  FD_SHARED(double, second, 4096);
  first[threadIdx.x] = second[threadIdx.x] = 1.0;
  out[threadIdx.x] = 1;
}

}  // namespace

void add_bad_memory(Cases& cases) {
  cases["dynamic_overrun"] = [] { return PLANTED_RUN(dynamic_overrun_kernel, 1, 32, 32, 32 * sizeof(int), 1); };
  cases["dynamic_overread"] = [] { return PLANTED_RUN(dynamic_overread_kernel, 1, 32, 32, 32 * sizeof(int), 1); };
  cases["static_overrun"] = [] { return PLANTED_RUN(static_overrun_kernel, 1, 32, 32, 0, 1); };
  cases["pointer_overrun"] = [] { return PLANTED_RUN(pointer_overrun_kernel, 1, 32, 32, 0, 1); };
  cases["global_overrun"] = [] { return PLANTED_RUN(global_overrun_kernel, 1, 1, 32, 0, 32); };
  cases["uninitialised_shared"] = [] { return PLANTED_RUN(uninitialised_shared_kernel, 1, 32, 32); };
  cases["misaligned_vector"] = [] { return PLANTED_RUN(misaligned_vector_kernel, 1, 32, 32, 32 * sizeof(float)); };
  cases["index_overflow"] = [] { return PLANTED_RUN(index_overflow_kernel, 1, 32, 32, 0, 1 << 20, 1 << 12); };
  cases["too_much_static"] = [] { return PLANTED_RUN(too_much_static_kernel, 1, 32, 32); };
}

}  // namespace planted
