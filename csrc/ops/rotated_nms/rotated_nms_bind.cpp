// SPDX-License-Identifier: Apache-2.0
#include "ops/rotated_nms/rotated_nms.h"

#include "bindings/operators.h"
#include "bindings/scored_call.h"

namespace fastdet::bindings {
namespace {

py::tuple rotated_nms(py::handle boxes, py::handle scores, py::handle idxs, double iou_threshold, const std::string& measure,
                      const std::string& semantics, bool degrees, const std::string& backend) {
  const char* op = "rotated_nms";
  Call call(op, backend);
  RotatedNmsParams params;
  params.in = take_scored_boxes(call, boxes, scores, idxs);
  params.iou_threshold = iou_threshold;
  params.degrees = degrees;
  rotated_nms_words(op, measure, semantics, &params);
  rotated_nms_check(op, params);
  const std::size_t bytes = call.on_cuda() ? rotated_nms_cuda_workspace_bytes(params) : rotated_nms_cpu_workspace_bytes(params);
  return run_scored(call, params, params.in.count(), bytes, [&](bool on_cuda, void* stream) {
    on_cuda ? launch_cuda(cuda().rotated_nms, params, stream) : rotated_nms_cpu(params);
  });
}

}  // namespace

void bind_rotated_nms(py::module_& module) { module.def("rotated_nms", &rotated_nms); }

}  // namespace fastdet::bindings
