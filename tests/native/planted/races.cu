// SPDX-License-Identifier: Apache-2.0
// Kernels whose result depends on who comes first. Hardware often computes the right thing all the same.
#include "case.h"

namespace planted {
namespace {

constexpr int kThreads = 64;

__global__ void missing_barrier_kernel(int* out) {
  FD_SHARED(int, tile, kThreads);
  const unsigned t = threadIdx.x;
  tile[t] = static_cast<int>(t) * 3;
  out[t] = tile[(t + 1) % kThreads];
}

// One barrier per turn is one too few: thread 0 writes the next value while others still read this one.
__global__ void one_barrier_broadcast_kernel(int* out) {
  FD_SHARED(int, leader, 1);
  int sum = 0;
  for (int turn = 0; turn < 4; ++turn) {
    if (threadIdx.x == 0) leader[0] = 1 << turn;
    __syncthreads();
    sum += leader[0];
  }
  out[threadIdx.x] = sum;
}

// The classic last warp of a reduction, which once relied on lanes running in step.
__global__ void warp_synchronous_kernel(int* out) {
  FD_SHARED(int, sums, 64);
  const unsigned t = threadIdx.x;
  sums[t] = static_cast<int>(t);
  sums[t + 32] = 0;
  __syncwarp();
  for (unsigned step = 16; step > 0; step /= 2) sums[t] += sums[t + step];
  if (t == 0) out[0] = sums[0];
}

// A shuffle makes lanes meet, but orders no memory.
__global__ void shuffle_as_barrier_kernel(int* out) {
  FD_SHARED(int, tile, 32);
  const unsigned t = threadIdx.x;
  tile[t] = static_cast<int>(t);
  const int other = __shfl_xor_sync(0xFFFFFFFFu, static_cast<int>(t), 1);
  out[t] = tile[(t + 1) % 32] + other;
}

__global__ void blocks_without_atomics_kernel(int* out) {
  if (threadIdx.x == 0) out[0] = out[0] * 2 + static_cast<int>(blockIdx.x);
}

}  // namespace

void add_races(Cases& cases) {
  cases["missing_barrier"] = [] { return PLANTED_RUN(missing_barrier_kernel, 1, kThreads, kThreads); };
  cases["one_barrier_broadcast"] = [] { return PLANTED_RUN(one_barrier_broadcast_kernel, 1, kThreads, kThreads); };
  cases["warp_synchronous"] = [] { return PLANTED_RUN(warp_synchronous_kernel, 1, 32, 1); };
  cases["shuffle_as_barrier"] = [] { return PLANTED_RUN(shuffle_as_barrier_kernel, 1, 32, 32); };
  cases["blocks_without_atomics"] = [] { return PLANTED_RUN(blocks_without_atomics_kernel, 4, 32, 1); };
}

}  // namespace planted
