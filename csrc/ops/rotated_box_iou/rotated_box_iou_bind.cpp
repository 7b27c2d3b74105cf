// SPDX-License-Identifier: Apache-2.0
#include "ops/rotated_box_iou/rotated_box_iou.h"

#include "bindings/arrays.h"
#include "bindings/operators.h"

namespace fastdet::bindings {
namespace {

py::object rotated_box_iou(py::handle boxes1, py::handle boxes2, const std::string& measure, const std::string& mode,
                           bool aligned, bool degrees, const std::string& backend) {
  const char* op = "rotated_box_iou";
  const std::initializer_list<DType> floats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};
  Call call(op, backend);
  RotatedBoxIouParams params;
  params.boxes1 = call.input("boxes1", boxes1, floats, 3);
  params.boxes2 = call.input("boxes2", boxes2, floats, 3);
  params.aligned = aligned;
  params.degrees = degrees;
  rotated_box_iou_words(op, measure, mode, &params);
  rotated_box_iou_check(op, params);
  py::object out;
  if (aligned) {
    params.out = call.output({params.images(), params.rows()}, params.dtype(), &out).data;
  } else {
    params.out = call.output({params.images(), params.rows(), params.columns()}, params.dtype(), &out).data;
  }
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().rotated_box_iou, params, stream) : rotated_box_iou_cpu(params); });
  return out;
}

}  // namespace

void bind_rotated_box_iou(py::module_& module) { module.def("rotated_box_iou", &rotated_box_iou); }

}  // namespace fastdet::bindings
