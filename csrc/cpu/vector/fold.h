// The symmetries of a DFT's cosines and sines, which halve its products once, for even sizes twice.
//   e[n] = x[n] + x[N−n] meets cosines alone, o[n] = x[n] − x[N−n] sines alone, n = 0 … N/2.
//   With M = N/2 whole, cos k(M−n) = ±cos kn and sin k(M−n) = ∓sin kn, + for even k: e[n] ± e[M−n] meets the cosines of the even (odd) k
//   alone, o[n] ∓ o[M−n] their sines.
// A synthesis has the same butterflies behind its products.
#pragma once

#include "../../ops.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// The frequencies first, first + step, … of an axis, `count` of them, and how many samples they meet: cosines from n = 0 on, sines
// from n = 1 on.
struct Part {
  int64_t first, step, count, samples;
};

constexpr int64_t parities(const Axis& axis) { return 2 - axis.size % 2; }

constexpr Part part_of(const Axis& axis, int64_t first, int64_t samples) {
  const int64_t step = parities(axis);
  return {first, step, axis.distinct() > first ? ceil_div(axis.distinct() - first, step) : 0, samples};
}
constexpr Part cosines(const Axis& axis, int64_t parity) {
  const int64_t half = axis.size / 2;
  return part_of(axis, parity, axis.size % 2 ? axis.even() : parity ? (half + 1) / 2 : half / 2 + 1);
}
constexpr Part sines(const Axis& axis, int64_t parity) {
  const int64_t half = axis.size / 2;
  return part_of(axis, parity ? parity : parities(axis), axis.size % 2 ? axis.odd() : parity ? half / 2 : (half - 1) / 2);
}

// Sums over n: those that meet all cosines, or those of n = 0.
template <class V>
inline void fold(V (&)[1]) {}

// x[n], x[N−n] → e, o; and back. The same for n = 0 and M, and for the parts that n = M/2 has.
template <class V>
inline void fold(V (&x)[2]) {
  const V sum = x[0] + x[1], difference = x[0] - x[1];
  x[0] = sum, x[1] = difference;
}

// x[n], x[N−n], x[M−n], x[M+n] → what meets the cosines of even k, of odd k, the sines of even k, of odd k
template <class V>
inline void fold(V (&x)[4]) {
  const V e = x[0] + x[1], o = x[0] - x[1], e_mirror = x[2] + x[3], o_mirror = x[2] - x[3];
  x[0] = e + e_mirror, x[1] = e - e_mirror, x[2] = o - o_mirror, x[3] = o + o_mirror;
}

template <class V>
inline void unfold(V (&)[1]) {}
template <class V>
inline void unfold(V (&x)[2]) {
  fold(x);
}
// Sums of cosines of even k, of odd k, of sines of even k, of odd k → x[n], x[N−n], x[M−n], x[M+n]
template <class V>
inline void unfold(V (&x)[4]) {
  const V c = x[0] + x[1], c_mirror = x[0] - x[1], s = x[3] + x[2], s_mirror = x[3] - x[2];
  x[0] = c + s, x[1] = c - s, x[2] = c_mirror + s_mirror, x[3] = c_mirror - s_mirror;
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
