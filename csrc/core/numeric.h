// SPDX-License-Identifier: Apache-2.0
// Numbers that decide. Everything here gives the same bits on every CPU instruction set and on CUDA: all of the project is
// compiled without contraction (-ffp-contract=off, --fmad=false), conversions round to nearest even, the logarithm is our own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/platform.h"

namespace fastdet {

template <typename To, typename From>
FD_HD To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Storage types: arithmetic happens in float, these only hold the bits.
struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

FD_HD float to_float(float value) { return value; }
FD_HD float to_float(BFloat16 value) { return bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }
FD_HD float to_float(Half value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  // Scaling by 2^112 moves the exponent from bias 15 to bias 127 and normalises subnormals exactly.
  const float scaled = bit_cast<float>(magnitude << 13) * bit_cast<float>(0x77800000u);
  const std::uint32_t special = 0x7f800000u | (magnitude << 13);
  return bit_cast<float>(sign | (magnitude >= 0x7c00u ? special : bit_cast<std::uint32_t>(scaled)));
}

FD_HD BFloat16 to_bfloat16(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

FD_HD Half to_half(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below the smallest normal: adding 0.5 aligns and rounds the mantissa
    half = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

template <typename T>
FD_HD T from_float(float value);
template <>
FD_HD float from_float<float>(float value) {
  return value;
}
template <>
FD_HD BFloat16 from_float<BFloat16>(float value) {
  return to_bfloat16(value);
}
template <>
FD_HD Half from_float<Half>(float value) {
  return to_half(value);
}

// What arithmetic on a storage type happens in: double for double, float for the others; widen and narrow lead there and back.
template <typename T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <typename T>
using ArithmeticOf = typename Arithmetic<T>::type;

template <typename T>
FD_HD ArithmeticOf<T> widen(T value) {
  return to_float(value);
}
template <>
FD_HD double widen<double>(double value) {
  return value;
}
template <typename T>
FD_HD T narrow(ArithmeticOf<T> value) {
  return from_float<T>(value);
}
template <>
FD_HD double narrow<double>(double value) {
  return value;
}

FD_HD bool is_finite(double value) { return (bit_cast<std::uint64_t>(value) & 0x7ff0000000000000u) != 0x7ff0000000000000u; }
FD_HD bool is_finite(float value) { return (bit_cast<std::uint32_t>(value) & 0x7f800000u) != 0x7f800000u; }

// Order-preserving key of a float that is not NaN: a < b as numbers exactly when key(a) < key(b); -0 and +0 share one key.
FD_HD std::uint32_t order_key(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value + 0.0f);
  return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}
FD_HD float order_key_value(std::uint32_t key) { return bit_cast<float>((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key); }

// The largest float not above `value`: `x > round_down(t)` in float decides exactly as `double(x) > t`.
inline float round_down(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) <= value || nearest != nearest) return nearest;
  if (nearest == 0.0f) return bit_cast<float>(0x80000001u);
  const std::uint32_t bits = bit_cast<std::uint32_t>(nearest);
  return bit_cast<float>(nearest > 0.0f ? bits - 1u : bits + 1u);
}

// log(x 2^-shift) for a normal positive float x, within 1 ulp; x = 0 counts as 2^-127. x = 2^e (1 + f) with 1 + f in
// [sqrt(1/2), sqrt(2)), log(1 + f) = f - f^2 / 2 + f^3 P(f) with P a minimax fit of our own, ln 2 in two parts of which the
// larger is exact when multiplied by e. No division and no branch, so that loops over it vectorise.
FD_HD float log_exact(float x, std::int32_t shift = 0) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(x);
  const std::int32_t exponent = (static_cast<std::int32_t>(bits) - 0x3f3504f3) >> 23;  // 0x3f3504f3: sqrt(1/2)
  const float f = bit_cast<float>(bits - (static_cast<std::uint32_t>(exponent) << 23)) - 1.0f;
  const float e = static_cast<float>(exponent - shift);
  float p = -0.0763440207f;
  p = p * f + 0.127614811f;
  p = p * f + -0.131601736f;
  p = p * f + 0.142017722f;
  p = p * f + -0.166233599f;
  p = p * f + 0.200012267f;
  p = p * f + -0.250008196f;
  p = p * f + 0.333333313f;
  const float f2 = f * f;
  const float tail = (f * f2) * p + e * -2.12194440e-4f;
  return (f + (tail - 0.5f * f2)) + e * 0.693359375f;
}

