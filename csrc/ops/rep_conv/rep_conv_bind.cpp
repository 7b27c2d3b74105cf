// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "core/parallel.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rep_conv/rep_conv_plans.h"
#include "ops/rep_conv/rep_conv_tiles.h"
#include "ops/rep_conv/rep_conv_winograd.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

Activation activation_of(const char* op, const std::string& name) {
  const char* const names[] = {"none", "relu", "silu", "leaky_relu"};
  const auto found = std::find(std::begin(names), std::end(names), name);
  FD_CHECK(found != std::end(names), ValueError, op, ": activation must be none, relu, silu or leaky_relu, got ", name);
  return static_cast<Activation>(found - names);
}

TensorView like_x(Call& call, const char* op, const char* name, py::handle array, DType dtype, int ndim) {
  const TensorView view = call.input(name, array, kFloats, ndim);
  FD_CHECK(view.dtype == dtype, TypeError, op, ": ", name, " must be ", dtype_name(dtype), " like x, got ",
           dtype_name(view.dtype));
  return view;
}

Epilogue epilogue_of(Call& call, const char* op, DType dtype, py::handle bias, const std::string& activation, py::handle residual,
                     bool add_first) {
  Epilogue epilogue;
  if (!bias.is_none()) epilogue.bias = like_x(call, op, "bias", bias, dtype, 1);
  if (!residual.is_none()) epilogue.residual = like_x(call, op, "residual", residual, dtype, 4);
  epilogue.activation = activation_of(op, activation);
  epilogue.add_first = add_first;
  return epilogue;
}

// A result [B, O, P, Q]. With channels last it is made as [B, P, Q, O]; the caller permutes the array it gets.
TensorView output_of(Call& call, std::array<std::int64_t, 4> shape, DType dtype, bool channels_last, py::object* object) {
  const auto [b, o, p, q] = shape;
  if (!channels_last) return call.output({b, o, p, q}, dtype, object);
  const TensorView made = call.output({b, p, q, o}, dtype, object);
  TensorView view = made;
  const int order[] = {0, 3, 1, 2};
  for (int i = 0; i < 4; ++i) {
    view.shape[i] = made.shape[order[i]];
    view.stride[i] = made.stride[order[i]];
  }
  return view;
}

using Pair = std::array<std::int64_t, 2>;

py::object rep_conv2d(py::handle x, py::handle weight, py::handle bias, Pair stride, Pair padding, std::int64_t groups,
                      const std::string& activation, py::handle residual, bool add_first, bool channels_last) {
  const char* op = "rep_conv2d";
  Call call(op, "cpu");
  RepConvParams params;
  params.x = call.input("x", x, kFloats, 4);
  params.weight = like_x(call, op, "weight", weight, params.x.dtype, 4);
  params.epilogue = epilogue_of(call, op, params.x.dtype, bias, activation, residual, add_first);
  std::copy(stride.begin(), stride.end(), params.stride);
  std::copy(padding.begin(), padding.end(), params.padding);
  params.groups = groups;
  rep_conv_check(params);
  py::object result;
  params.out = output_of(call, {params.x.shape[0], params.weight.shape[0], params.out_size(0), params.out_size(1)},
                         params.x.dtype, channels_last, &result);
  params.workspace = call.workspace(rep_conv_cpu_workspace_bytes(params));
  call.run([&] { rep_conv_cpu(params); });
  return result;
}

TensorView winograd_weight(Call& call, py::handle weight) {
  const TensorView view = call.input("weight", weight, {DType::kFloat32}, 4);
  FD_CHECK(view.shape[2] == 3 && view.shape[3] == 3, ValueError, "rep_conv2d: weight must be (O, I, 3, 3), got ",
           shape_text(view));
  const std::string missing = rep_conv::winograd_missing();
  FD_CHECK(missing.empty(), RuntimeError, "rep_conv2d: backend 'winograd' was asked for, but ", missing);
  return view;
}

// [O, I, 3, 3] as [I, O, 3, 3], each filter by half a circle: what the gradient of x is convolved with.
void turn_filters(TensorView* weight) {
  weight->data = weight->as<float>() + 2 * (weight->stride[2] + weight->stride[3]);
  std::swap(weight->shape[0], weight->shape[1]);
  std::swap(weight->stride[0], weight->stride[1]);
  weight->stride[2] = -weight->stride[2];
  weight->stride[3] = -weight->stride[3];
}

