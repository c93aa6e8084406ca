// Pairs of frequencies ±k of an outer axis, and the two ways a row of complex numbers can lie.
//
// Tables are real, and a pair shares one product with them: with A = Σ x[n]·cos(2πkn/N) and B = Σ x[n]·sin(2πkn/N), of real or complex
// x, X[k] = A − iB and X[−k] = A + iB. A synthesis goes the other way: X[k]·e^(iθ) + X[−k]·e^(−iθ) = P·cos θ + Q·sin θ with
// P = X[k] + X[−k] and Q = i(X[k] − X[−k]). A frequency whose partner is not kept has it at zero.
#pragma once

#include "../ops.h"
#include "vector/simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {  // internal linkage: single callers are inlined, which the tiles need

// How a row of complex numbers lies: kStep apart, imaginary parts `im` behind the real ones. Interleaved: kStep 2, im 1; planar: kStep 1.
template <int kStep>
struct Pairs {
  static constexpr int step = kStep;
  int64_t im;
};

// body(Pairs) of a spectrum whose planes, if it is planar, have `modes` numbers.
template <class Body>
inline void with_pairs(bool planar, int64_t modes, Body&& body) {
  if (planar)
    body(Pairs<1>{modes});
  else
    body(Pairs<2>{1});
}

template <int kFrom, int kTo, class T>
inline void copy_pairs(const T* __restrict x, Pairs<kFrom> from, Pairs<kTo> to, int64_t modes, T* __restrict out) {
  for (int64_t i = 0; i < modes; ++i) out[kTo * i] = x[kFrom * i], out[kTo * i + to.im] = x[kFrom * i + from.im];
}

// out = a − i·sign·b
template <int kFrom, int kTo, class T>
inline void subtract_i(const T* __restrict a, const T* __restrict b, Pairs<kFrom> from, T sign, Pairs<kTo> to, int64_t modes,
                       T* __restrict out) {
  for (int64_t i = 0; i < modes; ++i) {
    out[kTo * i] = a[kFrom * i] + sign * b[kFrom * i + from.im];
    out[kTo * i + to.im] = a[kFrom * i + from.im] - sign * b[kFrom * i];
  }
}

// Spectrum rows ±k from the sums A (cosines) and B (sines): X[k] = A − iB, X[−k] = A + iB.
template <class T, class From, class To, class Sum, class Row>
inline void combine(const Axis& axis, int64_t modes, From from, To to, Sum&& sum, Row&& row) {
  const int64_t k_count = axis.distinct();
  copy_pairs(static_cast<const T*>(sum(0)), from, to, modes, row(0));
  for (int64_t k = 1; k < k_count; ++k) {
    const T* a = sum(k);
    const T* b = sum(k_count + k - 1);
    if (k < axis.positive) subtract_i(a, b, from, T(1), to, modes, row(k));
    if (k <= axis.negative) subtract_i(a, b, from, T(-1), to, modes, row(axis.kept() - k));
  }
}

// p = x, q = i·sign·x
template <int kFrom, int kTo, class T>
inline void split_one(const T* __restrict x, T sign, Pairs<kFrom> from, Pairs<kTo> to, int64_t modes, T* __restrict p, T* __restrict q) {
  for (int64_t i = 0; i < modes; ++i) {
    p[kTo * i] = x[kFrom * i], p[kTo * i + to.im] = x[kFrom * i + from.im];
    q[kTo * i] = -sign * x[kFrom * i + from.im], q[kTo * i + to.im] = sign * x[kFrom * i];
  }
}

template <int kFrom, int kTo, class T>
inline void split_pair(const T* __restrict x, const T* __restrict y, Pairs<kFrom> from, Pairs<kTo> to, int64_t modes, T* __restrict p,
                       T* __restrict q) {
  for (int64_t i = 0; i < modes; ++i) {
    const T x_im = x[kFrom * i + from.im], y_im = y[kFrom * i + from.im];
    p[kTo * i] = x[kFrom * i] + y[kFrom * i], p[kTo * i + to.im] = x_im + y_im;
    q[kTo * i] = y_im - x_im, q[kTo * i + to.im] = x[kFrom * i] - y[kFrom * i];
  }
}

// The coefficients of cosines and sines from spectrum rows ±k: P = X[k] + X[−k], Q = i(X[k] − X[−k]).
template <class T, class From, class To, class Row, class Part>
inline void separate(const Axis& axis, int64_t modes, From from, To to, Row&& row, Part&& part) {
  const int64_t k_count = axis.distinct();
  copy_pairs(static_cast<const T*>(row(0)), from, to, modes, part(0));
  for (int64_t k = 1; k < k_count; ++k) {
    T* p = part(k);
    T* q = part(k_count + k - 1);
    if (k >= axis.positive)
      split_one(row(axis.kept() - k), T(-1), from, to, modes, p, q);
    else if (k > axis.negative)
      split_one(row(k), T(1), from, to, modes, p, q);
    else
      split_pair(row(k), row(axis.kept() - k), from, to, modes, p, q);
  }
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
