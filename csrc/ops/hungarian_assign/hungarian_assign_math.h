// SPDX-License-Identifier: Apache-2.0
// What decides in Hungarian matching, one element at a time, the same bits on the host and on the device.
//
// The solver: shortest augmenting paths (Jonker and Volgenant; Crouse, doi 10.1109/TAES.2016.140952). The smaller side of an
// image's costs are its lines, the larger its columns. Lines enter by rising index; each grows a tree of shortest paths over
// the reduced costs, in float64, until a free column is reached. Of columns equally near a free one comes first, then the
// lowest. Queries and objects without a finite cost take no part: the sides are those of what remains. There any other cost
// that is not finite counts as the largest finite one of the image.
#pragma once

#include <cstdint>

#include "core/assign.h"
#include "core/iou.h"
#include "core/numeric.h"
#include "core/platform.h"
#include "core/tensor.h"

namespace fastdet::hungarian_assign {

constexpr float kLogOffset = 1e-8f;  // inside the logarithms of the class cost

// Path lengths and duals are sums of fewer than 2^34 costs: with costs up to kOrdinary they stay finite. An image with a finite
// cost beyond it is solved with all costs kShrunk times as large.
constexpr double kOrdinary = 0x1p960, kShrunk = 0x1p-64;

template <typename T>
FD_HD T infinity() {
  return static_cast<T>(bit_cast<float>(0x7f800000u));
}

struct Weights {
  float cls, l1, giou, alpha, rest_of_alpha, gamma;
};

// A query or an object: its numbers as given, and as the IoU wants them.
struct Item {
  float x, y, w, h;
  OverlapBox<float> box;
};

FD_HD Item item_of(float x, float y, float w, float h) {
  return {x, y, w, h, overlap_box<IouKind::kGiou>(corners_of(BoxFormat::kCxcywh, x, y, w, h), IouForm<float>{})};
}

// x^gamma for x in [0, 1]. kSquare: gamma is 2.
template <bool kSquare>
FD_HD float power(float x, float gamma) {
  if (kSquare) return x * x;
  const float value = exp_exact(gamma * log_exact(x * 4294967296.0f, 32));  // scaled, so that small x are normal
  return gamma == 0.0f ? 1.0f : (x > 0.0f ? value : 0.0f);
}

// p = sigmoid(logit). Of p and 1 - p the smaller is computed as such, so that it keeps its digits.
template <bool kSquare>
FD_HD float class_cost(float logit, const Weights& weights) {
  const float e = exp_exact(-magnitude(logit)), large = 1.0f / (1.0f + e), small = e * large;
  const float p = logit < 0.0f ? small : large, rest = logit < 0.0f ? large : small;
  const float positive = (weights.alpha * power<kSquare>(rest, weights.gamma)) * -log_exact(p + kLogOffset);
  const float negative = (weights.rest_of_alpha * power<kSquare>(p, weights.gamma)) * -log_exact(rest + kLogOffset);
  return positive - negative;
}

// Infinite where a number that it is made of, or the sum, is not finite.
template <bool kSquare>
FD_HD float pair_cost(const Item& query, const Item& object, float logit, const Weights& weights) {
  const float l1 = ((magnitude(query.x - object.x) + magnitude(query.y - object.y)) + magnitude(query.w - object.w)) +
                   magnitude(query.h - object.h);
  const float giou = overlap<IouKind::kGiou>(query.box, object.box, IouForm<float>{});
  const float cost = (weights.l1 * l1 + weights.cls * class_cost<kSquare>(logit, weights)) - weights.giou * giou;
  return is_finite(logit) & is_finite(cost) ? cost : infinity<float>();
}

// Whether the solver may take a cost as it is.
FD_HD bool is_ordinary(float cost) { return is_finite(cost); }
FD_HD bool is_ordinary(double cost) { return (cost <= kOrdinary) & (cost >= -kOrdinary); }

// A cost of an image of which some are not ordinary, as the solver takes it. `shrinks`: some are finite all the same.
template <typename T>
FD_HD T settled_cost(T cost, T largest, bool shrinks) {
  return (is_finite(cost) ? cost : largest) * static_cast<T>(shrinks ? kShrunk : 1.0);
}

// Length of the path to a column over a line: `base` to the line, then one pair. Never NaN: costs and the duals of lines and
// columns in play are finite, the dual of a column in the tree, or of one that takes no part, is -inf.
FD_HD double path_length(double base, double cost, double line_dual, double column_dual) {
  return ((base + cost) - line_dual) - column_dual;
}

// Order among columns equally near: free ones first, then by index (below 2^31).
FD_HD std::uint32_t column_rank(std::int32_t owner, std::int64_t column) {
  return static_cast<std::uint32_t>(column) | (owner < 0 ? 0u : 0x80000000u);
}
FD_HD bool rank_is_free(std::uint32_t rank) { return (rank & 0x80000000u) == 0u; }
FD_HD std::int64_t rank_column(std::uint32_t rank) { return static_cast<std::int64_t>(rank & 0x7fffffffu); }

FD_HD Item load_item(const TensorView& boxes, std::int64_t image, std::int64_t row) {
  float box[4];
  load_row(boxes, image * boxes.stride[0] + row * boxes.stride[1], boxes.stride[2], box);
  return item_of(box[0], box[1], box[2], box[3]);
}

// Class of an object; -1 where it is none, which matches nothing.
FD_HD std::int64_t load_label(const TensorView& labels, std::int64_t classes, std::int64_t image, std::int64_t row) {
  const std::int64_t label = load_integer(labels, image * labels.stride[0] + row * labels.stride[1]);
  return label >= 0 && label < classes ? label : -1;
}

}  // namespace fastdet::hungarian_assign
