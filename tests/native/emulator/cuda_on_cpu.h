// SPDX-License-Identifier: Apache-2.0
// Put in front of a .cu file (g++ -x c++ -DFASTDET_EMULATED -include cuda_on_cpu.h): CUDA's spellings, on the CPU.
// docs/emulator.md says what this catches and what it cannot show.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static_assert(false, "declare shared memory with FD_SHARED or FD_DYN_SHARED");

#include "arithmetic.h"
#include "atomics.h"
#include "runtime.h"
#include "vector_types.h"
#include "warp.h"
