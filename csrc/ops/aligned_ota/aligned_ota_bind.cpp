// SPDX-License-Identifier: Apache-2.0
#include "bindings/assign_call.h"
#include "bindings/operators.h"
#include "ops/aligned_ota/aligned_ota.h"

namespace fastdet::bindings {
namespace {

// The arguments both functions have in common.
struct Arguments {
  py::handle scores, boxes, points, strides, gt_boxes, gt_labels, gt_count;
  OtaAttributes attributes;
};

AlignedOtaParams take(Call& call, const char* op, const Arguments& arguments) {
  AlignedOtaParams params;
  params.scores = call.input("scores", arguments.scores, kFloats, 3);
  params.boxes = call.input("boxes", arguments.boxes, kFloats, 3);
  params.points = call.input("points", arguments.points, kFloat, 2);
  params.strides = call.input("strides", arguments.strides, kFloat, 1);
  take_targets(call, arguments.gt_boxes, arguments.gt_labels, arguments.gt_count, &params);
  arguments.attributes.put(&params);
  aligned_ota_check(op, params, params.gt_count.device == Device::kCpu);
  return params;
}

void run(Call& call, AlignedOtaParams& params) {
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(on_cuda ? aligned_ota_cuda_workspace_bytes(params) : aligned_ota_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().aligned_ota, params, stream) : aligned_ota_cpu(params); });
}

py::tuple assign(const Arguments& arguments, const std::string& backend) {
  const char* op = "aligned_ota_assign";
  Call call(op, backend);
  AlignedOtaParams params = take(call, op, arguments);
  return run_assignment(call, params, params.priors(), [&] { run(call, params); });
}

py::tuple cost(const Arguments& arguments, const std::string& backend) {
  const char* op = "aligned_ota_cost";
  Call call(op, backend);
  AlignedOtaParams params = take(call, op, arguments);
  return run_ota_cost(call, params, [&] { run(call, params); });
}

template <py::tuple (*Function)(const Arguments&, const std::string&)>
py::tuple with_arguments(py::handle scores, py::handle boxes, py::handle points, py::handle strides, py::handle gt_boxes,
                         py::handle gt_labels, py::handle gt_count, double center_radius, std::int64_t topk, double class_weight,
                         double iou_weight, const std::string& backend) {
  const OtaAttributes attributes = {center_radius, topk, class_weight, iou_weight};
  return Function({scores, boxes, points, strides, gt_boxes, gt_labels, gt_count, attributes}, backend);
}

}  // namespace

void bind_aligned_ota(py::module_& module) {
  module.def("aligned_ota_assign", &with_arguments<assign>);
  module.def("aligned_ota_cost", &with_arguments<cost>);
}

}  // namespace fastdet::bindings