// P(r) of exp_exact.
FD_HD float exp_series(float r) {
  float p = 1.97902991e-4f;
  p = p * r + 1.39447034e-3f;
  p = p * r + 8.33349768e-3f;
  p = p * r + 4.16662954e-2f;
  p = p * r + 1.66666657e-1f;
  return p * r + 0.5f;
}
// exp(x) within 1 ulp, never falling where x rises (checked for every float); NaN stays NaN, overflow is inf, results below the
// normal range are rounded once more. x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) = 1 + (r + r^2 P(r)) with P a minimax fit of
// our own; 2^n in two factors, so that both ends of the range are reached. No division and no branch.
FD_HD float exp_exact(float x) {
  const float v = x < -104.0f ? -104.0f : (x > 89.0f ? 89.0f : x);
  const float t = v * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  const std::int32_t n = static_cast<std::int32_t>(bit_cast<std::uint32_t>(t) - 0x4b400000u);
  const float k = t - 12582912.0f;
  const float r = (v - k * 0.693359375f) - k * -2.12194440e-4f;
  const float y = 1.0f + (r + (r * r) * exp_series(r));
  const std::int32_t half = n >> 1;
  return y * bit_cast<float>(static_cast<std::uint32_t>(half + 127) << 23) *
         bit_cast<float>(static_cast<std::uint32_t>(n - half + 127) << 23);
}
// The same bits for |x| <= 80, where one factor holds 2^n; anything else gives anything.
FD_HD float exp_in_range(float x) {
  const float t = x * 1.44269504f + 12582912.0f;
  const float k = t - 12582912.0f;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  const float y = 1.0f + (r + (r * r) * exp_series(r));
  return bit_cast<float>(bit_cast<std::uint32_t>(y) + (bit_cast<std::uint32_t>(t) << 23));  // the shift leaves n alone
}
// The same for double, by the Taylor series, which has enough terms at this degree.
FD_HD double exp_exact(double x) {
  const double v = x < -746.0 ? -746.0 : (x > 710.0 ? 710.0 : x);
  const double t = v * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  const std::int64_t n = static_cast<std::int64_t>(bit_cast<std::uint64_t>(t) - 0x4338000000000000u);
  const double k = t - 6755399441055744.0;
  const double r = (v - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800.0;  // 1 / 13!
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  const double y = 1.0 + (r + (r * r) * p);
  const std::int64_t half = n >> 1;
  return y * bit_cast<double>(static_cast<std::uint64_t>(half + 1023) << 52) *
         bit_cast<double>(static_cast<std::uint64_t>(n - half + 1023) << 52);
}

// 1 / (1 + exp(-x)) in [0, 1], never falling where x rises: 0 below about -88.7, 1 above about 17.3.
template <typename T>
FD_HD T sigmoid_exact(T x) {
  return T{1} / (T{1} + exp_exact(-x));
}

// 1 - exp(-x) for x >= 0, within 3 ulp: the series where the difference would cancel. No branch.
FD_HD float one_minus_exp(float x) {
  float p = -1.0f / 40320.0f;
  p = p * x + 1.0f / 5040.0f;
  p = p * x + -1.0f / 720.0f;
  p = p * x + 1.0f / 120.0f;
  p = p * x + -1.0f / 24.0f;
  p = p * x + 1.0f / 6.0f;
  p = p * x + -0.5f;
  const float series = x + (x * x) * p, difference = 1.0f - exp_exact(-x);
  return x < 0.35f ? series : difference;
}

// The angle whose tangent is y / x, for y and x not negative: in [0, pi / 2], 0 for 0 / 0, within 1.5 ulp. One division, of the
// smaller by the larger: atan(t) = t + t^3 P(t^2) on [0, 1] with P a minimax fit of our own. No branch.
FD_HD float atan_of_ratio(float y, float x) {
  const float smaller = y < x ? y : x, larger = y < x ? x : y;
  const float quotient = smaller / larger, t = larger > 0.0f ? quotient : 0.0f;
  const float z = t * t;
  float p = -0.00179122353f;
  p = p * z + 0.0109034106f;
  p = p * z + -0.0311559234f;
  p = p * z + 0.057934247f;
  p = p * z + -0.0840198547f;
  p = p * z + 0.109516382f;
  p = p * z + -0.142641246f;
  p = p * z + 0.199985355f;
  p = p * z + -0.333332986f;
  const float angle = t + (t * z) * p;
  return y > x ? 1.57079637f + (-4.37113883e-8f - angle) : angle;
}

// Sine and cosine of |x| <= 1e6 radians, to 1e-15: quarter turns taken off with pi / 2 in two parts, of which the first is exact
// when multiplied by their number; Taylor series on |r| <= pi / 4. For float rounded once more, within 0.51 ulp.
FD_HD void sin_cos_exact(double x, double* sine, double* cosine) {
  const double t = x * 0.63661977236758134 + 6755399441055744.0;  // 1.5 * 2^52
  const std::uint32_t quarter = static_cast<std::uint32_t>(bit_cast<std::uint64_t>(t));
  const double k = t - 6755399441055744.0;
  const double r = (x - k * 1.57079632673412561417e+00) - k * 6.07710050650619224932e-11;
  const double z = r * r;
  double s = 1.0 / 355687428096000.0, c = 1.0 / 20922789888000.0;
  s = s * z + -1.0 / 1307674368000.0, c = c * z + -1.0 / 87178291200.0;
  s = s * z + 1.0 / 6227020800.0, c = c * z + 1.0 / 479001600.0;
  s = s * z + -1.0 / 39916800.0, c = c * z + -1.0 / 3628800.0;
  s = s * z + 1.0 / 362880.0, c = c * z + 1.0 / 40320.0;
  s = s * z + -1.0 / 5040.0, c = c * z + -1.0 / 720.0;
  s = s * z + 1.0 / 120.0, c = c * z + 1.0 / 24.0;
  s = s * z + -1.0 / 6.0, c = c * z + -0.5;
  const double sin_r = r + (r * z) * s, cos_r = 1.0 + z * c;
  const bool swapped = (quarter & 1u) != 0u;
  const double at_sine = swapped ? cos_r : sin_r, at_cosine = swapped ? sin_r : cos_r;
  *sine = (quarter & 2u) != 0u ? -at_sine : at_sine;
  *cosine = ((quarter + 1u) & 2u) != 0u ? -at_cosine : at_cosine;
}
FD_HD void sin_cos_exact(float x, float* sine, float* cosine) {
  double s, c;
  sin_cos_exact(static_cast<double>(x), &s, &c);
  *sine = static_cast<float>(s);
  *cosine = static_cast<float>(c);
}

// The same in double by the C library: for checks of gradients, equal to rounding, not to the bit.
FD_HD double log_exact(double x) { return std::log(x); }
FD_HD double one_minus_exp(double x) { return -std::expm1(-x); }
FD_HD double atan_of_ratio(double y, double x) { return std::atan2(y, x); }

// Correctly rounded everywhere.
FD_HD float square_root(float x) { return std::sqrt(x); }
FD_HD double square_root(double x) { return std::sqrt(x); }

}  // namespace fastdet
