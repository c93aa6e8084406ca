// The exact GELU, z·Φ(z), and its derivative, Φ(z) + z·φ(z), on vectors.
#pragma once

#include <cmath>

#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

typedef int32_t IntVector __attribute__((vector_size(FASTSEG_VECTOR_BYTES)));

// Coefficients from the highest power down.
template <int kCount>
inline Vector<float> polynomial(const float (&coefficients)[kCount], Vector<float> x) {
  Vector<float> sum = broadcast(coefficients[0]);
  FASTSEG_UNROLL
  for (int i = 1; i < kCount; ++i) sum = sum * x + coefficients[i];
  return sum;
}

// These comparisons keep NaN.
template <class T>
inline Vector<T> relu(Vector<T> z) {
  return z < 0 ? Vector<T>{} : z;
}
inline Vector<float> at_most(float limit, Vector<float> z) { return limit < z ? broadcast(limit) : z; }
inline Vector<float> at_least(float limit, Vector<float> z) { return limit > z ? broadcast(limit) : z; }

// 0.39870214·e^(−square/2) of a square up to 150, to 1e-7 and what half a unit in its last place makes.
inline Vector<float> gaussian_of(Vector<float> square) {
  constexpr float kPolynomial[] = {-0.000103366227f, 0.00104473333f, -0.00830678456f, 0.049836576f, -0.199350998f, 0.398702174f};
  const Vector<float> shift = broadcast(0x1.8p23f);  // adding it rounds to an integer, which the low bits then hold
  const Vector<float> shifted = square * 0x1.715476p-1f + shift, n = shifted - shift;
  const Vector<float> rest = (square - n * 0x1.62e4p0f) - n * 0x1.7f7d1cp-19f;
  return (Vector<float>)((IntVector)polynomial(kPolynomial, rest) - ((IntVector)shifted << 23));
}

// z·Φ(z) = max(z, 0) − s·Q(s), s = |z|: nothing cancels on the negative side. The upper tail Q(s) = c·e^(−s²/2)·P(s)/D(s) is fitted to
// relative 6e-8 over s in [0, 6], P and D with a first coefficient of one, which costs no multiplication; beyond 12 all is below 1e-31, and
// denormal numbers are slow.
inline Vector<float> gelu(Vector<float> z) {
  constexpr float kP[] = {1.0f, 7.66407728f, 24.5440826f, 36.6765175f};
  constexpr float kD[] = {1.0f, 7.64330387f, 25.7237148f, 42.906395f, 29.2460155f};
  const IntVector magnitude = (IntVector)z & 0x7fffffff, most = (IntVector)broadcast(12.0f);
  const Vector<float> s = (Vector<float>)(magnitude < most ? magnitude : most);
  return (z + (Vector<float>)magnitude) * 0.5f - gaussian_of(s * s) * (s * polynomial(kP, s)) / polynomial(kD, s);
}

// ½ + an odd function, a ratio of polynomials fitted to 4e-8 over |z| ≤ 6.1, beyond which it is 1 or 0 in float.
inline Vector<float> gelu_gradient(Vector<float> z) {
  constexpr float kP[] = {-1.37850287e-11f, 2.50583376e-09f, -7.24764888e-08f, 3.32453601e-05f,
                          -0.00013143658f,  0.0144972326f,   -0.0404770784f,   0.797884822f};
  constexpr float kD[] = {5.86968281e-06f, 0.000154266017f, 0.0030074669f, 0.0373643227f, 0.282605767f, 1.0f};
  const Vector<float> s = at_least(-6.1f, at_most(6.1f, z)), square = s * s;
  return 0.5f + s * polynomial(kP, square) / polynomial(kD, square);
}

inline double normal_tail(double s) { return 0.5 * ::erfc(s * 0.70710678118654752440); }

inline Vector<double> gelu(Vector<double> z) {
  for (int i = 0; i < kLanes<double>; ++i) z[i] = (z[i] < 0 ? 0 : z[i]) - ::fabs(z[i]) * normal_tail(::fabs(z[i]));
  return z;
}

inline Vector<double> gelu_gradient(Vector<double> z) {
  for (int i = 0; i < kLanes<double>; ++i) z[i] = normal_tail(-z[i]) + z[i] * ::exp(-0.5 * z[i] * z[i]) * 0.39894228040143267794;
  return z;
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
