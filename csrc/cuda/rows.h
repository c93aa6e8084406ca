// The verbs of the last axis, and of the pairing of frequencies ±k of the axis before it: X[k] = A − iB, X[−k] = A + iB from its sums over
// cosines (A) and sines (B); P = X[k] + X[−k] and Q = i(X[k] − X[−k]) are its coefficients. A and B, P and Q go through the last axis
// together, so that what is read of its table serves both.
#pragma once

#include "../ops.h"
#include "intrinsics.h"

namespace fastseg::cuda {

constexpr int kModes = 4;  // last-axis columns, or samples, a thread makes at a time; tables are padded to more than that

// Where kept spectra lie.
struct Spectrum {
  float* data;
  int64_t modes;
  bool planar;

  __device__ float* at(int64_t image, int64_t mode) const { return data + image * 2 * modes + (planar ? mode : 2 * mode); }
  __device__ int64_t imaginary() const { return planar ? modes : 1; }
};

// One axis's place in the modes of a spectrum: mode = row · columns + column.
struct Pairing {
  int64_t positive, negative, columns;

  __host__ __device__ Pairing(const Axis& axis, int64_t columns) : positive(axis.positive), negative(axis.negative), columns(columns) {}
  __device__ bool has_positive(int64_t k) const { return k < positive; }
  __device__ bool has_negative(int64_t k) const { return 0 < k && k <= negative; }
  __device__ int64_t mode(int64_t k, int64_t column) const { return k * columns + column; }
  __device__ int64_t mirror(int64_t k, int64_t column) const { return (positive + negative - k) * columns + column; }
};

struct Bias {
  const float* values;  // or null
  int64_t channels, depth;
  __device__ float of_plane(int64_t plane) const { return values ? values[plane / depth % channels] : 0.f; }
};

struct Complex {
  float re, im;
};

__device__ inline void store_complex(const Spectrum& s, int64_t image, int64_t mode, Complex z) {
  float* at = s.at(image, mode);
  at[0] = z.re;
  at[s.imaginary()] = z.im;
}
__device__ inline Complex load_complex(const Spectrum& s, int64_t image, int64_t mode) {
  const float* at = s.at(image, mode);
  return {at[0], at[s.imaginary()]};
}

__device__ inline void combine(const Spectrum& s, int64_t image, const Pairing& pairing, int64_t k, int64_t column, Complex a, Complex b) {
  if (k == 0) b = {};
  if (pairing.has_positive(k)) store_complex(s, image, pairing.mode(k, column), {a.re + b.im, a.im - b.re});
  if (pairing.has_negative(k)) store_complex(s, image, pairing.mirror(k, column), {a.re - b.im, a.im + b.re});
}

using Coefficients = Pack<float, 4>;  // P, then Q, real and imaginary parts

__device__ inline Coefficients separate(const Spectrum& s, int64_t image, const Pairing& pairing, int64_t k, int64_t column) {
  Complex x = {}, y = {};
  if (pairing.has_positive(k)) x = load_complex(s, image, pairing.mode(k, column));
  if (pairing.has_negative(k)) y = load_complex(s, image, pairing.mirror(k, column));
  return {{x.re + y.re, x.im + y.im, y.im - x.im, x.re - y.re}};
}

// Folded samples of the row of A, for even m and for odd m, and how far it is from one to the next; those of B lie `to_b` further on.
struct FoldedSamples {
  const float *even, *odd;
  int even_step, odd_step, to_b;
};

// Σ over the samples of a row of A and of its B, kModes columns: cosines make the real parts, −sines the imaginary ones.
struct RowSums {
  float a[2][kModes] = {}, b[2][kModes] = {};

  // part 0: folded sums and cosines, part 1: differences and sines; every `splits`-th of `count` samples
  __device__ void add(int part, const FoldedSamples& x, const float* table, int padded, int split, int count, int splits) {
    FASTSEG_UNROLL_BY(4)
    for (int n = split; n < count; n += splits) {
      const auto t = load_pack<kModes>(table + n * padded);
      const float *even = x.even + n * x.even_step, *odd = x.odd + n * x.odd_step;
      const float a_n[2] = {even[0], odd[0]}, b_n[2] = {even[x.to_b], odd[x.to_b]};
      FASTSEG_UNROLL
      for (int i = 0; i < kModes; ++i) a[part][i] += t.at[i] * a_n[i % 2], b[part][i] += t.at[i] * b_n[i % 2];
    }
  }

  // Over the `splits` neighbouring lanes that share a task; all lanes of the warp take part.
  __device__ void reduce(int splits) {
    for (int lanes = 1; lanes < splits; lanes *= 2) {
      FASTSEG_UNROLL
      for (int part = 0; part < 2; ++part) {
        FASTSEG_UNROLL
        for (int i = 0; i < kModes; ++i) {
          a[part][i] += __shfl_xor_sync(kAllLanes, a[part][i], lanes);
          b[part][i] += __shfl_xor_sync(kAllLanes, b[part][i], lanes);
        }
      }
    }
  }

  __device__ void store(const Spectrum& s, int64_t image, const Pairing& pairing, int64_t k, int64_t first) const {
    FASTSEG_UNROLL
    for (int i = 0; i < kModes; ++i)
      if (first + i < pairing.columns) combine(s, image, pairing, k, first + i, {a[0][i], a[1][i]}, {b[0][i], b[1][i]});
  }
};

// kModes samples n and their mirrors of the row of P and of the row of Q, from the coefficients of its columns.
struct RowSamples {
  float p_even[kModes] = {}, p_odd[kModes] = {}, q_even[kModes] = {}, q_odd[kModes] = {};

  __device__ void add(const Coefficients* row, const float* cos, const float* sin, int64_t padded, int count) {
    FASTSEG_UNROLL_BY(4)
    for (int i = 0; i < count; ++i) {
      const auto c = load_pack<kModes>(cos + i * padded), s = load_pack<kModes>(sin + i * padded);
      const Coefficients z = row[i];
      FASTSEG_UNROLL
      for (int n = 0; n < kModes; ++n) {
        p_even[n] += z.at[0] * c.at[n], p_odd[n] += z.at[1] * s.at[n];
        q_even[n] += z.at[2] * c.at[n], q_odd[n] += z.at[3] * s.at[n];
      }
    }
  }

  template <class S>
  __device__ void store_p(S* row, int size, int first, float bias) const {
    store(row, p_even, p_odd, size, first, bias);
  }
  template <class S>
  __device__ void store_q(S* row, int size, int first, float bias) const {
    store(row, q_even, q_odd, size, first, bias);
  }

 private:
  template <class S>
  __device__ static void store(S* row, const float (&even)[kModes], const float (&odd)[kModes], int size, int first, float bias) {
    FASTSEG_UNROLL
    for (int i = 0; i < kModes; ++i) {
      const int n = first + i;
      if (2 * n <= size) from_compute(even[i] + odd[i] + bias, row[n]);
      if (n > 0 && 2 * n < size) from_compute(even[i] - odd[i] + bias, row[size - n]);
    }
  }
};

}  // namespace fastseg::cuda
