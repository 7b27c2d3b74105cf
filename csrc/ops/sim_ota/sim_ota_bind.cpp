// SPDX-License-Identifier: Apache-2.0
#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/sim_ota/sim_ota.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr std::initializer_list<DType> kFloat = {DType::kFloat32};
constexpr std::initializer_list<DType> kIntegers = {DType::kInt64, DType::kInt32};

// The arguments both functions have in common.
struct Arguments {
  py::handle scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates;
  double center_radius;
  std::int64_t topk;
  double class_weight, iou_weight;
};

SimOtaParams take(Call& call, const char* op, const Arguments& arguments) {
  SimOtaParams params;
  params.scores = call.input("scores", arguments.scores, kFloats, 3);
  params.objectness = call.input("objectness", arguments.objectness, kFloats, 2);
  params.boxes = call.input("boxes", arguments.boxes, kFloats, 3);
  params.gt_boxes = call.input("gt_boxes", arguments.gt_boxes, kFloat, 3);
  params.gt_labels = call.input("gt_labels", arguments.gt_labels, kIntegers, 2);
  params.gt_count = call.input("gt_count", arguments.gt_count, kIntegers, 1);
  params.listed = !arguments.candidates.is_none();
  FD_CHECK(params.listed != !arguments.points.is_none() && params.listed != !arguments.strides.is_none(), ValueError, op,
           ": points and strides, or candidates must be given, got ", params.listed ? "all of them" : "not enough of them");
  if (params.listed) {
    params.candidates = call.input("candidates", arguments.candidates, kIntegers, 2);
  } else {
    params.points = call.input("points", arguments.points, kFloat, 2);
    params.strides = call.input("strides", arguments.strides, kFloat, 1);
  }
  params.center_radius = static_cast<float>(arguments.center_radius);
  params.topk = arguments.topk;
  params.class_weight = static_cast<float>(arguments.class_weight);
  params.iou_weight = static_cast<float>(arguments.iou_weight);
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
  const std::int64_t b = params.images(), a = params.priors();
  py::object matched_gt, labels, label_scores, num_pos;
  params.matched_gt = call.output({b, a}, DType::kInt32, &matched_gt).as<std::int32_t>();
  params.labels = call.output({b, a}, DType::kInt32, &labels).as<std::int32_t>();
  params.label_scores = call.output({b, a}, DType::kFloat32, &label_scores).as<float>();
  params.num_pos = call.output({b}, DType::kInt32, &num_pos).as<std::int32_t>();
  run(call, params);
  return py::make_tuple(matched_gt, labels, label_scores, num_pos);
}

py::tuple cost(const Arguments& arguments, const std::string& backend) {
  const char* op = "sim_ota_cost";
  Call call(op, backend);
  SimOtaParams params = take(call, op, arguments);
  const std::int64_t b = params.images(), a = params.priors(), m = params.rows();
  py::object pair_cost, iou, inside, valid, dynamic_k;
  params.want_cost = true;
  params.cost = call.output({b, a, m}, DType::kFloat32, &pair_cost).as<float>();
  params.iou = call.output({b, a, m}, DType::kFloat32, &iou).as<float>();
  params.inside = call.output({b, a, m}, DType::kBool, &inside).as<bool>();
  params.valid = call.output({b, a}, DType::kBool, &valid).as<bool>();
  params.dynamic_k = call.output({b, m}, DType::kInt32, &dynamic_k).as<std::int32_t>();
  run(call, params);
  return py::make_tuple(pair_cost, iou, inside, valid, dynamic_k);
}

template <py::tuple (*Function)(const Arguments&, const std::string&)>
py::tuple with_arguments(py::handle scores, py::handle objectness, py::handle boxes, py::handle gt_boxes, py::handle gt_labels,
                         py::handle gt_count, py::handle points, py::handle strides, py::handle candidates, double center_radius,
                         std::int64_t topk, double class_weight, double iou_weight, const std::string& backend) {
  return Function({scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates, center_radius, topk,
                   class_weight, iou_weight},
                  backend);
}

}  // namespace

void bind_sim_ota(py::module_& module) {
  module.def("sim_ota_assign", &with_arguments<assign>);
  module.def("sim_ota_cost", &with_arguments<cost>);
}

}  // namespace fastdet::bindings
