// SPDX-License-Identifier: Apache-2.0
// CUTLASS's implicit GEMM on tensor cores (mma.sync of sm_80, which newer chips run too) with the epilogue in its store.
// Compiled where CUTLASS's headers are given (FASTDET_WITH_CUTLASS). NHWC, channels in multiples of 8, float32 sums.
#include "ops/rep_conv/rep_conv.h"

#if defined(FASTDET_WITH_CUTLASS)

#include <cutlass/conv/conv2d_problem_size.h>
#include <cutlass/conv/device/implicit_gemm_convolution.h>
#include <cutlass/conv/kernel/default_conv2d_fprop_with_broadcast.h>
#include <cutlass/cutlass.h>

#include "core/check.h"
#include "ops/rep_conv/rep_conv_math.h"

namespace fastdet {
namespace rep_conv {

// y = act(sum + bias [+ residual]) [+ residual]; the kind of activation is read at run time, so one kernel serves all.
template <typename T, int kPerAccess>
struct FinishOp {
  using ElementOutput = T;
  using ElementC = T;
  using ElementAccumulator = float;
  using ElementCompute = float;
  using ElementVector = T;
  using ElementZ = T;
  using ElementT = T;
  static constexpr int kElementsPerAccess = kPerAccess;
  static constexpr int kCount = kPerAccess;
  static constexpr bool kIsSingleSource = true;
  static constexpr bool kIsHeavy = true;
  static constexpr bool kStoreZ = true;
  static constexpr bool kStoreT = false;

  using FragmentAccumulator = cutlass::Array<float, kPerAccess>;
  using FragmentCompute = cutlass::Array<float, kPerAccess>;
  using FragmentC = cutlass::Array<T, kPerAccess>;
  using FragmentZ = cutlass::Array<T, kPerAccess>;
  using FragmentT = cutlass::Array<T, kPerAccess>;
  using FragmentOutput = FragmentZ;

  struct Params {
    Activation activation = Activation::kNone;
    bool has_residual = false;
    bool add_first = false;
  };

  CUTLASS_HOST_DEVICE explicit FinishOp(const Params& params) : params_(params) {}
  CUTLASS_HOST_DEVICE bool is_source_needed() const { return params_.has_residual; }
  CUTLASS_HOST_DEVICE void set_k_partition(int, int) {}

  CUTLASS_HOST_DEVICE void operator()(FragmentZ& z, FragmentT&, const FragmentAccumulator& sum, const FragmentC& residual,
                                      const FragmentCompute& bias) const {
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kPerAccess; ++i) {
      const float added = static_cast<float>(residual[i]);
      const float v = sum[i] + bias[i];
      z[i] = T(params_.add_first ? activate(v + added) : activate(v) + added);
    }
  }
  CUTLASS_HOST_DEVICE void operator()(FragmentZ& z, FragmentT&, const FragmentAccumulator& sum,
                                      const FragmentCompute& bias) const {
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kPerAccess; ++i) z[i] = T(activate(sum[i] + bias[i]));
  }

 private:
  CUTLASS_HOST_DEVICE float activate(float v) const {
    switch (params_.activation) {
      case Activation::kRelu: return relu(v);
      case Activation::kSilu: return silu(v);
      case Activation::kLeakyRelu: return leaky_relu(v);
      default: return v;
    }
  }
  Params params_;
};

