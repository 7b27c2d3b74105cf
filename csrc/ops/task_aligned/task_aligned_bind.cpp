// SPDX-License-Identifier: Apache-2.0
#include "bindings/assign_call.h"
#include "bindings/operators.h"
#include "ops/task_aligned/task_aligned.h"

namespace fastdet::bindings {
namespace {

constexpr double kOverlapEps = 1e-7;

// The arguments both functions have in common.
struct Arguments {
  py::handle scores, boxes, points, gt_boxes, gt_labels, gt_count;
  std::int64_t topk, second_topk;
  double alpha, beta, small_below, small_size, eps;
  std::string iou_kind, conflict, target_score;
};

void take_rules(const char* op, const Arguments& arguments, TaskAlignedParams* params) {
  constexpr std::pair<const char*, IouKind> kinds[] = {
      {"iou", IouKind::kIou}, {"ciou", IouKind::kCiou}, {"probiou", IouKind::kProb}};
  constexpr std::pair<const char*, ConflictRule> conflicts[] = {{"overlap", ConflictRule::kOverlap},
                                                                {"overlap_anywhere", ConflictRule::kOverlapAnywhere},
                                                                {"metric", ConflictRule::kMetric}};
  constexpr std::pair<const char*, TargetScore> scores[] = {
      {"normalized", TargetScore::kNormalized}, {"metric", TargetScore::kMetric}, {"overlap", TargetScore::kOverlap}};
  params->kind = value_of_word(op, "iou_kind", arguments.iou_kind, kinds);
  params->conflict = value_of_word(op, "conflict", arguments.conflict, conflicts);
  params->target_score = value_of_word(op, "target_score", arguments.target_score, scores);
  const bool rotated = params->kind == IouKind::kProb;
  params->form = iou_form<float>(iou_rules(op, arguments.iou_kind, rotated ? "cxcywha" : "xyxy", kOverlapEps, "add", "add",
                                           rotated ? "none" : "height", 0.0, true));
  params->topk = arguments.topk;
  params->second_topk = arguments.second_topk;
  params->score_power = task_aligned_power(op, "alpha", arguments.alpha);
  params->overlap_power = task_aligned_power(op, "beta", arguments.beta);
  params->small_below = static_cast<float>(arguments.small_below);
  params->small_size = static_cast<float>(arguments.small_size);
  params->eps = static_cast<float>(arguments.eps);
}

TaskAlignedParams take(Call& call, const char* op, const Arguments& arguments) {
  TaskAlignedParams params;
  params.scores = call.input("scores", arguments.scores, kFloats, 3);
  params.boxes = call.input("boxes", arguments.boxes, kFloats, 3);
  params.points = call.input("points", arguments.points, kFloat, 2);
  take_targets(call, arguments.gt_boxes, arguments.gt_labels, arguments.gt_count, &params);
  take_rules(op, arguments, &params);
  task_aligned_check(op, params, params.gt_count.device == Device::kCpu);
  return params;
}

void run(Call& call, TaskAlignedParams& params) {
  const bool on_cuda = call.on_cuda();
  params.workspace =
      call.workspace(on_cuda ? task_aligned_cuda_workspace_bytes(params) : task_aligned_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().task_aligned, params, stream) : task_aligned_cpu(params); });
}

py::tuple assign(const Arguments& arguments, const std::string& backend) {
  const char* op = "task_aligned_assign";
  Call call(op, backend);
  TaskAlignedParams params = take(call, op, arguments);
  return run_assignment(call, params, params.anchors(), [&] { run(call, params); });
}

py::tuple cost(const Arguments& arguments, const std::string& backend) {
  const char* op = "task_aligned_cost";
  Call call(op, backend);
  TaskAlignedParams params = take(call, op, arguments);
  const std::int64_t b = params.images(), a = params.anchors(), m = params.rows();
  py::object metric, overlap, inside, chosen;
  params.want_cost = true;
  params.metric = call.output({b, a, m}, DType::kFloat32, &metric).as<float>();
  params.overlap = call.output({b, a, m}, DType::kFloat32, &overlap).as<float>();
  params.inside = call.output({b, a, m}, DType::kBool, &inside).as<bool>();
  params.chosen = call.output({b, a, m}, DType::kBool, &chosen).as<bool>();
  run(call, params);
  return py::make_tuple(metric, overlap, inside, chosen);
}

template <py::tuple (*Function)(const Arguments&, const std::string&)>
py::tuple with_arguments(py::handle scores, py::handle boxes, py::handle points, py::handle gt_boxes, py::handle gt_labels,
                         py::handle gt_count, std::int64_t topk, std::int64_t second_topk, double alpha, double beta,
                         double small_below, double small_size, double eps, const std::string& iou_kind,
                         const std::string& conflict, const std::string& target_score, const std::string& backend) {
  return Function({scores, boxes, points, gt_boxes, gt_labels, gt_count, topk, second_topk, alpha, beta, small_below, small_size,
                   eps, iou_kind, conflict, target_score},
                  backend);
}

}  // namespace

void bind_task_aligned(py::module_& module) {
  module.def("task_aligned_assign", &with_arguments<assign>);
  module.def("task_aligned_cost", &with_arguments<cost>);
}

}  // namespace fastdet::bindings
