// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/operators.h"
#include "core/check.h"
#include "ops/decode/decode.h"

namespace fastdet::bindings {
namespace {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr std::initializer_list<DType> kDoubles = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};

// The description of a head as Python passes it, see HeadFormat in python/fastdet/ops/decode.py.
struct Format {
  std::string kind;
  std::vector<double> strides, anchors;
  double offset;
  std::vector<double> image_size;
};

BoxCode code_of(const char* op, const std::string& kind) {
  constexpr std::pair<const char*, BoxCode> kinds[] = {
      {"dfl", BoxCode::kDfl}, {"distance", BoxCode::kDistance}, {"anchors", BoxCode::kAnchors}, {"cxcywh", BoxCode::kCxcywh}};
  for (const auto& [name, code] : kinds) {
    if (kind == name) return code;
  }
  throw ValueError(concat(op, ": kind must be dfl, distance, anchors or cxcywh, got ", kind));
}

// [B, K, H, W] -> [B, 1, K, H, W]; rows of queries [B, Q, K] -> [B, 1, K, Q, 1].
TensorView with_priors(const TensorView& view, BoxCode code) {
  if (code == BoxCode::kAnchors) return view;
  TensorView out = view;
  out.ndim = 5;
  const bool rows = code == BoxCode::kCxcywh;
  const int from[5] = {0, -1, rows ? 2 : 1, rows ? 1 : 2, rows ? -1 : 3};
  for (int i = 0; i < 5; ++i) {
    out.shape[i] = from[i] < 0 ? 1 : view.shape[from[i]];
    out.stride[i] = from[i] < 0 ? 0 : view.stride[from[i]];
  }
  return out;
}

struct Maps {
  HeadMaps head;
  std::vector<std::vector<std::int64_t>> logits_shape, codes_shape;  // as given
};

Maps take(Call& call, const char* op, const py::sequence& logits, const py::sequence& codes, const Format& format,
          std::initializer_list<DType> dtypes) {
  Maps maps;
  HeadFormat rules{code_of(op, format.kind), format.offset};
  const std::size_t levels = logits.size();
  FD_CHECK(levels > 0, ValueError, op, ": logits must have at least one level");
  FD_CHECK(codes.size() == levels, ValueError, op, ": codes must have the ", levels, " levels of logits, got ", codes.size());
  FD_CHECK(format.strides.size() == levels, ValueError, op, ": strides must have one number for each of the ", levels,
           " levels, got ", format.strides.size());
  if (rules.code == BoxCode::kCxcywh) {
    FD_CHECK(format.image_size.size() == 2, ValueError, op, ": image_size must be (height, width), got ",
             format.image_size.size(), " numbers");
    rules.picture_height = format.image_size[0];
    rules.picture_width = format.image_size[1];
  }
  const int ndim = rules.code == BoxCode::kAnchors ? 5 : rules.code == BoxCode::kCxcywh ? 3 : 4;
  const double* anchors = format.anchors.data();
  auto left = static_cast<std::int64_t>(format.anchors.size());
  for (std::size_t i = 0; i < levels; ++i) {
    const TensorView level = call.input(concat("logits[", i, "]").c_str(), logits[i], dtypes, ndim);
    const TensorView code = call.input(concat("codes[", i, "]").c_str(), codes[i], dtypes, ndim);
    maps.logits_shape.emplace_back(level.shape, level.shape + ndim);
    maps.codes_shape.emplace_back(code.shape, code.shape + ndim);
    const std::int64_t taken = rules.code == BoxCode::kAnchors ? std::min(left, 2 * level.shape[1]) : 0;
    add_level(op, rules, with_priors(level, rules.code), with_priors(code, rules.code), format.strides[i], anchors, taken,
              &maps.head);
    anchors += taken;
    left -= taken;
  }
  FD_CHECK(left == 0, ValueError, op, ": anchors must hold width and height of every anchor of every level, got ", left,
           " numbers too many");
  return maps;
}

py::tuple decode_boxes(const py::sequence& logits, const py::sequence& codes, std::string kind, std::vector<double> strides,
                       std::vector<double> anchors, double offset, std::vector<double> image_size, const std::string& backend) {
  const char* op = "decode_boxes";
  Call call(op, backend);
  const Format format{std::move(kind), std::move(strides), std::move(anchors), offset, std::move(image_size)};
  const Maps maps = take(call, op, logits, codes, format, kDoubles);
  DecodeParams params;
  params.maps = maps.head;
  const DType dtype = params.maps.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  py::object boxes, scores;
  params.boxes = call.output({maps.head.images, maps.head.anchors, 4}, dtype, &boxes);
  params.scores = call.output({maps.head.images, maps.head.anchors, maps.head.classes}, dtype, &scores);
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().decode, params, stream) : decode_cpu(params); });
  return py::make_tuple(boxes, scores);
}

