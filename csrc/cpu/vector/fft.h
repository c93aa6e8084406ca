// Fourier transforms of whole axes, one in every lane of a vector: Stockham's passes of radix 4, 2, 3 and 5, which leave the frequencies
// in order. A complex number is two vectors, its real and its imaginary part; the inverse (kRe = 1) is the same passes with the two
// exchanged. Nothing is normalised.
#pragma once

#include "../../ops.h"
#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Number n of column c lies at data + (n·row + c·column) complex numbers.
template <class T>
struct Grid {
  T* data;
  int64_t row, column;
};

template <class T>
struct Pair {
  Vector<T> re, im;
};

template <class T>
constexpr int64_t kPair = 2 * kLanes<T>;

template <int kRe = 0, class T>
inline Pair<T> load_pair(const T* p) {
  return {load(p + kRe * kLanes<T>), load(p + (1 - kRe) * kLanes<T>)};
}
template <int kRe = 0, class T>
inline void store_pair(T* p, const Pair<T>& z) {
  store(p + kRe * kLanes<T>, z.re);
  store(p + (1 - kRe) * kLanes<T>, z.im);
}
template <class T>
inline Pair<T> operator+(const Pair<T>& a, const Pair<T>& b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
inline Pair<T> operator-(const Pair<T>& a, const Pair<T>& b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
inline Pair<T> operator*(T a, const Pair<T>& b) {
  return {a * b.re, a * b.im};
}
template <class T>
inline Pair<T> operator*(const Pair<T>& a, const Pair<T>& b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T>
inline Pair<T> minus_i(const Pair<T>& z) {
  return {z.im, -z.re};
}
template <class T>
inline Pair<T> conj(const Pair<T>& z) {
  return {z.re, -z.im};
}

// The transform of a few numbers, in place.
template <class T>
inline void butterfly(Pair<T> (&z)[2]) {
  const Pair<T> a = z[0];
  z[0] = a + z[1], z[1] = a - z[1];
}
template <class T>
inline void butterfly(Pair<T> (&z)[3]) {
  constexpr T kSin = T(0.86602540378443864676);  // sin 2π/3
  const Pair<T> sum = z[1] + z[2], turned = minus_i(kSin * (z[1] - z[2])), middle = z[0] - T(0.5) * sum;
  z[0] = z[0] + sum, z[1] = middle + turned, z[2] = middle - turned;
}
template <class T>
inline void butterfly(Pair<T> (&z)[4]) {
  const Pair<T> a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = minus_i(z[1] - z[3]);
  z[0] = a + c, z[1] = b + d, z[2] = a - c, z[3] = b - d;
}
template <class T>
inline void butterfly(Pair<T> (&z)[5]) {
  constexpr T kCos1 = T(0.30901699437494742410), kCos2 = T(-0.80901699437494742410);  // cos 2π/5, cos 4π/5
  constexpr T kSin1 = T(0.95105651629515357212), kSin2 = T(0.58778525229247312917);   // sin 2π/5, sin 4π/5
  const Pair<T> a = z[1] + z[4], b = z[2] + z[3], c = z[1] - z[4], d = z[2] - z[3], first = z[0];
  const Pair<T> m1 = first + kCos1 * a + kCos2 * b, m2 = first + kCos2 * a + kCos1 * b;
  const Pair<T> t1 = minus_i(kSin1 * c + kSin2 * d), t2 = minus_i(kSin2 * c - kSin1 * d);
  z[0] = first + a + b, z[1] = m1 + t1, z[2] = m2 + t2, z[3] = m2 - t2, z[4] = m1 - t1;
}

// The size of a transform and its roots of unity e^(−2πi·k/(size·step)), interleaved.
template <class T>
struct Roots {
  const T* data;
  int64_t size, step;
};

// One pass: `done` is the product of the radices before it. Number p·done + k of x is what is left of the samples for the frequencies
// k + done·f: their transform over p gives these. The pass takes kRadix of the p together, divides the f by their remainder j, and turns
// what goes on by e^(−2πi·p·j·done/size). It reads and writes runs of k, so that the frequencies end in order without a permutation.
template <int kRadix, int kRe, class T>
void pass(const Roots<T>& roots, int64_t done, int64_t columns, const Grid<const T>& x, const Grid<T>& y) {
  const int64_t apart = roots.size / kRadix, twiddles = apart / done;
  auto run = [&](int64_t p, auto&& turn) {
    for (int64_t k = 0; k < done; ++k) {
      const T* from = x.data + (p * done + k) * x.row * kPair<T>;
      T* to = y.data + (p * kRadix * done + k) * y.row * kPair<T>;
      for (int64_t c = 0; c < columns; ++c, from += x.column * kPair<T>, to += y.column * kPair<T>) {
        Pair<T> z[kRadix];
        FASTSEG_UNROLL
        for (int j = 0; j < kRadix; ++j) z[j] = load_pair<kRe>(from + j * apart * x.row * kPair<T>);
        butterfly(z);
        store_pair<kRe>(to, z[0]);
        FASTSEG_UNROLL
        for (int j = 1; j < kRadix; ++j) store_pair<kRe>(to + j * done * y.row * kPair<T>, turn(z[j], j));
      }
    }
  };
  run(0, [](const Pair<T>& z, int) { return z; });
  for (int64_t p = 1; p < twiddles; ++p) {
    Pair<T> w[kRadix];
    for (int j = 1; j < kRadix; ++j) {
      const T* root = roots.data + 2 * p * j * done * roots.step;
      w[j] = {broadcast(root[0]), broadcast(root[1])};
    }
    run(p, [&](const Pair<T>& z, int j) { return z * w[j]; });
  }
}

constexpr int next_radix(int64_t left) { return left % 4 == 0 ? 4 : left % 2 == 0 ? 2 : left % 3 == 0 ? 3 : left % 5 == 0 ? 5 : 1; }

template <class T>
constexpr int64_t fft_scratch(int64_t size, int64_t columns) {
  return 2 * size * columns * kPair<T>;
}

// y = transform of x along the rows of `columns` columns; y may be x. The radices of size are 2, 3 and 5; work: fft_scratch.
template <int kRe, class T>
void fft(const Roots<T>& roots, int64_t columns, Grid<const T> x, const Grid<T>& y, T* work) {
  T* const halves[2] = {work, work + roots.size * columns * kPair<T>};
  int64_t done = 1, passes = 0;
  do {
    const int radix = next_radix(roots.size / done);
    const bool last = done * radix == roots.size;
    const Grid<T> to = last ? y : Grid<T>{halves[passes++ % 2], columns, 1};
    switch (radix) {
      case 4:
        pass<4, kRe>(roots, done, columns, x, to);
        break;
      case 2:
        pass<2, kRe>(roots, done, columns, x, to);
        break;
      case 3:
        pass<3, kRe>(roots, done, columns, x, to);
        break;
      case 5:
        pass<5, kRe>(roots, done, columns, x, to);
        break;
      default:
        throw Error("fft: size has a factor other than 2, 3 and 5");
    }
    done *= radix;
    x = {to.data, to.row, to.column};
  } while (done < roots.size);
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
