// The exact GELU, z·Φ(z), and its derivative, Φ(z) + z·φ(z), on vectors.
#pragma once

#include <cmath>

#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

typedef int32_t IntVector __attribute__((vector_size(FASTSEG_VECTOR_BYTES)));

// Normal tails at |z|: the probability Q beyond it, and the density φ.
template <class T>
struct Tail {
  Vector<T> magnitude, beyond, density;
};

// e^−(high + low), high + low in [0, 80]: `high` may be large and exact, `low` small.
inline Vector<float> exp_negative(Vector<float> high, Vector<float> low) {
  const Vector<float> shift = broadcast(0x1.8p23f);  // adding it rounds to an integer, which the low bits then hold
  const Vector<float> shifted = (high + low) * -0x1.715476p0f + shift, n = shifted - shift;
  const Vector<float> r = ((-high - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f) - low;
  Vector<float> sum = broadcast(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + c;
  return (Vector<float>)((IntVector)sum + ((IntVector)shifted << 23));
}

// Q(s) = e^(−s²/2)·m(t)·t with t = 1/(1 + 0.3 s): m is a polynomial fitted to relative 4e-9 over s in [0, 12].
inline Tail<float> normal_tail(Vector<float> z) {
  constexpr float kInverseRootTwoPi = 0.398942280f;
  // beyond 12 all is below 1e-31, and denormal numbers are slow
  const Vector<float> most = broadcast(12.0f), positive = z < 0 ? -z : z, s = positive > most ? most : positive;
  // the square of the upper half of the bits is exact: the exponential multiplies whatever error its argument has
  const Vector<float> upper = (Vector<float>)((IntVector)s & ~0xfff);
  const Vector<float> e = exp_negative(upper * upper * 0.5f, (s - upper) * (s + upper) * 0.5f);
  const Vector<float> t = 1.0f / (1.0f + 0.3f * s);
  Vector<float> m = broadcast(-0.020566297571533297f);
  for (float c : {0.1121135923061351f, -0.22742597298099168f, 0.19068863787905066f, -0.07846947711592614f, 0.09561911914459975f,
                  0.07858544933374045f, 0.1101911045490499f, 0.11957746096750907f, 0.11968638179038774f})
    m = m * t + c;
  return {s, e * m * t, e * kInverseRootTwoPi};
}

inline Tail<double> normal_tail(Vector<double> z) {
  Tail<double> tail;
  for (int i = 0; i < kLanes<double>; ++i) {
    const double s = ::fabs(z[i]);
    tail.magnitude[i] = s, tail.beyond[i] = 0.5 * ::erfc(s * 0.70710678118654752440);
    tail.density[i] = ::exp(-0.5 * s * s) * 0.39894228040143267794;
  }
  return tail;
}

template <class T>
inline Vector<T> relu(Vector<T> z) {
  return z < 0 ? Vector<T>{} : z;  // keeps NaN
}

// z·Φ(z) = max(z, 0) − |z|·Q(|z|): nothing cancels on the negative side.
template <class T>
inline Vector<T> gelu(Vector<T> z) {
  const Tail<T> tail = normal_tail(z);
  return relu<T>(z) - tail.magnitude * tail.beyond;
}

template <class T>
inline Vector<T> gelu_gradient(Vector<T> z) {
  const Tail<T> tail = normal_tail(z);
  const Vector<T> product = tail.magnitude * tail.density;
  return z < 0 ? tail.beyond - product : T(1) - tail.beyond + product;
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