// The weight as `winograd` reads it, one array of float32.
py::object rep_conv2d_winograd_pack(py::handle weight, bool channels_last) {
  Call call("rep_conv2d", "cpu");
  const TensorView view = winograd_weight(call, weight);
  py::object result;
  const TensorView packed = call.output({rep_conv::winograd_packed_floats(view, channels_last)}, DType::kFloat32, &result);
  call.run([&] { rep_conv::winograd_pack(view, channels_last, packed.as<float>()); });
  return result;
}

py::object rep_conv2d_winograd(py::handle x, py::handle weight, py::handle packed, py::handle bias, Pair padding,
                               const std::string& activation, py::handle residual, bool add_first, bool channels_last,
                               bool turned, bool between_framework_calls) {
  const char* op = "rep_conv2d";
  Call call(op, "cpu");
  RepConvParams params;
  params.x = call.input("x", x, {DType::kFloat32}, 4);
  params.weight = winograd_weight(call, weight);
  if (turned) turn_filters(&params.weight);
  params.epilogue = epilogue_of(call, op, params.x.dtype, bias, activation, residual, add_first);
  std::copy(padding.begin(), padding.end(), params.padding);
  rep_conv_check(params);
  const std::string why = rep_conv::winograd_obstacle(params, channels_last);
  FD_CHECK(why.empty(), RuntimeError, op, ": backend 'winograd' was asked for, but ", why);
  const float* transformed = nullptr;
  if (!packed.is_none()) {
    const TensorView view = call.input("packed", packed, {DType::kFloat32}, 1);
    const std::int64_t floats = rep_conv::winograd_packed_floats(params.weight, channels_last);
    FD_CHECK(view.shape[0] == floats && view.stride[0] == 1, ValueError, op, ": packed must be (", floats, ",), got ",
             shape_text(view));
    transformed = view.as<const float>();
  }
  py::object result;
  params.out = output_of(call, {params.x.shape[0], params.weight.shape[0], params.out_size(0), params.out_size(1)},
                         params.x.dtype, channels_last, &result);
  params.workspace = call.workspace(rep_conv::winograd_workspace_bytes(params, channels_last, transformed != nullptr));
  call.run([&] {
    const FrameworkThreads threads(between_framework_calls);
    rep_conv::winograd_cpu(params, channels_last, transformed);
  });
  return result;
}

FusedConvParams::Library library_of(const std::string& name) {
  FD_CHECK(name == "cudnn" || name == "cutlass", ValueError, "rep_conv2d: library must be cudnn or cutlass, got ", name);
  return name == "cudnn" ? FusedConvParams::Library::kCudnn : FusedConvParams::Library::kCutlass;
}

// "" if this installation has the library's path, else why not. Says nothing about particular arrays.
std::string fused_missing(const std::string& library) {
  FusedConvParams params;
  params.library = library_of(library);
  try {
    launch_cuda(cuda().rep_conv_fused, params, nullptr);
    if (params.library == FusedConvParams::Library::kCudnn) open_cudnn();
  } catch (const RuntimeError& error) {
    return error.what();
  }
  return "";
}

// One convolution through a library: x, weight and residual channels last. With plan_only the result is why it cannot run, or "".
py::object rep_conv2d_fused(const std::string& library, py::handle x, py::handle weight, py::handle bias, Pair stride,
                            Pair padding, std::int64_t groups, const std::string& activation, py::handle residual, bool add_first,
                            bool plan_only) {
  const char* op = "rep_conv2d";
  Call call(op, "auto");
  FusedConvParams params;
  RepConvParams& conv = params.conv;
  params.library = library_of(library);
  conv.x = call.input("x", x, kFloats, 4);
  conv.weight = like_x(call, op, "weight", weight, conv.x.dtype, 4);
  conv.epilogue = epilogue_of(call, op, conv.x.dtype, bias, activation, residual, add_first);
  std::copy(stride.begin(), stride.end(), conv.stride);
  std::copy(padding.begin(), padding.end(), conv.padding);
  conv.groups = groups;
  rep_conv_check(conv);
  try {
    const std::string why = fused_obstacle(params);
    FD_CHECK(why.empty(), RuntimeError, why);
    if (params.library == FusedConvParams::Library::kCudnn) params.cudnn = open_cudnn();
    FD_CHECK(call.on_cuda(), RuntimeError, "it runs on CUDA only");
    params.step = FusedConvParams::Step::kPlan;
    params.workspace_bytes = &conv.workspace_bytes;
    call.run([&] { launch_cuda(cuda().rep_conv_fused, params, nullptr); });
  } catch (const RuntimeError& error) {
    if (plan_only) return py::str(error.what());
    throw RuntimeError(concat(op, ": backend '", library, "' was asked for, but ", error.what()));
  }
  if (plan_only) return py::str("");
  py::object result;
  conv.out =
      output_of(call, {conv.x.shape[0], conv.weight.shape[0], conv.out_size(0), conv.out_size(1)}, conv.x.dtype, true, &result);
  conv.workspace = call.workspace(conv.workspace_bytes);
  params.step = FusedConvParams::Step::kRun;
  void* stream = call.stream();
  call.run([&] { launch_cuda(cuda().rep_conv_fused, params, stream); });
  return result;
}

