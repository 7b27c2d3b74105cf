// SPDX-License-Identifier: Apache-2.0
#include "ops/box_iou/box_iou.h"

#include "bindings/arrays.h"
#include "bindings/operators.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};

void run(Call& call, const BoxIouParams& params) {
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().box_iou, params, stream) : box_iou_cpu(params); });
}

py::object pairwise(py::handle boxes1, py::handle boxes2, const std::string& kind, const std::string& fmt, double eps,
                    const std::string& eps_union, const std::string& eps_enclosing, const std::string& eps_sides,
                    double variance_eps, bool detach_alpha, const std::string& backend) {
  const char* op = "box_iou";
  Call call(op, backend);
  BoxIouParams params;
  params.boxes1 = call.input("boxes1", boxes1, kFloats, 3);
  params.boxes2 = call.input("boxes2", boxes2, kFloats, 3);
  params.rules = iou_rules(op, kind, fmt, eps, eps_union, eps_enclosing, eps_sides, variance_eps, detach_alpha);
  box_iou_check(op, params, false);
  py::object out;
  params.out = call.output({params.images(), params.rows(), params.columns()}, params.dtype(), &out).data;
  run(call, params);
  return out;
}

py::tuple backward(py::handle grad, py::handle boxes1, py::handle boxes2, const std::string& kind, const std::string& fmt,
                   double eps, const std::string& eps_union, const std::string& eps_enclosing, const std::string& eps_sides,
                   double variance_eps, bool detach_alpha, bool want1, bool want2, const std::string& backend) {
  const char* op = "box_iou_backward";
  Call call(op, backend);
  BoxIouParams params;
  params.grad = call.input("grad", grad, {DType::kFloat32, DType::kFloat64}, 3);
  params.boxes1 = call.input("boxes1", boxes1, kFloats, 3);
  params.boxes2 = call.input("boxes2", boxes2, kFloats, 3);
  params.rules = iou_rules(op, kind, fmt, eps, eps_union, eps_enclosing, eps_sides, variance_eps, detach_alpha);
  box_iou_check(op, params, true);
  const std::int64_t k = params.rules.coordinates();
  py::object grad1, grad2;
  void* data1 = call.output({params.images(), want1 ? params.rows() : 0, k}, params.boxes1.dtype, &grad1).data;
  void* data2 = call.output({params.images(), want2 ? params.columns() : 0, k}, params.boxes2.dtype, &grad2).data;
  params.grad1 = want1 ? data1 : nullptr;
  params.grad2 = want2 ? data2 : nullptr;
  run(call, params);
  return py::make_tuple(grad1, grad2);
}

}  // namespace

void bind_box_iou(py::module_& module) {
  module.def("box_iou", &pairwise);
  module.def("box_iou_backward", &backward);
}

}  // namespace fastdet::bindings
