// Per-mode complex matrix products: out[p, q, m] = Σ_r op(a[p, r, m]) · op(b[r, q, m]), m contiguous, op = identity or conjugate.
// One kernel serves the channel mix of a spectral convolution, its input gradient (b transposed and conjugated) and its weight
// gradient (a transposed and conjugated). `a` is repacked once per block of modes into separate real and imaginary vectors; `b`, as a
// rule the weight and by far the larger operand, is read once for every kBlockP rows of the output.
#include "../ops.h"
#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kModeBlock = 64;
constexpr int kBlockP = 4;

template <class T>
struct Complex {
  Vector<T> re, im;
};

// kLanes complex numbers in memory order become two vectors; the order of lanes inside is the same for load and store.
template <class T>
inline Complex<T> load_complex(const T* p) {
  const Vector<T> a = load(p), b = load(p + kLanes<T>);
  Complex<T> c;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    c.re[i] = i < kLanes<T> / 2 ? a[2 * i] : b[2 * i - kLanes<T>];
    c.im[i] = i < kLanes<T> / 2 ? a[2 * i + 1] : b[2 * i + 1 - kLanes<T>];
  }
  return c;
}
template <class T>
inline void store_complex(T* p, Complex<T> c) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) p[2 * i] = c.re[i], p[2 * i + 1] = c.im[i];
}

template <class T>
inline void accumulate(Complex<T>& acc, const Complex<T>& a, const Complex<T>& b) {
  acc.re += a.re * b.re;
  acc.re -= a.im * b.im;
  acc.im += a.re * b.im;
  acc.im += a.im * b.re;
}

template <class T>
struct Block {
  const MixParams& p;
  const T* b;        // this group's, at the block's first mode
  T* out;
  const T* packed_a;  // [vector][p][r][2][lanes]
  int64_t modes, vectors;
};

template <class T>
void pack_a(const MixParams& p, const T* a, int64_t modes, int64_t vectors, T* packed) {
  for (int64_t v = 0; v < vectors; ++v)
    for (int64_t i = 0; i < p.p; ++i)
      for (int64_t r = 0; r < p.r; ++r, packed += 2 * kLanes<T>)
        for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
          const int64_t m = v * kLanes<T> + lane;
          const T* z = a + 2 * (i * p.a_p + r * p.a_r + m);
          packed[lane] = m < modes ? z[0] : T(0);
          packed[kLanes<T> + lane] = m < modes ? (p.conj_a ? -z[1] : z[1]) : T(0);
        }
}

template <bool kConjB, int kRows, class T>
inline void multiply_rows(const Block<T>& block, int64_t v, int64_t row, int64_t q) {
  const MixParams& p = block.p;
  const int64_t first = v * kLanes<T>, valid = block.modes - first;
  const T* a = block.packed_a + (v * p.p + row) * p.r * 2 * kLanes<T>;
  Complex<T> acc[kRows] = {};
  for (int64_t r = 0; r < p.r; ++r) {
    const T* source = block.b + 2 * (r * p.b_r + q * p.b_q + first);
    T tail[2 * kLanes<T>];
    if (valid < kLanes<T>) {
      for (int64_t i = 0; i < 2 * kLanes<T>; ++i) tail[i] = i < 2 * valid ? source[i] : T(0);
      source = tail;
    }
    Complex<T> b = load_complex(source);
    if constexpr (kConjB) b.im = -b.im;
    for (int i = 0; i < kRows; ++i) {
      const T* z = a + (i * p.r + r) * 2 * kLanes<T>;
      accumulate(acc[i], Complex<T>{load(z), load(z + kLanes<T>)}, b);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    T* out = block.out + 2 * ((row + i) * p.out_p + q * p.out_q + first);
    if (valid >= kLanes<T>) {
      store_complex(out, acc[i]);
    } else {
      T tail[2 * kLanes<T>];
      store_complex(tail, acc[i]);
      for (int64_t j = 0; j < 2 * valid; ++j) out[j] = tail[j];
    }
  }
}

template <bool kConjB, class T>
void multiply_block(const Block<T>& block) {
  for (int64_t q = 0; q < block.p.q; ++q)
    for (int64_t row = 0; row < block.p.p; row += kBlockP)
      for (int64_t v = 0; v < block.vectors; ++v) switch (block.p.p - row) {
          case 1: multiply_rows<kConjB, 1>(block, v, row, q); break;
          case 2: multiply_rows<kConjB, 2>(block, v, row, q); break;
          case 3: multiply_rows<kConjB, 3>(block, v, row, q); break;
          default: multiply_rows<kConjB, kBlockP>(block, v, row, q);
        }
}

template <class T>
void mix(const MixParams& p) {
  const int64_t blocks = ceil_div(p.modes, kModeBlock);
  auto run = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / blocks, first = task % blocks * kModeBlock;
      const int64_t modes = p.modes - first < kModeBlock ? p.modes - first : kModeBlock, vectors = ceil_div(modes, kLanes<T>);
      T* packed = static_cast<T*>(thread_scratch(size_t(vectors * p.p * p.r * 2 * kLanes<T>) * sizeof(T)));
      pack_a(p, static_cast<const T*>(p.a) + 2 * (group * p.a_group + first), modes, vectors, packed);
      const Block<T> block{p, static_cast<const T*>(p.b) + 2 * (group * p.b_group + first),
                           static_cast<T*>(p.out) + 2 * (group * p.out_group + first), packed, modes, vectors};
      if (p.conj_b) multiply_block<true>(block);
      else multiply_block<false>(block);
    }
  };
  parallel_for(p.groups * blocks, 1, p.threads, run);
}

}  // namespace

void mix(const MixParams& p) { p.is_double ? mix<double>(p) : mix<float>(p); }

}  // namespace fastseg::FASTSEG_ISA
