// SPDX-License-Identifier: Apache-2.0
#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/hungarian_assign/hungarian_assign.h"

namespace fastdet::bindings {
namespace {

using Task = HungarianAssignParams::Task;

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr std::initializer_list<DType> kAllFloats = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};
constexpr std::initializer_list<DType> kFloat = {DType::kFloat32};
constexpr std::initializer_list<DType> kIntegers = {DType::kInt64, DType::kInt32};

// The arguments that assignment and cost have in common.
struct Arguments {
  py::handle logits, boxes, gt_boxes, gt_labels, gt_count;
  double class_weight, l1_weight, giou_weight, alpha, gamma;
};

HungarianAssignParams take(Call& call, const char* op, Task task, const Arguments& arguments) {
  HungarianAssignParams params;
  params.task = task;
  params.logits = call.input("logits", arguments.logits, kFloats, 3);
  params.boxes = call.input("boxes_cxcywh", arguments.boxes, kFloats, 3);
  params.gt_boxes = call.input("gt_boxes_cxcywh", arguments.gt_boxes, kFloat, 3);
  params.gt_labels = call.input("gt_labels", arguments.gt_labels, kIntegers, 2);
  params.count = call.input("gt_count", arguments.gt_count, kIntegers, 1);
  params.class_weight = static_cast<float>(arguments.class_weight);
  params.l1_weight = static_cast<float>(arguments.l1_weight);
  params.giou_weight = static_cast<float>(arguments.giou_weight);
  params.alpha = static_cast<float>(arguments.alpha);
  params.gamma = static_cast<float>(arguments.gamma);
  hungarian_assign_check(op, params, params.count.device == Device::kCpu);
  return params;
}

void run(Call& call, HungarianAssignParams& params) {
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(hungarian_assign_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().hungarian_assign, params, stream) : hungarian_assign_cpu(params); });
}

py::tuple run_matching(Call& call, HungarianAssignParams& params) {
  const std::int64_t b = params.images(), q = params.queries(), m = params.rows();
  py::object matched_gt, matched_query, num_pos;
  params.matched_gt = call.output({b, q}, DType::kInt32, &matched_gt).as<std::int32_t>();
  params.matched_query = call.output({b, m}, DType::kInt32, &matched_query).as<std::int32_t>();
  params.num_pos = call.output({b}, DType::kInt32, &num_pos).as<std::int32_t>();
  run(call, params);
  return py::make_tuple(matched_gt, matched_query, num_pos);
}

py::object assign(const Arguments& arguments, const std::string& backend) {
  const char* op = "hungarian_assign";
  Call call(op, backend);
  HungarianAssignParams params = take(call, op, Task::kAssign, arguments);
  return run_matching(call, params);
}

py::object cost(const Arguments& arguments, const std::string& backend) {
  const char* op = "hungarian_cost";
  Call call(op, backend);
  HungarianAssignParams params = take(call, op, Task::kCost, arguments);
  py::object pair_cost;
  params.cost = call.output({params.images(), params.queries(), params.rows()}, DType::kFloat32, &pair_cost).as<float>();
  run(call, params);
  return pair_cost;
}

py::object solve(py::handle given, py::handle count, const std::string& backend) {
  const char* op = "linear_sum_assignment";
  Call call(op, backend);
  HungarianAssignParams params;
  params.task = Task::kSolve;
  params.given = call.input("cost", given, kAllFloats, 3);
  params.count = call.input("count", count, kIntegers, 1);
  hungarian_assign_check(op, params, params.count.device == Device::kCpu);
  return run_matching(call, params);
}

template <py::object (*Function)(const Arguments&, const std::string&)>
py::object with_arguments(py::handle logits, py::handle boxes, py::handle gt_boxes, py::handle gt_labels, py::handle gt_count,
                          double class_weight, double l1_weight, double giou_weight, double alpha, double gamma,
                          const std::string& backend) {
  return Function({logits, boxes, gt_boxes, gt_labels, gt_count, class_weight, l1_weight, giou_weight, alpha, gamma}, backend);
}

}  // namespace

void bind_hungarian_assign(py::module_& module) {
  module.def("hungarian_assign", &with_arguments<assign>);
  module.def("hungarian_cost", &with_arguments<cost>);
  module.def("linear_sum_assignment", &solve);
}

}  // namespace fastdet::bindings
