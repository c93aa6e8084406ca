// Fourier transforms of a few numbers in registers, and the passes that make longer ones of them in shared memory, in place: a forward
// transform leaves its frequencies in the order of reversed digits, an inverse takes them so. Nothing is normalised.
#pragma once

#include "../intrinsics.h"

namespace fastseg::cuda::whole {

// A number of a spectrum, or two neighbouring samples on their way to it.
struct alignas(8) Bin {
  float re, im;
};

__device__ inline Bin operator+(Bin a, Bin b) { return {a.re + b.re, a.im + b.im}; }
__device__ inline Bin operator-(Bin a, Bin b) { return {a.re - b.re, a.im - b.im}; }
__device__ inline Bin operator*(Bin a, Bin b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
__device__ inline Bin operator*(float a, Bin b) { return {a * b.re, a * b.im}; }
__device__ inline Bin conj(Bin z) { return {z.re, -z.im}; }
__device__ inline Bin minus_i(Bin z) { return {z.im, -z.re}; }
// The inverse of a transform is the transform between two exchanges of real and imaginary parts.
__device__ inline Bin exchanged(Bin z) { return {z.im, z.re}; }

// z · e^(−2πi·n/32)
__device__ inline Bin turned(Bin z, int n) {
  constexpr float kCos[9] = {1, 0.98078528f, 0.92387953f, 0.83146961f, 0.70710678f, 0.55557023f, 0.38268343f, 0.19509032f, 0};
  const int eighth = n % 8;
  if (eighth == 4)
    z = kCos[4] * Bin{z.re + z.im, z.im - z.re};
  else if (eighth != 0)
    z = Bin{kCos[eighth], -kCos[8 - eighth]} * z;
  if (n / 8 % 2) z = minus_i(z);
  return n / 16 % 2 ? Bin{-z.re, -z.im} : z;
}

__device__ inline void dft(Bin (&z)[2]) {
  const Bin a = z[0];
  z[0] = a + z[1], z[1] = a - z[1];
}
__device__ inline void dft(Bin (&z)[3]) {
  constexpr float kSin = 0.86602540f;  // sin 2π/3
  const Bin sum = z[1] + z[2], across = minus_i(kSin * (z[1] - z[2])), middle = z[0] - 0.5f * sum;
  z[0] = z[0] + sum, z[1] = middle + across, z[2] = middle - across;
}
__device__ inline void dft(Bin (&z)[4]) {
  const Bin a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = minus_i(z[1] - z[3]);
  z[0] = a + c, z[1] = b + d, z[2] = a - c, z[3] = b - d;
}
__device__ inline void dft(Bin (&z)[5]) {
  constexpr float kCos1 = 0.30901699f, kCos2 = -0.80901699f, kSin1 = 0.95105652f, kSin2 = 0.58778525f;  // of 2π/5, 4π/5
  const Bin a = z[1] + z[4], b = z[2] + z[3], c = z[1] - z[4], d = z[2] - z[3], first = z[0];
  const Bin m1 = first + kCos1 * a + kCos2 * b, m2 = first + kCos2 * a + kCos1 * b;
  const Bin t1 = minus_i(kSin1 * c + kSin2 * d), t2 = minus_i(kSin2 * c - kSin1 * d);
  z[0] = first + a + b, z[1] = m1 + t1, z[2] = m2 + t2, z[3] = m2 - t2, z[4] = m1 - t1;
}
template <int kFirst, int kSecond>
__device__ inline void dft_of_two(Bin (&z)[kFirst * kSecond]) {
  Bin between[kSecond][kFirst];
  FASTSEG_UNROLL
  for (int n = 0; n < kSecond; ++n) {
    FASTSEG_UNROLL
    for (int i = 0; i < kFirst; ++i) between[n][i] = z[i * kSecond + n];
    dft(between[n]);
  }
  FASTSEG_UNROLL
  for (int k = 0; k < kFirst; ++k) {
    Bin row[kSecond];
    FASTSEG_UNROLL
    for (int n = 0; n < kSecond; ++n) row[n] = turned(between[n][k], n * k * (32 / (kFirst * kSecond)));
    dft(row);
    FASTSEG_UNROLL
    for (int i = 0; i < kSecond; ++i) z[k + kFirst * i] = row[i];
  }
}
__device__ inline void dft(Bin (&z)[8]) { dft_of_two<2, 4>(z); }
__device__ inline void dft(Bin (&z)[16]) { dft_of_two<4, 4>(z); }

template <int kRadix>
__device__ inline void inverse_dft(Bin (&z)[kRadix]) {
  FASTSEG_UNROLL
  for (int j = 0; j < kRadix; ++j) z[j] = exchanged(z[j]);
  dft(z);
  FASTSEG_UNROLL
  for (int j = 0; j < kRadix; ++j) z[j] = exchanged(z[j]);
}

// n / divisor for n below 2^16 and a divisor that the host knows.
struct Divider {
  int divisor;
  unsigned magic;

  Divider() = default;
  explicit Divider(int by) : divisor(by), magic(by > 1 ? unsigned((uint64_t{1} << 32) / unsigned(by) + 1) : 0) {}
  __device__ int quotient(int n) const { return magic ? int(uint64_t(unsigned(n)) * magic >> 32) : n; }
};

// One pass of an axis, of as many steps as `radix` is of its size. Its numbers lie `apart`; what goes on is turned by the root
// p·f·turns, p < apart.
struct Pass {
  int radix, apart, steps, turns;
  Divider by_apart;
};

constexpr int kMaxPasses = 6;

struct Line {
  int size, passes;
  Pass at[kMaxPasses];
  const Bin* roots;

  // Where frequency k ends.
  __device__ int position(int k) const {
    int found = 0;
    for (int i = 0; i < passes; ++i) {
      found += k % at[i].radix * at[i].apart;
      k /= at[i].radix;
    }
    return found;
  }
};

template <int kRadix>
__device__ inline void turn_outputs(Bin (&z)[kRadix], const Pass& pass, const Bin* roots, int p) {
  if (pass.apart == 1) return;
  FASTSEG_UNROLL
  for (int f = 1; f < kRadix; ++f) z[f] = z[f] * roots[p * f * pass.turns];
}

// The pass's step p on numbers in registers, or its inverse.
template <bool kInverse, int kRadix>
__device__ inline void transform_step(Bin (&z)[kRadix], const Pass& pass, const Bin* roots, int p) {
  if constexpr (kInverse) {
    FASTSEG_UNROLL
    for (int j = 0; j < kRadix; ++j) z[j] = exchanged(z[j]);
    turn_outputs(z, pass, roots, p);
    dft(z);
    FASTSEG_UNROLL
    for (int j = 0; j < kRadix; ++j) z[j] = exchanged(z[j]);
  } else {
    dft(z);
    turn_outputs(z, pass, roots, p);
  }
}

template <int kValue>
struct Radix {
  static constexpr int value = kValue;
};

constexpr int kMaxColumnRadix = 16, kMaxRowRadix = 8;  // rows are taken in pairs

// body(Radix<radix>{}) for a radix up to kMost
template <int kMost, class Body>
__device__ inline void by_radix(int radix, const Body& body) {
  if constexpr (kMost == 16)
    if (radix == 16) return body(Radix<16>{});
  if (radix == 8) return body(Radix<8>{});
  if (radix == 5) return body(Radix<5>{});
  if (radix == 4) return body(Radix<4>{});
  if (radix == 3) return body(Radix<3>{});
  body(Radix<2>{});
}

}  // namespace fastseg::cuda::whole
