// SPDX-License-Identifier: Apache-2.0
#include "ops/soft_nms/soft_nms.h"

#include "bindings/operators.h"
#include "bindings/scored_call.h"

namespace fastdet::bindings {
namespace {

py::tuple soft_nms(py::handle boxes, py::handle scores, py::handle idxs, const std::string& method, double iou_threshold,
                   double sigma, double score_threshold, const std::string& backend) {
  const char* op = "soft_nms";
  Call call(op, backend);
  SoftNmsParams params;
  params.in = take_scored_boxes(call, boxes, scores, idxs);
  params.iou_threshold = iou_threshold;
  params.sigma = sigma;
  params.score_threshold = score_threshold;
  soft_nms_words(op, method, &params);
  soft_nms_check(op, params);
  const std::size_t bytes = call.on_cuda() ? soft_nms_cuda_workspace_bytes(params) : soft_nms_cpu_workspace_bytes(params);
  return run_scored(call, params, params.in.count(), bytes, [&](bool on_cuda, void* stream) {
    on_cuda ? launch_cuda(cuda().soft_nms, params, stream) : soft_nms_cpu(params);
  });
}

}  // namespace

void bind_soft_nms(py::module_& module) { module.def("soft_nms", &soft_nms); }

}  // namespace fastdet::bindings
