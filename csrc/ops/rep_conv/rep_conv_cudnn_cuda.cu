// SPDX-License-Identifier: Apache-2.0
// cuDNN's graph: convolution, bias, activation and residual fused into one kernel that cuDNN compiles on first use (0.1 to 1 s).
// Compiled where the headers of the cuDNN frontend are given (FASTDET_WITH_CUDNN); the library itself is opened at run time.
#include "ops/rep_conv/rep_conv.h"

#if defined(FASTDET_WITH_CUDNN)

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cstring>  // the frontend uses strlen without it

#include <cudnn_frontend.h>

#include <unordered_map>

#include "ops/rep_conv/rep_conv_plans.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // where the frontend looks up cuDNN's functions
}

namespace fastdet {
namespace rep_conv {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Uid : std::int64_t { kX = 1, kWeight, kBias, kResidual, kOut };

void require(fe::error_t error, const char* what) {
  FD_CHECK(error.is_good(), RuntimeError, "cuDNN cannot ", what, ": ", error.get_message());
}

struct Plan {
  fe::graph::Graph graph;
  std::int64_t workspace_bytes = 0;
};

// One handle for each device, used by one thread at a time.
struct Context {
  std::mutex mutex;
  std::map<int, cudnnHandle_t> handles;
  PlanCache<Plan> plans;

  cudnnHandle_t handle(int device) {
    cudnnHandle_t& made = handles[device];
    if (made == nullptr) {
      const cudnnStatus_t status = fe::detail::create_handle(&made);
      FD_CHECK(status == CUDNN_STATUS_SUCCESS, RuntimeError,
               "cuDNN cannot make a handle: ", fe::detail::get_error_string(status));
    }
    return made;
  }
};

Context& context() {
  static Context* const made = new Context;  // never destroyed: the driver may be gone by then
  return *made;
}

std::vector<std::int64_t> strides_last(const std::vector<std::int64_t>& dims) {
  return {dims[1] * dims[2] * dims[3], 1, dims[1] * dims[3], dims[1]};
}

Tensor tensor(Plan& plan, Uid uid, std::vector<std::int64_t> dims) {
  const auto strides = strides_last(dims);
  return plan.graph.tensor(fe::graph::Tensor_attributes().set_uid(uid).set_dim(dims).set_stride(strides));
}

Tensor activated(Plan& plan, const Tensor& y, Activation activation) {
  fe::graph::Pointwise_attributes node;
  switch (activation) {
    case Activation::kNone: return y;
    case Activation::kSilu: node.set_mode(fe::PointwiseMode_t::SWISH_FWD).set_swish_beta(1.0f); break;
    case Activation::kRelu: node.set_mode(fe::PointwiseMode_t::RELU_FWD); break;
    case Activation::kLeakyRelu: node.set_mode(fe::PointwiseMode_t::RELU_FWD).set_relu_lower_clip_slope(0.1f); break;
  }
  return plan.graph.pointwise(y, node);
}

std::shared_ptr<Plan> make_plan(const RepConvParams& p, cudnnHandle_t handle) {
  const auto made = std::make_shared<Plan>();
  Plan& plan = *made;
  const std::int64_t *x = p.x.shape, *w = p.weight.shape;
  const std::vector<std::int64_t> out{x[0], w[0], p.out_size(0), p.out_size(1)};
  plan.graph.set_io_data_type(p.x.dtype == DType::kFloat16 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto add = fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD);
  const auto convolution = fe::graph::Conv_fprop_attributes()
                               .set_padding({p.padding[0], p.padding[1]})
                               .set_stride({p.stride[0], p.stride[1]})
                               .set_dilation({1, 1});
  Tensor y = plan.graph.conv_fprop(tensor(plan, kX, {x[0], x[1], x[2], x[3]}), tensor(plan, kWeight, {w[0], w[1], w[2], w[3]}),
                                   convolution);
  const Epilogue& e = p.epilogue;
  if (e.has_bias()) y = plan.graph.pointwise(y, tensor(plan, kBias, {1, w[0], 1, 1}), add);
  const Tensor residual = e.has_residual() ? tensor(plan, kResidual, out) : nullptr;
  if (residual != nullptr && e.add_first) y = plan.graph.pointwise(y, residual, add);
  y = activated(plan, y, e.activation);
  if (residual != nullptr && !e.add_first) y = plan.graph.pointwise(y, residual, add);
  y->set_output(true).set_uid(kOut).set_dim(out).set_stride(strides_last(out));

  require(plan.graph.validate(), "express this");
  require(plan.graph.build_operation_graph(handle), "build the graph");
  require(plan.graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), "find a plan");
  require(plan.graph.check_support(handle), "run this on the device");
  require(plan.graph.build_plans(handle), "compile the kernel");
  require(plan.graph.get_workspace_size(plan.workspace_bytes), "tell its workspace");
  return made;
}

}  // namespace
}  // namespace rep_conv

void rep_conv_cudnn(const FusedConvParams& params, Stream stream) {
  using namespace rep_conv;
  if (params.step == FusedConvParams::Step::kBuilt) return;
  Context& here = context();
  const std::lock_guard<std::mutex> lock(here.mutex);
  cudnn_frontend::cudnn_dlhandle = params.cudnn;
  const RepConvParams& p = params.conv;
  const cudnnHandle_t handle = here.handle(p.x.device_id);
  const std::shared_ptr<Plan> plan = here.plans.get(plan_key(p), [&] { return make_plan(p, handle); });
  if (params.step == FusedConvParams::Step::kPlan) {
    *params.workspace_bytes = static_cast<std::size_t>(plan->workspace_bytes);
    return;
  }
  std::unordered_map<std::int64_t, void*> pointers{{kX, p.x.data}, {kWeight, p.weight.data}, {kOut, p.out.data}};
  if (p.epilogue.has_bias()) pointers.emplace(kBias, p.epilogue.bias.data);
  if (p.epilogue.has_residual()) pointers.emplace(kResidual, p.epilogue.residual.data);
  const cudnnStatus_t status = fe::detail::set_stream(handle, static_cast<cudaStream_t>(stream));
  FD_CHECK(status == CUDNN_STATUS_SUCCESS, RuntimeError, "cuDNN cannot use the stream: ", fe::detail::get_error_string(status));
  require(plan->graph.execute(handle, pointers, p.workspace), "launch");
}

}  // namespace fastdet

#else

#include "core/check.h"

namespace fastdet {

void rep_conv_cudnn(const FusedConvParams&, Stream) {
  throw RuntimeError("this fastdet was built without the headers of the cuDNN frontend");
}

}  // namespace fastdet

#endif
