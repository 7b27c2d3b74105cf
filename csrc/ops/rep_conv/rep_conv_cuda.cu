// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "core/dispatch.h"
#include "core/launch.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rep_conv/rep_conv_kernels.cuh"

namespace fastdet {
namespace rep_conv {
namespace {

// Strides of `like` in a dense order of its dimensions, channels first or last; other strides do not matter where a size is 1.
bool same_dense(const TensorView& like, const TensorView& view, bool channels_last) {
  const int first[] = {3, 2, 1, 0}, last[] = {1, 3, 2, 0};
  std::int64_t expected = 1;
  for (const int axis : channels_last ? last : first) {
    if (view.shape[axis] != 1 && view.stride[axis] != expected) return false;
    expected *= like.shape[axis];
  }
  return true;
}

bool all_dense(const BiasActParams& p, bool channels_last) {
  const bool residual = !p.epilogue.has_residual() || same_dense(p.x, p.epilogue.residual, channels_last);
  return residual && same_dense(p.x, p.x, channels_last) && same_dense(p.x, p.out, channels_last);
}

template <typename T, int kPack>
bool packs(const DenseTask& task) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % (kPack * sizeof(T)) == 0; };
  const std::int64_t run = task.inner == 1 ? task.channels : task.inner;
  return run % kPack == 0 && aligned(task.x) && aligned(task.residual) && aligned(task.out);
}

std::int64_t blocks_for(std::int64_t items) { return std::min(kMaxBlocks, ceil_div(items, kThreads)); }

template <typename T>
void launch_dense(const DenseTask& task, Stream stream) {
  constexpr int pack = 16 / sizeof(T);
  if (packs<T, pack>(task)) {
    FD_LAUNCH((bias_act_dense_kernel<T, pack>), blocks_for(task.elements / pack), kThreads, 0, stream, task);
  } else {
    FD_LAUNCH((bias_act_dense_kernel<T, 1>), blocks_for(task.elements), kThreads, 0, stream, task);
  }
}

}  // namespace
}  // namespace rep_conv

void rep_conv_fused_cuda(const FusedConvParams& params, Stream stream) {
  params.library == FusedConvParams::Library::kCudnn ? rep_conv_cudnn(params, stream) : rep_conv_cutlass(params, stream);
}

void bias_act_cuda(const BiasActParams& p, Stream stream) {
  using namespace rep_conv;
  if (p.x.numel() == 0) return;
  const Epilogue& e = p.epilogue;
  const bool first = all_dense(p, false), last = !first && all_dense(p, true);
  const DenseTask task{p.x.data,     e.bias.data,  e.residual.data,  p.out.data,
                       p.x.numel(),  p.x.shape[1], e.bias.stride[0], last ? 1 : p.x.shape[2] * p.x.shape[3],
                       e.activation, e.add_first};
  dispatch_float(p.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (first || last) {
      launch_dense<T>(task, stream);
    } else {
      FD_LAUNCH(bias_act_strided_kernel<T>, blocks_for(p.x.numel()), kThreads, 0, stream, p);
    }
  });
}

}  // namespace fastdet
