// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <limits>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "ops/nms/nms.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

// A single image as a batch of one.
TensorView with_batch(const TensorView& view) {
  TensorView batch = view;
  batch.ndim = view.ndim + 1;
  batch.shape[0] = 1;
  batch.stride[0] = 0;
  for (int i = 0; i < view.ndim; ++i) {
    batch.shape[i + 1] = view.shape[i];
    batch.stride[i + 1] = view.stride[i];
  }
  return batch;
}

// `extra` bytes of the workspace lie behind the operator's own.
char* run_nms(Call& call, NmsParams& params, std::size_t extra = 0) {
  const bool on_cuda = call.on_cuda();
  const std::size_t own = (on_cuda ? nms_cuda_workspace_bytes(params) : nms_cpu_workspace_bytes(params)) / 16 * 16 + 16;
  params.workspace = call.workspace(own + extra);
  char* behind = static_cast<char*>(params.workspace) + own;
  if (extra > 0) params.out.index.data = behind;
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().nms, params, stream) : nms_cpu(params); });
  return behind;
}

// nms and batched_nms. On the host: the int64 indices kept. On a device, where their number is not known here: all N indices,
// kept ones first, and the number.
py::object nms(const char* op, py::handle boxes, py::handle scores, py::handle idxs, double iou_threshold,
               const std::string& measure, const std::string& backend) {
  Call call(op, backend);
  NmsParams params;
  params.boxes = with_batch(call.input("boxes", boxes, kFloats, 2));
  TensorView column = with_batch(call.input("scores", scores, kFloats, 1));
  column.shape[2] = 1;
  column.ndim = 3;
  params.scores = column;
  if (!idxs.is_none()) params.groups = with_batch(call.input("idxs", idxs, {DType::kInt64, DType::kInt32}, 1));
  params.iou_threshold = iou_threshold;
  params.score_threshold = -std::numeric_limits<double>::infinity();
  params.max_candidates = params.max_det = params.anchors();
  params.class_agnostic = true;
  params.by_distance = nms_by_distance(op, measure);
  nms_check(op, params);
  if (params.boxes.device == Device::kCuda) {
    py::object index, count;
    params.out.index = call.output({params.anchors()}, DType::kInt64, &index);
    params.out.count = call.output({1}, DType::kInt32, &count);
    run_nms(call, params);
    return py::make_tuple(index, count);
  }
  std::int32_t count = 0;
  params.out.index.dtype = DType::kInt64;
  params.out.count.data = &count;
  const char* indices = run_nms(call, params, 8 * static_cast<std::size_t>(params.anchors()) + 8);
  py::object index;
  const TensorView kept = call.output({count}, DType::kInt64, &index);
  if (count > 0) std::memcpy(kept.data, indices, 8 * static_cast<std::size_t>(count));
  return index;
}

py::tuple multiclass_nms(py::handle boxes, py::handle scores, double score_threshold, double iou_threshold, std::int64_t max_det,
                         std::int64_t max_candidates, bool class_agnostic, bool multi_label, const std::string& measure,
                         const std::string& backend) {
  Call call("multiclass_nms", backend);
  NmsParams params;
  params.boxes = call.input("boxes", boxes, kFloats, 3);
  params.scores = call.input("scores", scores, kFloats, 3);
  params.score_threshold = score_threshold;
  params.iou_threshold = iou_threshold;
  params.max_det = max_det;
  params.max_candidates = max_candidates;
  params.class_agnostic = class_agnostic;
  params.multi_label = multi_label;
  params.by_distance = nms_by_distance("multiclass_nms", measure);
  params.out.boxes.data = &params;  // any address: tells the check that this is the batched form
  nms_check("multiclass_nms", params);
  const std::int64_t images = params.images();
  py::object out_boxes, out_scores, out_labels, out_index, out_count;
  params.out.boxes = call.output({images, max_det, 4}, DType::kFloat32, &out_boxes);
  params.out.scores = call.output({images, max_det}, DType::kFloat32, &out_scores);
  params.out.labels = call.output({images, max_det}, DType::kInt32, &out_labels);
  params.out.index = call.output({images, max_det}, DType::kInt32, &out_index);
  params.out.count = call.output({images}, DType::kInt32, &out_count);
  run_nms(call, params);
  return py::make_tuple(out_boxes, out_scores, out_labels, out_index, out_count);
}

}  // namespace

void bind_nms(py::module_& module) {
  module.def("nms",
             [](py::handle boxes, py::handle scores, double iou_threshold, const std::string& measure,
                const std::string& backend) { return nms("nms", boxes, scores, py::none(), iou_threshold, measure, backend); });
  module.def("batched_nms",
             [](py::handle boxes, py::handle scores, py::handle idxs, double iou_threshold, const std::string& measure,
                const std::string& backend) { return nms("batched_nms", boxes, scores, idxs, iou_threshold, measure, backend); });
  module.def("multiclass_nms", &multiclass_nms);
}

}  // namespace fastdet::bindings
