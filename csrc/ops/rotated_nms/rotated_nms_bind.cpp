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

py::tuple rotated_multiclass_nms(py::handle boxes, py::handle scores, double score_threshold, double iou_threshold,
                                 std::int64_t max_det, std::int64_t max_candidates, bool class_agnostic, bool multi_label,
                                 const std::string& measure, const std::string& semantics, bool degrees,
                                 const std::string& backend) {
  const char* op = "rotated_multiclass_nms";
  const std::initializer_list<DType> floats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
  Call call(op, backend);
  RotatedMulticlassParams params;
  params.boxes = call.input("boxes", boxes, floats, 3);
  params.scores = call.input("scores", scores, floats, 3);
  params.score_threshold = score_threshold;
  params.iou_threshold = iou_threshold;
  params.max_det = max_det;
  params.max_candidates = max_candidates;
  params.class_agnostic = class_agnostic;
  params.multi_label = multi_label;
  params.degrees = degrees;
  rotated_nms_words(op, measure, semantics, &params);
  rotated_multiclass_check(op, params);
  const std::int64_t images = params.images();
  py::object out_boxes, out_scores, out_labels, out_index, out_count;
  params.out.boxes = call.output({images, max_det, 5}, DType::kFloat32, &out_boxes);
  params.out.scores = call.output({images, max_det}, DType::kFloat32, &out_scores);
  params.out.labels = call.output({images, max_det}, DType::kInt32, &out_labels);
  params.out.index = call.output({images, max_det}, DType::kInt32, &out_index);
  params.out.count = call.output({images}, DType::kInt32, &out_count);
  const bool on_cuda = call.on_cuda();
  const std::size_t bytes =
      on_cuda ? rotated_multiclass_cuda_workspace_bytes(params) : rotated_multiclass_cpu_workspace_bytes(params);
  params.workspace = call.workspace(bytes + 16);
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().rotated_multiclass, params, stream) : rotated_multiclass_cpu(params); });
  return py::make_tuple(out_boxes, out_scores, out_labels, out_index, out_count);
}

}  // namespace

void bind_rotated_nms(py::module_& module) {
  module.def("rotated_nms", &rotated_nms);
  module.def("rotated_multiclass_nms", &rotated_multiclass_nms);
}

}  // namespace fastdet::bindings
