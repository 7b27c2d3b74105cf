// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"
#include "core/launch.h"
#include "ops/hungarian_assign/hungarian_assign.h"
#include "ops/hungarian_assign/hungarian_assign_kernels.cuh"
#include "ops/hungarian_assign/hungarian_assign_layout.h"

namespace fastdet {
namespace {

using namespace hungarian_assign;

template <typename T>
void solve(const HungarianAssignParams& p, const Layout& w, Stream stream) {
  constexpr std::int64_t shared_without_opt_in = 40 * 1024;
  const std::int64_t larger = p.queries() > p.rows() ? p.queries() : p.rows();
  const bool in_shared = w.search_bytes <= shared_without_opt_in;
  const int threads = larger <= kMaxSolveThreads ? 128 : kMaxSolveThreads;
  FD_LAUNCH(hungarian_assign_solve_kernel<T>, p.images(), threads, in_shared ? w.search_bytes : 0, stream, p, w, in_shared);
}

}  // namespace

void hungarian_assign_cuda(const HungarianAssignParams& p, Stream stream) {
  using Task = HungarianAssignParams::Task;
  if (p.images() == 0) return;
  std::size_t bytes = 0;
  const Layout w = layout_of(p, &bytes);
  const std::int64_t pairs = p.images() * w.pairs, blocks = ceil_div(pairs, kPriceThreads);
  const bool wide = p.task == Task::kSolve && p.given.dtype == DType::kFloat64;
  if (pairs > 0 && p.task != Task::kSolve) {
    if (p.gamma == 2.0f) {
      FD_LAUNCH(hungarian_assign_price_kernel<true>, blocks, kPriceThreads, 0, stream, p, w, weights_of(p));
    } else {
      FD_LAUNCH(hungarian_assign_price_kernel<false>, blocks, kPriceThreads, 0, stream, p, w, weights_of(p));
    }
  } else if (pairs > 0 && wide) {
    FD_LAUNCH((hungarian_assign_take_kernel<double, double>), blocks, kPriceThreads, 0, stream, p, w);
  } else if (pairs > 0) {
    dispatch_float(p.given.dtype, [&](auto tag) {
      using Stored = typename decltype(tag)::type;
      FD_LAUNCH((hungarian_assign_take_kernel<float, Stored>), blocks, kPriceThreads, 0, stream, p, w);
    });
  }
  if (p.task == Task::kCost) return;
  wide ? solve<double>(p, w, stream) : solve<float>(p, w, stream);
}

}  // namespace fastdet
