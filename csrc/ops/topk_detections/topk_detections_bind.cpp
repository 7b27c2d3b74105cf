// SPDX-License-Identifier: Apache-2.0
#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "core/check.h"
#include "ops/topk_detections/topk_detections.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

py::tuple topk_detections(py::handle logits, py::handle boxes, py::handle image_sizes, double height, double width,
                          std::int64_t max_det, double score_threshold, bool cxcywh, bool normalized, bool sigmoid,
                          bool multi_label, const std::string& backend) {
  Call call("topk_detections", backend);
  TopkParams params;
  params.logits = call.input("logits", logits, kFloats, 3);
  params.boxes = call.input("boxes", boxes, kFloats, 3);
  if (!image_sizes.is_none()) params.image_sizes = call.input("image_size", image_sizes, {DType::kFloat32}, 2);
  params.image_height = height;
  params.image_width = width;
  params.format = {cxcywh, normalized};
  params.sigmoid = sigmoid;
  params.multi_label = multi_label;
  params.score_threshold = score_threshold;
  params.max_det = max_det;
  topk_detections_check(params);
  const std::int64_t images = params.logits.shape[0];
  py::object out_boxes, out_scores, out_labels, out_index, out_count;
  params.out.boxes = call.output({images, max_det, 4}, DType::kFloat32, &out_boxes);
  params.out.scores = call.output({images, max_det}, DType::kFloat32, &out_scores);
  params.out.labels = call.output({images, max_det}, DType::kInt32, &out_labels);
  params.out.index = call.output({images, max_det}, DType::kInt32, &out_index);
  params.out.count = call.output({images}, DType::kInt32, &out_count);
  const bool on_cuda = call.on_cuda();
  params.workspace =
      call.workspace(on_cuda ? topk_detections_cuda_workspace_bytes(params) : topk_detections_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().topk_detections, params, stream) : topk_detections_cpu(params); });
  return py::make_tuple(out_boxes, out_scores, out_labels, out_index, out_count);
}

}  // namespace

void bind_topk_detections(py::module_& module) { module.def("topk_detections", &topk_detections); }

}  // namespace fastdet::bindings
