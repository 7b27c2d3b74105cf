// SPDX-License-Identifier: Apache-2.0
// Kernels whose threads do not meet where they must. Hardware lets most of them pass, with undefined results.
#include "case.h"

namespace planted {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;

__global__ void divergent_shuffle_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) {
    out[t] = __shfl_xor_sync(kAll, t, 1);
  } else {
    out[t] = __shfl_xor_sync(kAll, t, 1);
  }
}

// Upper lanes skip the shuffle that the mask says they take part in.
__global__ void skipped_shuffle_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) out[t] = __shfl_down_sync(kAll, t, 1);
}

__global__ void shuffle_from_outside_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) out[t] = __shfl_down_sync(0x0000FFFFu, t, 8);
}

__global__ void mask_without_caller_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t >= 8) out[t] = __any_sync(0x0000FFFFu, t);
}

__global__ void different_masks_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  out[t] = __any_sync(t < 16 ? kAll : 0xFFFF0000u, t);
}

__global__ void partial_warp_kernel(int* out) { out[threadIdx.x] = __popc(__ballot_sync(kAll, 1)); }

__global__ void divergent_barrier_kernel(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}

__global__ void early_return_kernel(int* out, int n) {
  const int t = static_cast<int>(threadIdx.x);
  if (t >= n) return;
  out[t] = 1;
  __syncthreads();
}

// One warp waits at the barrier, the other for a lane that went to the barrier.
__global__ void deadlock_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t != 5) __syncwarp();
  __syncthreads();
  if (t == 5) __syncwarp();
  out[t] = 1;
}

__global__ void odd_width_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  out[t] = __shfl_sync(kAll, t, 0, 12);
}

}  // namespace

void add_divergence(Cases& cases) {
  cases["divergent_shuffle"] = [] { return PLANTED_RUN(divergent_shuffle_kernel, 1, 32, 32); };
  cases["skipped_shuffle"] = [] { return PLANTED_RUN(skipped_shuffle_kernel, 1, 32, 32); };
  cases["shuffle_from_outside"] = [] { return PLANTED_RUN(shuffle_from_outside_kernel, 1, 32, 32); };
  cases["mask_without_caller"] = [] { return PLANTED_RUN(mask_without_caller_kernel, 1, 32, 32); };
  cases["different_masks"] = [] { return PLANTED_RUN(different_masks_kernel, 1, 32, 32); };
  cases["partial_warp"] = [] { return PLANTED_RUN(partial_warp_kernel, 1, 48, 48); };
  cases["divergent_barrier"] = [] { return PLANTED_RUN(divergent_barrier_kernel, {1, 2, 3}, 64, 64); };
  cases["early_return"] = [] { return PLANTED_RUN(early_return_kernel, 2, 64, 64, 0, 60); };
  cases["deadlock"] = [] { return PLANTED_RUN(deadlock_kernel, 1, 64, 64); };
  cases["odd_width"] = [] { return PLANTED_RUN(odd_width_kernel, 1, 32, 32); };
  cases["empty_grid"] = [] { return PLANTED_RUN(partial_warp_kernel, 0, 32, 32); };
  cases["huge_block"] = [] { return PLANTED_RUN(partial_warp_kernel, 1, {64, 32}, 32); };
  cases["huge_shared"] = [] { return PLANTED_RUN(partial_warp_kernel, 1, 32, 32, 1 << 20); };
}

}  // namespace planted
