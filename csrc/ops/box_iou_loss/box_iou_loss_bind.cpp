// SPDX-License-Identifier: Apache-2.0
#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/box_iou_loss/box_iou_loss.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};
constexpr std::initializer_list<DType> kResults = {DType::kFloat32, DType::kFloat64};

Reduction reduction_of(const char* op, const std::string& word) {
  constexpr std::pair<const char*, Reduction> known[] = {
      {"none", Reduction::kNone}, {"sum", Reduction::kSum}, {"mean", Reduction::kMean}};
  return value_of_word(op, "reduction", word, known);
}

py::tuple loss(py::handle pred, py::handle target, py::handle weight, const std::string& kind, const std::string& fmt, double eps,
               const std::string& eps_union, const std::string& eps_enclosing, const std::string& eps_sides, double variance_eps,
               bool detach_alpha, const std::string& reduction, bool want_pred, bool want_target, const std::string& backend) {
  const char* op = "box_iou_loss";
  Call call(op, backend);
  BoxIouLossParams params;
  params.pred = call.input("pred", pred, kFloats, 2);
  params.target = call.input("target", target, kFloats, 2);
  if (!weight.is_none()) params.weight = call.input("weight", weight, kFloats, 1);
  params.rules = iou_rules(op, kind, fmt, eps, eps_union, eps_enclosing, eps_sides, variance_eps, detach_alpha);
  params.reduction = reduction_of(op, reduction);
  box_iou_loss_check(op, params);
  const std::int64_t n = params.pairs(), k = params.rules.coordinates();
  py::object loss, grad_pred, grad_target;
  const bool rows = params.reduction == Reduction::kNone;
  params.loss = call.output(rows ? std::vector<std::int64_t>{n} : std::vector<std::int64_t>{}, params.dtype(), &loss).data;
  void* data_pred = call.output({want_pred ? n : 0, k}, params.dtype(), &grad_pred).data;
  void* data_target = call.output({want_target ? n : 0, k}, params.dtype(), &grad_target).data;
  params.grad_pred = want_pred ? data_pred : nullptr;
  params.grad_target = want_target ? data_target : nullptr;
  params.workspace = call.workspace(box_iou_loss_workspace_bytes(params));
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().box_iou_loss, params, stream) : box_iou_loss_cpu(params); });
  return py::make_tuple(loss, grad_pred, grad_target);
}

py::tuple backward(py::handle grad_loss, py::handle kept_pred, py::handle kept_target, const std::string& backend) {
  const char* op = "box_iou_loss_backward";
  Call call(op, backend);
  BoxIouLossBackwardParams params;
  params.grad_loss = call.input("grad_loss", grad_loss, kResults, -1);
  params.kept_pred = call.input("kept_pred", kept_pred, kResults, 2);
  params.kept_target = call.input("kept_target", kept_target, kResults, 2);
  box_iou_loss_backward_check(op, params);
  const auto shape = [](const TensorView& view) { return std::vector<std::int64_t>{view.shape[0], view.shape[1]}; };
  py::object grad_pred, grad_target;
  params.grad_pred = call.output(shape(params.kept_pred), params.kept_pred.dtype, &grad_pred).data;
  params.grad_target = call.output(shape(params.kept_target), params.kept_target.dtype, &grad_target).data;
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().box_iou_loss_backward, params, stream) : box_iou_loss_backward_cpu(params); });
  return py::make_tuple(grad_pred, grad_target);
}

}  // namespace

void bind_box_iou_loss(py::module_& module) {
  module.def("box_iou_loss", &loss);
  module.def("box_iou_loss_backward", &backward);
}

}  // namespace fastdet::bindings
