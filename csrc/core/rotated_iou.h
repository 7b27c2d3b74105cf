// SPDX-License-Identifier: Apache-2.0
// Probabilistic IoU of rotated boxes, with gradients, for host and device. A box is a Gaussian with the box's centre, variances
// A = w^2 / 12 and B = h^2 / 12 along its axes, a constant added; the similarity is 1 - Hellinger distance (arXiv 2106.06072). T
// is float or double.
//
// The determinant of the sum of two covariances is written as a sum of products that are not negative,
//   D = A1 B1 + A2 B2 + cos^2 (A1 B2 + A2 B1) + sin^2 (A1 A2 + B1 B2),  of the difference of the angles,
// which is the same number as a b - c^2 without its cancellation; likewise a box's own determinant is A B.
#pragma once

#include "core/iou.h"

namespace fastdet {

template <typename T>
struct RotatedBoxOf {
  T x, y, w, h, angle;
};

template <typename T>
struct GaussianBox {
  T x, y;
  T along, across;  // A, B
  T cosine, sine;
  T a, b, c;  // covariance [[a, c], [c, b]]
  T w, h;
};

template <typename T>
FD_HD bool box_finite(const RotatedBoxOf<T>& box) {
  const bool turned = (box.angle <= T{1e6}) & (box.angle >= T{-1e6});
  return is_finite(box.x) & is_finite(box.y) & is_finite(box.w) & is_finite(box.h) & turned;
}

// With the sine and cosine of the angle instead of the angle.
template <typename T>
FD_HD GaussianBox<T> gaussian_box_turned(const RotatedBoxOf<T>& box, T sine, T cosine, const IouForm<T>& form) {
  const bool finite = box_finite(box);
  const T w = positive(box.w), h = positive(box.h), twelfth = T{1} / T{12};
  const T along = w * w * twelfth + form.variance_add, across = h * h * twelfth + form.variance_add;
  const T none = not_a_number<T>();
  const T cc = cosine * cosine, ss = sine * sine;
  return {finite ? box.x : none,
          finite ? box.y : none,
          along,
          across,
          cosine,
          sine,
          along * cc + across * ss,
          along * ss + across * cc,
          (along - across) * (cosine * sine),
          w,
          h};
}

template <typename T>
FD_HD GaussianBox<T> gaussian_box(const RotatedBoxOf<T>& box, const IouForm<T>& form) {
  T sine, cosine;
  sin_cos_exact(box_finite(box) ? box.angle : T{0}, &sine, &cosine);
  return gaussian_box_turned(box, sine, cosine, form);
}

template <typename T>
struct GaussianTerms {
  T dx, dy, a, b, c;                // between centres; sums of covariances
  T cosine, sine, det, by_det;      // of the difference of angles; determinant of the sum; 1 / (det + eps)
  T form_sum, root, normal, ratio;  // quadratic form of the distance; sqrt(d1 d2); 4 root + eps; det / normal
  T distance, raw_distance;         // Bhattacharyya, with and without its limits
  T hellinger, value;
};

template <typename T>
FD_HD GaussianTerms<T> gaussian_terms(const GaussianBox<T>& p, const GaussianBox<T>& q, const IouForm<T>& form) {
  GaussianTerms<T> t = {};
  t.dx = p.x - q.x;
  t.dy = p.y - q.y;
  t.a = p.a + q.a;
  t.b = p.b + q.b;
  t.c = p.c + q.c;
  t.cosine = p.cosine * q.cosine + p.sine * q.sine;
  t.sine = p.sine * q.cosine - p.cosine * q.sine;
  const T own_p = p.along * p.across, own_q = q.along * q.across;
  t.det = (own_p + own_q) + ((t.cosine * t.cosine) * (p.along * q.across + q.along * p.across) +
                             (t.sine * t.sine) * (p.along * q.along + p.across * q.across));
  t.form_sum = T{0.25} * (t.a * (t.dy * t.dy) + t.b * (t.dx * t.dx)) - T{0.5} * (t.c * (t.dx * t.dy));
  t.by_det = T{1} / (t.det + form.eps);
  t.root = square_root(own_p * own_q);
  t.normal = T{4} * t.root + form.eps;
  t.ratio = t.det / t.normal;
  // Between the smallest normal float and near the largest: what the logarithm takes.
  const T argument = smaller(larger(t.ratio + form.eps, static_cast<T>(1.17549435e-38f)), static_cast<T>(3.0e38f));
  t.raw_distance = t.form_sum * t.by_det + T{0.5} * log_exact(argument);
  t.distance = smaller(larger(t.raw_distance, form.eps), T{100});
  // As the references write it, with its rounding: near 0 it shows in the fifth digit of the result.
  t.hellinger = square_root((T{1} - exp_exact(-t.distance)) + form.eps);
  t.value = is_finite(t.raw_distance) ? T{1} - t.hellinger : t.raw_distance;
  return t;
}

// The similarity; 0 where it is no finite number.
template <typename T>
FD_HD T gaussian_overlap(const GaussianBox<T>& p, const GaussianBox<T>& q, const IouForm<T>& form) {
  const T value = gaussian_terms(p, q, form).value;
  return is_finite(value) ? value : T{0};
}

// How the distance changes with the numbers of `p`; `sign` is 1 for the first box of the terms and -1 for the second.
template <typename T>
FD_HD RotatedBoxOf<T> gaussian_side(const GaussianTerms<T>& t, const GaussianBox<T>& p, const GaussianBox<T>& q,
                                    const IouForm<T>& form, T sign) {
  const T cc = p.cosine * p.cosine, ss = p.sine * p.sine, cs = p.cosine * p.sine;
  const T xx = t.dx * t.dx, yy = t.dy * t.dy, xy = t.dx * t.dy;
  const auto through_form = [&](T da, T db, T dc) { return (T{0.25} * (da * yy + db * xx) - T{0.5} * (dc * xy)) * t.by_det; };
  const T by_log = T{1} / ((t.ratio + form.eps) * t.normal);
  const T per_det = T{0.5} * by_log - t.form_sum * t.by_det * t.by_det;
  const T per_own = -(t.ratio * t.root) * by_log;  // for a relative change of A or B
  const T cosine2 = t.cosine * t.cosine, sine2 = t.sine * t.sine;
  const T det_along = p.across + (cosine2 * q.across + sine2 * q.along);
  const T det_across = p.along + (cosine2 * q.along + sine2 * q.across);
  const T det_angle = sign * (T{2} * (t.cosine * t.sine)) * ((p.along - p.across) * (q.along - q.across));
  const T along = through_form(cc, ss, cs) + det_along * per_det + per_own / p.along;
  const T across = through_form(ss, cc, -cs) + det_across * per_det + per_own / p.across;
  const T angle = through_form(T{-2} * p.c, T{2} * p.c, p.a - p.b) + det_angle * per_det;
  const T half_sign = sign * T{0.5}, sixth = T{1} / T{6};
  return {half_sign * (t.b * t.dx - t.c * t.dy) * t.by_det, half_sign * (t.a * t.dy - t.c * t.dx) * t.by_det,
          along * (p.w * sixth), across * (p.h * sixth), angle};
}

// The similarity of p and q and its gradient for both; zeros under the same rule as overlap_gradient of core/iou.h.
template <typename T>
FD_HD T gaussian_gradient(const GaussianBox<T>& p, const GaussianBox<T>& q, const IouForm<T>& form, RotatedBoxOf<T>* grad_p,
                          RotatedBoxOf<T>* grad_q) {
  const GaussianTerms<T> t = gaussian_terms(p, q, form);
  const bool inside = (t.raw_distance >= form.eps) & (t.raw_distance <= T{100});
  const T hellinger = square_root(one_minus_exp(t.distance) + form.eps);
  const T falling = T{-0.5} * exp_exact(-t.distance) / hellinger, slope = inside ? falling : T{0};
  const RotatedBoxOf<T> gp = gaussian_side(t, p, q, form, T{1}), gq = gaussian_side(t, q, p, form, T{-1});
  const T all = ((gp.x + gp.y) + (gp.w + gp.h) + gp.angle) + ((gq.x + gq.y) + (gq.w + gq.h) + gq.angle);
  const bool sides = (p.w > T{0}) & (p.h > T{0}) & (q.w > T{0}) & (q.h > T{0});
  const bool sound = sides & is_finite(t.value) & is_finite(all) & is_finite(all * slope);
  const auto kept = [sound, slope](T value) { return sound ? slope * value : T{0}; };
  *grad_p = {kept(gp.x), kept(gp.y), kept(gp.w), kept(gp.h), kept(gp.angle)};
  *grad_q = {kept(gq.x), kept(gq.y), kept(gq.w), kept(gq.h), kept(gq.angle)};
  return is_finite(t.value) ? t.value : T{0};
}

}  // namespace fastdet
