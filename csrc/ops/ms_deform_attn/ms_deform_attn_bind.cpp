// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/ms_deform_attn/ms_deform_attn.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};
constexpr std::initializer_list<DType> kIntegers = {DType::kInt64, DType::kInt32};

using Numbers = std::vector<std::int64_t>;
using Wanted = std::vector<bool>;

void set_points(const char* op, const Numbers& num_points, MsDeformAttnParams* params) {
  FD_CHECK(num_points.size() <= MsDeformAttnParams::kMaxLevels, ValueError, op, ": num_points may have at most ",
           MsDeformAttnParams::kMaxLevels, " levels, got ", num_points.size());
  std::int64_t end = 0;
  for (const std::int64_t points : num_points) {
    FD_CHECK(points >= 0 && points <= MsDeformAttnParams::kMaxSamples - end, ValueError, op,
             ": num_points must not be negative nor add up to more than ", MsDeformAttnParams::kMaxSamples, ", got ", points);
    end += points;
    params->point_end[params->levels++] = static_cast<std::int32_t>(end);
  }
}

// The arrays both forms have in common; those of the fused form have names of their own.
void take_arrays(Call& call, py::handle value, py::handle shapes, py::handle level_start, py::handle locations,
                 py::handle weights, MsDeformAttnParams* params) {
  params->value = call.input("value", value, kFloats, 4);
  params->shapes = call.input("spatial_shapes", shapes, kIntegers, 2);
  params->level_start = call.input("level_start_index", level_start, kIntegers, 1);
  params->locations = call.input(params->fused ? "offsets" : "sampling_locations", locations, kFloats, 5);
  params->weights = call.input(params->fused ? "logits" : "attention_weights", weights, kFloats, 4);
}

bool host_sizes(const MsDeformAttnParams& params) { return params.shapes.device == Device::kCpu; }

py::object forward(Call& call, const char* op, MsDeformAttnParams& params) {
  ms_deform_attn_check(op, params, host_sizes(params));
  py::object out;
  params.out =
      call.output({params.images(), params.queries(), params.heads() * params.channels()}, params.value.dtype, &out).data;
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().ms_deform_attn, params, stream) : ms_deform_attn_cpu(params); });
  return out;
}

py::tuple backward(Call& call, const char* op, MsDeformAttnParams& params, const Wanted& wanted) {
  FD_CHECK(wanted.size() == 3, ValueError, op, ": wanted must have 3 entries, got ", wanted.size());
  ms_deform_attn_check(op, params, host_sizes(params));
  const auto shape = [&](int i, const TensorView& view) {
    return wanted[static_cast<std::size_t>(i)] ? Numbers(view.shape, view.shape + view.ndim) : Numbers{0};
  };
  py::object grad_value, grad_locations, grad_weights;
  params.grad_value = call.output(shape(0, params.value), params.value.dtype, &grad_value).data;
  params.grad_locations = call.output(shape(1, params.locations), params.locations.dtype, &grad_locations).data;
  params.grad_weights = call.output(shape(2, params.weights), params.weights.dtype, &grad_weights).data;
  if (!wanted[0]) params.grad_value = nullptr;
  if (!wanted[1]) params.grad_locations = nullptr;
  if (!wanted[2]) params.grad_weights = nullptr;
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(on_cuda ? ms_deform_attn_backward_cuda_workspace_bytes(params)
                                            : ms_deform_attn_backward_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().ms_deform_attn_backward, params, stream) : ms_deform_attn_backward_cpu(params); });
  return py::make_tuple(grad_value, grad_locations, grad_weights);
}

py::object plain_forward(py::handle value, py::handle shapes, py::handle level_start, py::handle locations, py::handle weights,
                         const Numbers& num_points, bool discrete, bool, const std::string& backend) {
  const char* op = "ms_deform_attn";
  Call call(op, backend);
  MsDeformAttnParams params;
  params.discrete = discrete;
  set_points(op, num_points, &params);
  take_arrays(call, value, shapes, level_start, locations, weights, &params);
  return forward(call, op, params);
}

py::tuple plain_backward(py::handle grad_out, py::handle value, py::handle shapes, py::handle level_start, py::handle locations,
                         py::handle weights, const Numbers& num_points, bool discrete, bool deterministic, const Wanted& wanted,
                         const std::string& backend) {
  const char* op = "ms_deform_attn_backward";
  Call call(op, backend);
  MsDeformAttnParams params;
  params.discrete = discrete;
  params.deterministic = deterministic;
  set_points(op, num_points, &params);
  params.grad_out = call.input("grad_out", grad_out, kFloats, 3);
  take_arrays(call, value, shapes, level_start, locations, weights, &params);
  return backward(call, op, params, wanted);
}

py::object fused_forward(py::handle value, py::handle shapes, py::handle level_start, py::handle references, py::handle offsets,
                         py::handle logits, const Numbers& num_points, double offset_scale, bool discrete, bool,
                         const std::string& backend) {
  const char* op = "ms_deform_attn_fused";
  Call call(op, backend);
  MsDeformAttnParams params;
  params.fused = true;
  params.discrete = discrete;
  params.offset_scale = offset_scale;
  set_points(op, num_points, &params);
  take_arrays(call, value, shapes, level_start, offsets, logits, &params);
  params.references = call.input("reference_points", references, kFloats, 4);
  return forward(call, op, params);
}

py::tuple fused_backward(py::handle grad_out, py::handle value, py::handle shapes, py::handle level_start, py::handle references,
                         py::handle offsets, py::handle logits, const Numbers& num_points, double offset_scale, bool discrete,
                         bool deterministic, const Wanted& wanted, const std::string& backend) {
  const char* op = "ms_deform_attn_fused_backward";
  Call call(op, backend);
  MsDeformAttnParams params;
  params.fused = true;
  params.discrete = discrete;
  params.deterministic = deterministic;
  params.offset_scale = offset_scale;
  set_points(op, num_points, &params);
  params.grad_out = call.input("grad_out", grad_out, kFloats, 3);
  take_arrays(call, value, shapes, level_start, offsets, logits, &params);
  params.references = call.input("reference_points", references, kFloats, 4);
  return backward(call, op, params, wanted);
}

}  // namespace

void bind_ms_deform_attn(py::module_& module) {
  module.def("ms_deform_attn", &plain_forward);
  module.def("ms_deform_attn_backward", &plain_backward);
  module.def("ms_deform_attn_fused", &fused_forward);
  module.def("ms_deform_attn_fused_backward", &fused_backward);
}

}  // namespace fastdet::bindings
