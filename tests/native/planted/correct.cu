// SPDX-License-Identifier: Apache-2.0
// Correct kernels: the same result in every order, and silence from every sanitizer. The expected numbers are in
// test_emulator.py, worked out there in Python.
#include "case.h"

namespace planted {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;

// Sum over a block: shuffles within warps, shared memory between them.
__global__ FD_LAUNCH_BOUNDS(256) void block_sum_kernel(int* out, int n) {
  FD_SHARED(int, partial, 8);
  int sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += static_cast<int>(gridDim.x * blockDim.x))
    sum += i;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(kAll, sum, step);
  if (threadIdx.x % warpSize == 0) partial[threadIdx.x / warpSize] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < 8; ++warp) sum += partial[warp];
  atomicAdd(out, sum);
}

// Two barriers per turn, the right number.
__global__ void broadcast_kernel(int* out) {
  FD_SHARED(int, leader, 1);
  int sum = 0;
  for (int turn = 0; turn < 4; ++turn) {
    if (threadIdx.x == 0) leader[0] = 1 << turn;
    __syncthreads();
    sum += leader[0];
    __syncthreads();
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Lane groups of a warp go different ways, each with its own mask; uneven turns make them meet at different times.
__global__ void lane_groups_kernel(int* out) {
  FD_SHARED(int, tile, 32);
  const int t = static_cast<int>(threadIdx.x);
  int value = t;
  if (t < 8) {
    for (int turn = 0; turn < 3; ++turn) value += __shfl_xor_sync(0x000000FFu, value, 1);
  } else if (t < 24) {
    tile[t] = value;
    __syncwarp(0x00FFFF00u);
    value = tile[31 - t];
  } else {
    value = static_cast<int>(__match_any_sync(0xFF000000u, t / 3));
  }
  __syncwarp();
  out[t] = value;
}

__global__ void shuffles_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  int* const row = out + 10 * t;
  row[0] = __shfl_sync(kAll, t, t + 3);
  row[1] = __shfl_sync(kAll, t, 13, 8);
  row[2] = __shfl_up_sync(kAll, t, 5);
  row[3] = __shfl_up_sync(kAll, t, 3, 16);
  row[4] = __shfl_down_sync(kAll, t, 7);
  row[5] = __shfl_down_sync(kAll, t, 2, 4);
  row[6] = __shfl_xor_sync(kAll, t, 9);
  row[7] = __shfl_xor_sync(kAll, t, 12, 8);
  row[8] = static_cast<int>(2.0f * __shfl_xor_sync(kAll, static_cast<float>(t) * 0.5f, 1));
  row[9] = static_cast<int>(__shfl_sync(kAll, (1ull << 40) + static_cast<unsigned long long>(t), 31) >> 10);
}

__global__ void votes_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  int* const row = out + 7 * t;
  row[0] = static_cast<int>(__ballot_sync(kAll, t % 3 == 0));
  row[1] = __any_sync(kAll, t == 40);
  row[2] = __all_sync(kAll, t < 32);
  row[3] = static_cast<int>(__match_any_sync(kAll, t / 5));
  row[4] = __syncthreads_count(t % 7 == 0);
  row[5] = __syncthreads_and(t < 64);
  row[6] = __syncthreads_or(t == 63);
}

__global__ void atomics_kernel(int* out, unsigned* u, unsigned long long* wide, float* real) {
  const int t = static_cast<int>(threadIdx.x);
  atomicAdd(&out[0], t);
  atomicSub(&out[1], 1);
  atomicMax(&out[2], 5 * t % 61);
  atomicMin(&out[3], -t);
  atomicOr(&u[0], 1u << (t % 20));
  atomicXor(&u[1], static_cast<unsigned>(t));
  atomicInc(&u[2], 6);
  atomicAdd(wide, 1ull << 33);
  atomicAdd(real, 0.25f);
  const int ticket = atomicAdd(&out[4], 1);
  out[8 + ticket] = 1;
  int seen = atomicCAS(&out[5], 0, 0), expected;
  do {
    expected = seen;
    seen = atomicCAS(&out[5], expected, expected + 2);
  } while (seen != expected);
}

// Blocks hand their sums to the one that finishes last.
__global__ void last_block_kernel(int* out, int* sums, unsigned* arrived) {
  FD_SHARED(bool, last, 1);
  const int t = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x);
  sums[block * 32 + t] = block * t;
  __threadfence();
  __syncthreads();
  if (t == 0) last[0] = atomicAdd(arrived, 1) == gridDim.x - 1;
  __syncthreads();
  if (!last[0]) return;
  __threadfence();
  int sum = 0;
  for (unsigned other = 0; other < gridDim.x; ++other) sum += sums[static_cast<int>(other) * 32 + t];
  out[t] = sum;
}

__global__ void indices_kernel(int* out) {
  FD_DYN_SHARED(unsigned, places);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  places[threads - 1 - thread] = thread;
  __syncthreads();
  out[block * threads + thread] = static_cast<int>(100 * block + places[thread]);
}

Result run_atomics() {
  unsigned u[3] = {0, 0, 0};
  unsigned long long wide = 0;
  float real = 0.0f;
  Result result = PLANTED_RUN(atomics_kernel, 2, 32, 8 + 64, 0, u, &wide, &real);
  result.insert(result.end(), {u[0], u[1], u[2], static_cast<long long>(wide), static_cast<long long>(real * 4)});
  return result;
}

Result run_last_block() {
  std::vector<int> sums(5 * 32);
  unsigned arrived = 0;
  return PLANTED_RUN(last_block_kernel, 5, 32, 32, 0, sums.data(), &arrived);
}

Result run_arithmetic() {
  const float nan = __int_as_float(0x7FC00000);
  return {__popc(0xF0F0u),
          __popcll(~0ull),
          __ffs(8),
          __ffs(0),
          __clz(1),
          __clz(0),
          __clzll(1),
          __clzll(0),
          __brev(1u),
          __float2int_rn(2.5f),
          __float2int_rn(3.5f),
          __float2int_rz(-2.7f),
          __float2int_rd(-2.2f),
          __float2int_ru(2.2f),
          __float2int_rn(1e20f),
          __float2int_rn(nan),
          __float2uint_rz(-3.0f),
          __float_as_int(1.0f),
          static_cast<long long>(max(1.0f, nan)),
          static_cast<long long>(min(nan, 2.0f)),
          max(3, 7),
          min(3u, 7u),
          __byte_perm(0x03020100u, 0x07060504u, 0x7531u),
          __umulhi(1u << 31, 6u),
          static_cast<long long>(__saturatef(7.0f))};
}

}  // namespace

void add_correct(Cases& cases) {
  cases["block_sum"] = [] { return PLANTED_RUN(block_sum_kernel, 3, 256, 1, 0, 5000); };
  cases["broadcast"] = [] { return PLANTED_RUN(broadcast_kernel, 2, 96, 192); };
  cases["lane_groups"] = [] { return PLANTED_RUN(lane_groups_kernel, 1, 32, 32); };
  cases["shuffles"] = [] { return PLANTED_RUN(shuffles_kernel, 1, 32, 320); };
  cases["votes"] = [] { return PLANTED_RUN(votes_kernel, 1, 64, 448); };
  cases["indices"] = [] { return PLANTED_RUN(indices_kernel, {2, 3, 2}, {4, 2, 3}, 288, 24 * sizeof(unsigned)); };
  cases["atomics"] = run_atomics;
  cases["last_block"] = run_last_block;
  cases["arithmetic"] = run_arithmetic;
}

}  // namespace planted
