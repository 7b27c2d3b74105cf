// SPDX-License-Identifier: Apache-2.0
// What decides in decoding, one anchor at a time, the same lines on CPU and GPU: corners from codes, scores from logits, which
// column is the best. T is how the maps are stored, R = ArithmeticOf<T> what is computed in.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/numeric.h"
#include "core/platform.h"

namespace fastdet {

template <typename R>
struct Corners {
  R x1, y1, x2, y2;
};

FD_HD Box to_box(const Corners<float>& c) { return {c.x1, c.y1, c.x2, c.y2}; }

// Point (x, y) in cells and distances to the left, top, right and bottom sides in cells -> corners in pixels.
template <typename R>
FD_HD Corners<R> distance_corners(R x, R y, R left, R top, R right, R bottom, R stride) {
  return {(x - left) * stride, (y - top) * stride, (x + right) * stride, (y + bottom) * stride};
}

// Centre and size -> corners.
template <typename R>
FD_HD Corners<R> centre_corners(R cx, R cy, R width, R height) {
  const R half_width = width * R(0.5), half_height = height * R(0.5);
  return {cx - half_width, cy - half_height, cx + half_width, cy + half_height};
}

// Centre and size relative to an anchor of (width, height) pixels in cell (x, y), from sigmoids of the four codes.
template <typename R>
FD_HD Corners<R> anchor_corners(R sx, R sy, R sw, R sh, R x, R y, R stride, R width, R height) {
  const R w = sw * R(2), h = sh * R(2);
  return centre_corners<R>(((sx * R(2) - R(0.5)) + x) * stride, ((sy * R(2) - R(0.5)) + y) * stride, (w * w) * width,
                           (h * h) * height);
}

// Centre and size as fractions of the picture -> corners in pixels.
template <typename R>
FD_HD Corners<R> picture_corners(R cx, R cy, R w, R h, R width, R height) {
  const Corners<R> c = centre_corners<R>(cx, cy, w, h);
  return {c.x1 * width, c.y1 * height, c.x2 * width, c.y2 * height};
}

// Softmax expectations of the four sides.
template <typename R>
struct Expected {
  R most[4], sum[4], value[4];
};

// Of `bins` logits each, `step` elements apart, sides one after the other: sum of i exp(v_i - most) over sum of exp(v_i - most),
// bins rising. A NaN or an infinite maximum gives NaN.
template <typename T>
FD_HD Expected<ArithmeticOf<T>> expected_bins(const T* codes, std::int64_t step, std::int64_t bins) {
  using R = ArithmeticOf<T>;
  const std::int64_t side = bins * step;
  Expected<R> e;
  for (int k = 0; k < 4; ++k) {
    e.most[k] = widen<T>(codes[k * side]);
    e.sum[k] = e.value[k] = R(0);
  }
  for (std::int64_t i = 1; i < bins; ++i) {
    for (int k = 0; k < 4; ++k) {
      const R value = widen<T>(codes[k * side + i * step]);
      e.most[k] = value > e.most[k] ? value : e.most[k];
    }
  }
  for (std::int64_t i = 0; i < bins; ++i) {
    for (int k = 0; k < 4; ++k) {
      const R weight = exp_exact(widen<T>(codes[k * side + i * step]) - e.most[k]);
      e.sum[k] += weight;
      e.value[k] += weight * static_cast<R>(i);
    }
  }
  for (int k = 0; k < 4; ++k) e.value[k] /= e.sum[k];
  return e;
}

// Backward. `grad` is that of the corners.

// Of the four distances in cells.
template <typename R>
FD_HD Corners<R> distance_gradients(const Corners<R>& grad, R stride) {
  return {-(grad.x1 * stride), -(grad.y1 * stride), grad.x2 * stride, grad.y2 * stride};
}
// Of centre x, centre y, width, height; returned in this order.
template <typename R>
FD_HD Corners<R> centre_gradients(const Corners<R>& grad) {
  return {grad.x1 + grad.x2, grad.y1 + grad.y2, (grad.x2 - grad.x1) * R(0.5), (grad.y2 - grad.y1) * R(0.5)};
}
// Of a logit through its sigmoid s.
template <typename R>
FD_HD R sigmoid_gradient(R grad, R s) {
  return grad * (s * (R(1) - s));
}
// Of the logits that place a centre and stretch a side of an anchor.
template <typename R>
FD_HD R anchor_centre_gradient(R grad, R s, R stride) {
  return sigmoid_gradient<R>(grad * (R(2) * stride), s);
}
template <typename R>
FD_HD R anchor_size_gradient(R grad, R s, R size) {
  return sigmoid_gradient<R>(grad * (R(8) * s * size), s);
}
// Of the logit of bin i, through the expectation e; weight is exp(logit - most), share the gradient over the sum of weights.
template <typename R>
FD_HD R bin_gradient(R share, R weight, R bin, R e) {
  return share * (weight * (bin - e));
}

// The least logit whose sigmoid is greater than `threshold`, NaN if there is none: `logit >= least` decides as
// `sigmoid_exact(logit) > threshold` does, for NaN too, because the sigmoid never falls. Found by bisection over all floats.
inline float least_logit(double threshold) {
  const float bound = round_down(threshold);
  std::uint32_t low = order_key(-bit_cast<float>(0x7f800000u)), high = order_key(bit_cast<float>(0x7f800000u));
  if (!(sigmoid_exact(order_key_value(high)) > bound)) return bit_cast<float>(0x7fc00000u);
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (sigmoid_exact(order_key_value(middle)) > bound) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return order_key_value(low);
}

struct BestColumn {
  float score;
  std::int32_t column;  // -1: none
};

// The lowest column with the greatest score, among logits `step` elements apart of which `most` is the greatest. Different
// logits may have one score.
template <typename T>
FD_HD BestColumn best_column(const T* logits, std::int64_t step, std::int64_t columns, float most) {
  const float score = sigmoid_exact(most);
  const bool apart = sigmoid_exact(most - 1.0f) < score;  // then no logit below has this score
  for (std::int64_t c = 0; c < columns; ++c) {
    const float logit = to_float(logits[c * step]);
    if (logit == most || ((!apart || logit > most - 1.0f) && sigmoid_exact(logit) == score)) {
      return {score, static_cast<std::int32_t>(c)};
    }
  }
  return {score, -1};
}

// The same with scores that are the product of the sigmoid and the anchor's objectness; logits below `least` cannot win.
template <typename T>
FD_HD BestColumn best_product(const T* logits, std::int64_t step, std::int64_t columns, float objectness, float least) {
  BestColumn best{0.0f, -1};
  for (std::int64_t c = 0; c < columns; ++c) {
    const float logit = to_float(logits[c * step]);
    if (!(logit >= least)) continue;
    const float score = objectness * sigmoid_exact(logit);
    if (best.column >= 0 && !(score > best.score)) continue;
    best = {score, static_cast<std::int32_t>(c)};
  }
  return best;
}

}  // namespace fastdet
