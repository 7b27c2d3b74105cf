// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <iterator>

#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/rep_conv/rep_conv.h"
#include "ops/rep_conv/rep_conv_tiles.h"

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
