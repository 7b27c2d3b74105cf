// SPDX-License-Identifier: Apache-2.0
#include "ops/matrix_nms/matrix_nms.h"

#include "bindings/operators.h"
#include "bindings/scored_call.h"

namespace fastdet::bindings {
namespace {

py::tuple matrix_nms(py::handle boxes, py::handle scores, py::handle idxs, const std::string& method, double sigma,
                     double score_threshold, const std::string& backend) {
  const char* op = "matrix_nms";
  Call call(op, backend);
  MatrixNmsParams params;
  params.in = take_scored_boxes(call, boxes, scores, idxs);
  params.sigma = sigma;
  params.score_threshold = score_threshold;
  matrix_nms_words(op, method, &params);
  matrix_nms_check(op, params);
  const std::size_t bytes = call.on_cuda() ? matrix_nms_cuda_workspace_bytes(params) : matrix_nms_cpu_workspace_bytes(params);
  return run_scored(call, params, params.in.count(), bytes, [&](bool on_cuda, void* stream) {
    on_cuda ? launch_cuda(cuda().matrix_nms, params, stream) : matrix_nms_cpu(params);
  });
}

}  // namespace

void bind_matrix_nms(py::module_& module) { module.def("matrix_nms", &matrix_nms); }

}  // namespace fastdet::bindings
