// SPDX-License-Identifier: Apache-2.0
#include "bindings/assign_call.h"
#include "bindings/operators.h"
#include "ops/sim_ota/sim_ota.h"

namespace fastdet::bindings {
namespace {

// The arguments both functions have in common.
struct Arguments {
  py::handle scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates;
  OtaAttributes attributes;
};

SimOtaParams take(Call& call, const char* op, const Arguments& arguments) {
  SimOtaParams params;
  params.scores = call.input("scores", arguments.scores, kFloats, 3);
  params.objectness = call.input("objectness", arguments.objectness, kFloats, 2);
  params.boxes = call.input("boxes", arguments.boxes, kFloats, 3);
  take_targets(call, arguments.gt_boxes, arguments.gt_labels, arguments.gt_count, &params);
  params.listed = !arguments.candidates.is_none();
  FD_CHECK(params.listed != !arguments.points.is_none() && params.listed != !arguments.strides.is_none(), ValueError, op,
           ": points and strides, or candidates must be given, got ", params.listed ? "all of them" : "not enough of them");
  if (params.listed) {
    params.candidates = call.input("candidates", arguments.candidates, kIntegers, 2);
  } else {
    params.points = call.input("points", arguments.points, kFloat, 2);
    params.strides = call.input("strides", arguments.strides, kFloat, 1);
  }
  arguments.attributes.put(&params);
  sim_ota_check(op, params, params.gt_count.device == Device::kCpu);
  return params;
}

void run(Call& call, SimOtaParams& params) {
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(on_cuda ? sim_ota_cuda_workspace_bytes(params) : sim_ota_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().sim_ota, params, stream) : sim_ota_cpu(params); });
}

py::tuple assign(const Arguments& arguments, const std::string& backend) {
  const char* op = "sim_ota_assign";
  Call call(op, backend);
  SimOtaParams params = take(call, op, arguments);
  return run_assignment(call, params, params.priors(), [&] { run(call, params); });
}

py::tuple cost(const Arguments& arguments, const std::string& backend) {
  const char* op = "sim_ota_cost";
  Call call(op, backend);
  SimOtaParams params = take(call, op, arguments);
  return run_ota_cost(call, params, [&] { run(call, params); });
}

template <py::tuple (*Function)(const Arguments&, const std::string&)>
py::tuple with_arguments(py::handle scores, py::handle objectness, py::handle boxes, py::handle gt_boxes, py::handle gt_labels,
                         py::handle gt_count, py::handle points, py::handle strides, py::handle candidates, double center_radius,
                         std::int64_t topk, double class_weight, double iou_weight, const std::string& backend) {
  const OtaAttributes attributes = {center_radius, topk, class_weight, iou_weight};
  return Function({scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates, attributes}, backend);
}

}  // namespace

void bind_sim_ota(py::module_& module) {
  module.def("sim_ota_assign", &with_arguments<assign>);
  module.def("sim_ota_cost", &with_arguments<cost>);
}

}  // namespace fastdet::bindings