namespace {

// kTile x kTile outputs (pixels x channels) for each block of four warps.
template <typename T, int kTile>
using Convolution =
    cutlass::conv::device::ImplicitGemmConvolution<typename cutlass::conv::kernel::DefaultConv2dFpropWithBroadcast<
        T, cutlass::layout::TensorNHWC, T, cutlass::layout::TensorNHWC, T, cutlass::layout::TensorNHWC, float,
        cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, cutlass::gemm::GemmShape<kTile, kTile, 32>,
        cutlass::gemm::GemmShape<kTile / 2, kTile / 2, 32>, cutlass::gemm::GemmShape<16, 8, 16>, FinishOp<T, 8>,
        cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, 3, cutlass::arch::OpMultiplyAdd,
        cutlass::conv::IteratorAlgorithm::kOptimized, cutlass::conv::StrideSupport::kStrided>::Kernel>;

void require(cutlass::Status status, const char* what) {
  FD_CHECK(status == cutlass::Status::kSuccess, RuntimeError, "CUTLASS cannot ", what, ": ", cutlassGetStatusString(status));
}

template <typename T, int kTile>
void convolve(const FusedConvParams& params, Stream stream) {
  using Conv = Convolution<T, kTile>;
  using Layout = cutlass::layout::TensorNHWC;
  const RepConvParams& p = params.conv;
  const auto size = [](std::int64_t value) { return static_cast<int>(value); };
  const auto extent = [&](std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c) {
    return cutlass::Tensor4DCoord(size(n), size(h), size(w), size(c));
  };
  const auto reference = [](const TensorView& view, const cutlass::Tensor4DCoord& shape) {
    return cutlass::TensorRef<T, Layout>(view.as<T>(), Layout::packed(shape));
  };
  const auto x = extent(p.x.shape[0], p.x.shape[2], p.x.shape[3], p.x.shape[1]);
  const auto w = extent(p.weight.shape[0], p.weight.shape[2], p.weight.shape[3], p.weight.shape[1]);
  const auto y = extent(p.x.shape[0], p.out_size(0), p.out_size(1), p.weight.shape[0]);
  const cutlass::conv::Conv2dProblemSize problem(
      x, w, cutlass::Tensor4DCoord(size(p.padding[0]), size(p.padding[0]), size(p.padding[1]), size(p.padding[1])),
      cutlass::MatrixCoord(size(p.stride[0]), size(p.stride[1])), cutlass::MatrixCoord(1, 1), y,
      cutlass::conv::Mode::kCrossCorrelation, 1);
  const Epilogue& e = p.epilogue;
  const TensorView& source = e.has_residual() ? e.residual : p.out;  // not read without a residual
  typename Conv::Arguments arguments(problem, reference(p.x, x), reference(p.weight, w), reference(source, y),
                                     reference(p.out, y), {e.activation, e.has_residual(), e.add_first},
                                     cutlass::conv::SplitKMode::kSerial, e.has_bias() ? e.bias.data : nullptr, nullptr, 0, 0);
  Conv run;
  require(Conv::can_implement(arguments), "run this");
  if (params.step == FusedConvParams::Step::kPlan) {
    *params.workspace_bytes = run.get_workspace_size(arguments);
    return;
  }
  require(run.initialize(arguments, p.workspace, static_cast<cudaStream_t>(stream)), "prepare");
  require(run(static_cast<cudaStream_t>(stream)), "launch");
}

template <typename T>
void choose_tile(const FusedConvParams& params, Stream stream) {
  const RepConvParams& p = params.conv;
  // Large tiles read less, small ones fill the device: 128 x 128 where there are two blocks for each of 132 processors.
  const std::int64_t pixels = p.x.shape[0] * p.out_size(0) * p.out_size(1), channels = p.weight.shape[0];
  const bool large = ceil_div(pixels, 128) * ceil_div(channels, 128) >= 264 && channels > 64;
  large ? convolve<T, 128>(params, stream) : convolve<T, 64>(params, stream);
}

}  // namespace
}  // namespace rep_conv

void rep_conv_cutlass(const FusedConvParams& params, Stream stream) {
  if (params.step == FusedConvParams::Step::kBuilt) return;
  int major = 0;
  const cudaError_t status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, params.conv.x.device_id);
  FD_CHECK(status == cudaSuccess && major >= 8, RuntimeError, "CUTLASS's path needs compute capability 8.0, got ", major);
  params.conv.x.dtype == DType::kFloat16 ? rep_conv::choose_tile<cutlass::half_t>(params, stream)
                                         : rep_conv::choose_tile<cutlass::bfloat16_t>(params, stream);
}

}  // namespace fastdet

#else

#include "core/check.h"

namespace fastdet {

void rep_conv_cutlass(const FusedConvParams&, Stream) {
  throw RuntimeError("this fastdet was built without the headers of CUTLASS");
}

}  // namespace fastdet

#endif