// Gradients of all maps: those of logits, then those of codes.
py::list decode_boxes_backward(py::handle boxes_grad, py::handle scores_grad, py::handle scores, const py::sequence& logits,
                               const py::sequence& codes, std::string kind, std::vector<double> strides,
                               std::vector<double> anchors, double offset, std::vector<double> image_size,
                               const std::string& backend) {
  const char* op = "decode_boxes_backward";
  Call call(op, backend);
  const Format format{std::move(kind), std::move(strides), std::move(anchors), offset, std::move(image_size)};
  const Maps maps = take(call, op, logits, codes, format, kDoubles);
  DecodeParams params;
  params.maps = maps.head;
  params.backward = true;
  const DType dtype = params.maps.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  params.boxes = call.input("boxes_grad", boxes_grad, {dtype}, 3);
  params.scores = call.input("scores_grad", scores_grad, {dtype}, 3);
  params.given_scores = call.input("scores", scores, {dtype}, 3);
  const std::int64_t boxes_shape[3] = {maps.head.images, maps.head.anchors, 4};
  const std::int64_t scores_shape[3] = {maps.head.images, maps.head.anchors, maps.head.classes};
  FD_CHECK(std::equal(boxes_shape, boxes_shape + 3, params.boxes.shape), ValueError, op, ": boxes_grad must be ",
           shape_text(boxes_shape, 3), ", got ", shape_text(params.boxes));
  FD_CHECK(std::equal(scores_shape, scores_shape + 3, params.scores.shape), ValueError, op, ": scores_grad must be ",
           shape_text(scores_shape, 3), ", got ", shape_text(params.scores));
  FD_CHECK(std::equal(scores_shape, scores_shape + 3, params.given_scores.shape), ValueError, op, ": scores must be ",
           shape_text(scores_shape, 3), ", got ", shape_text(params.given_scores));
  py::list grads;
  for (const bool of_codes : {false, true}) {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      py::object grad;
      void* data = call.output((of_codes ? maps.codes_shape : maps.logits_shape)[i], maps.head.dtype, &grad).data;
      (of_codes ? params.codes_grad : params.logits_grad)[i] = data;
      grads.append(std::move(grad));
    }
  }
  const bool on_cuda = call.on_cuda();
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().decode, params, stream) : decode_cpu(params); });
  return grads;
}

py::tuple run_detect(Call& call, DetectParams& params) {
  const std::int64_t images = params.maps.images, rows = params.max_det;
  py::object boxes, scores, labels, index, count;
  params.out.boxes = call.output({images, rows, 4}, DType::kFloat32, &boxes);
  params.out.scores = call.output({images, rows}, DType::kFloat32, &scores);
  params.out.labels = call.output({images, rows}, DType::kInt32, &labels);
  params.out.index = call.output({images, rows}, DType::kInt32, &index);
  params.out.count = call.output({images}, DType::kInt32, &count);
  const bool on_cuda = call.on_cuda();
  params.workspace = call.workspace(on_cuda ? detect_cuda_workspace_bytes(params) : detect_cpu_workspace_bytes(params));
  void* stream = call.stream();
  call.run([&] { on_cuda ? launch_cuda(cuda().detect, params, stream) : detect_cpu(params); });
  return py::make_tuple(boxes, scores, labels, index, count);
}

py::tuple decode_candidates(const py::sequence& logits, const py::sequence& codes, std::string kind, std::vector<double> strides,
                            std::vector<double> anchors, double offset, std::vector<double> image_size, double score_threshold,
                            std::int64_t max_candidates, bool multi_label, const std::string& backend) {
  const char* op = "decode_candidates";
  Call call(op, backend);
  const Format format{std::move(kind), std::move(strides), std::move(anchors), offset, std::move(image_size)};
  DetectParams params;
  params.maps = take(call, op, logits, codes, format, kFloats).head;
  params.score_threshold = score_threshold;
  params.max_candidates = params.max_det = max_candidates;
  params.multi_label = multi_label;
  detect_check(op, params);
  return run_detect(call, params);
}

py::tuple detect(const py::sequence& logits, const py::sequence& codes, std::string kind, std::vector<double> strides,
                 std::vector<double> anchors, double offset, std::vector<double> image_size, double score_threshold,
                 double iou_threshold, std::int64_t max_det, std::int64_t max_candidates, bool class_agnostic, bool multi_label,
                 const std::string& backend) {
  const char* op = "detect";
  Call call(op, backend);
  const Format format{std::move(kind), std::move(strides), std::move(anchors), offset, std::move(image_size)};
  DetectParams params;
  params.maps = take(call, op, logits, codes, format, kFloats).head;
  params.score_threshold = score_threshold;
  params.iou_threshold = iou_threshold;
  params.max_candidates = max_candidates;
  params.max_det = max_det;
  params.class_agnostic = class_agnostic;
  params.multi_label = multi_label;
  params.suppress = true;
  detect_check(op, params);
  return run_detect(call, params);
}

}  // namespace

void bind_decode(py::module_& module) {
  module.def("decode_boxes", &decode_boxes);
  module.def("decode_boxes_backward", &decode_boxes_backward);
  module.def("decode_candidates", &decode_candidates);
  module.def("detect", &detect);
}

}  // namespace fastdet::bindings
