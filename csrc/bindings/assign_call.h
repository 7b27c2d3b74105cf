// SPDX-License-Identifier: Apache-2.0
// What assigners share on their way from and to Python.
#pragma once

#include "bindings/arrays.h"
#include "core/ota.h"

namespace fastdet::bindings {

constexpr std::initializer_list<DType> kFloats = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr std::initializer_list<DType> kFloat = {DType::kFloat32};
constexpr std::initializer_list<DType> kIntegers = {DType::kInt64, DType::kInt32};

template <typename Params>
void take_targets(Call& call, py::handle gt_boxes, py::handle gt_labels, py::handle gt_count, Params* params) {
  params->gt_boxes = call.input("gt_boxes", gt_boxes, kFloat, 3);
  params->gt_labels = call.input("gt_labels", gt_labels, kIntegers, 2);
  params->gt_count = call.input("gt_count", gt_count, kIntegers, 1);
}

// Makes the four results of an assignment over `candidates` of each image and calls run().
template <typename Params, typename Run>
py::tuple run_assignment(Call& call, Params& params, std::int64_t candidates, const Run& run) {
  const std::int64_t b = params.images();
  py::object matched_gt, labels, label_scores, num_pos;
  params.matched_gt = call.output({b, candidates}, DType::kInt32, &matched_gt).template as<std::int32_t>();
  params.labels = call.output({b, candidates}, DType::kInt32, &labels).template as<std::int32_t>();
  params.label_scores = call.output({b, candidates}, DType::kFloat32, &label_scores).template as<float>();
  params.num_pos = call.output({b}, DType::kInt32, &num_pos).template as<std::int32_t>();
  run();
  return py::make_tuple(matched_gt, labels, label_scores, num_pos);
}

// Makes the five results that show the costs of dynamic-k matching and calls run().
template <typename Run>
py::tuple run_ota_cost(Call& call, OtaParams& params, const Run& run) {
  const std::int64_t b = params.images(), a = params.priors(), m = params.rows();
  py::object cost, iou, inside, valid, dynamic_k;
  params.want_cost = true;
  params.cost = call.output({b, a, m}, DType::kFloat32, &cost).as<float>();
  params.iou = call.output({b, a, m}, DType::kFloat32, &iou).as<float>();
  params.inside = call.output({b, a, m}, DType::kBool, &inside).as<bool>();
  params.valid = call.output({b, a}, DType::kBool, &valid).as<bool>();
  params.dynamic_k = call.output({b, m}, DType::kInt32, &dynamic_k).as<std::int32_t>();
  run();
  return py::make_tuple(cost, iou, inside, valid, dynamic_k);
}

// Attributes of dynamic-k matching.
struct OtaAttributes {
  double center_radius;
  std::int64_t topk;
  double class_weight, iou_weight;

  void put(OtaParams* params) const {
    params->center_radius = static_cast<float>(center_radius);
    params->topk = topk;
    params->class_weight = static_cast<float>(class_weight);
    params->iou_weight = static_cast<float>(iou_weight);
  }
};

}  // namespace fastdet::bindings