// What tells one compiled plan from another, for tests.
std::vector<std::int64_t> rep_conv_plan_key(py::handle x, py::handle weight, py::handle bias, Pair stride, Pair padding,
                                            std::int64_t groups, const std::string& activation, py::handle residual,
                                            bool add_first) {
  Call call("rep_conv2d", "cpu");
  RepConvParams params;
  params.x = call.input("x", x, kFloats, 4);
  params.weight = call.input("weight", weight, kFloats, 4);
  params.epilogue = epilogue_of(call, "rep_conv2d", params.x.dtype, bias, activation, residual, add_first);
  std::copy(stride.begin(), stride.end(), params.stride);
  std::copy(padding.begin(), padding.end(), params.padding);
  params.groups = groups;
  const rep_conv::PlanKey key = rep_conv::plan_key(params);
  return {key.begin(), key.end()};
}

void run_bias_act(Call& call, const BiasActParams& params) {
  bias_act_check(params);
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().bias_act, params, stream) : bias_act_cpu(params); });
}

py::object bias_act(py::handle x, py::handle bias, const std::string& activation, py::handle residual, bool add_first,
                    bool channels_last, const std::string& backend) {
  const char* op = "bias_act";
  Call call(op, backend);
  BiasActParams params;
  params.x = call.input("x", x, kFloats, 4);
  params.epilogue = epilogue_of(call, op, params.x.dtype, bias, activation, residual, add_first);
  bias_act_check(params);
  const std::int64_t* const s = params.x.shape;
  py::object result;
  params.out = output_of(call, {s[0], s[1], s[2], s[3]}, params.x.dtype, channels_last, &result);
  run_bias_act(call, params);
  return result;
}

// Writes into x, which no other argument may overlap.
void bias_act_in_place(py::handle x, py::handle bias, const std::string& activation, py::handle residual, bool add_first,
                       const std::string& backend) {
  const char* op = "bias_act";
  Call call(op, backend);
  BiasActParams params;
  params.x = params.out = call.writable("x", x, kFloats, 4);
  params.epilogue = epilogue_of(call, op, params.x.dtype, bias, activation, residual, add_first);
  run_bias_act(call, params);
}

}  // namespace

void bind_rep_conv(py::module_& module) {
  module.def("rep_conv2d", &rep_conv2d);
  module.def("rep_conv2d_winograd", &rep_conv2d_winograd);
  module.def("rep_conv2d_winograd_pack", &rep_conv2d_winograd_pack);
  module.def("rep_conv_winograd_missing", &rep_conv::winograd_missing);
  module.def("rep_conv2d_fused", &rep_conv2d_fused);
  module.def("rep_conv_fused_missing", &fused_missing);
  module.def("rep_conv_plan_key", &rep_conv_plan_key);
  module.def("bias_act", &bias_act);
  module.def("bias_act_in_place", &bias_act_in_place);
  module.def("rep_conv_limit_isa", [](const std::string& name) {
    const char* const names[] = {"plain", "avx2", "avx512"};
    const auto found = std::find(std::begin(names), std::end(names), name);
    FD_CHECK(found != std::end(names), ValueError, "rep_conv_limit_isa: name must be plain, avx2 or avx512, got ", name);
    rep_conv::set_tile_limit(static_cast<int>(found - names));
  });
}

}  // namespace fastdet::bindings
