// Per-mode complex matrix products: out[p, q, m] = Σ_r op(a[p, r, m]) · op(b[r, q, m]), m contiguous, op = identity or conjugate.
// One kernel serves the channel mix of a spectral convolution, its input gradient (b transposed and conjugated) and its weight
// gradient (a transposed and conjugated). Vectors run over modes. A block of modes of `a`, then of each column of `b`, is repacked into
// separate real and imaginary vectors: every operand leaves memory once, and channel strides of a power of two do no harm. The products
// are short in r (channels) and long in m, so that no operand can be kept whole: a block of modes is as wide as its share of `a` fits a
// second-level cache, and the columns of `b` pass by it one at a time.
#include <utility>

#include "../ops.h"
#include "../parallel.h"
#include "vector/simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int kTileRows = 4;  // 8 vectors of sums, 2 of a and 2 of b in the 16 registers of AVX2; 8 chains hide a multiply-add's latency
constexpr int64_t kPackedBytes = 128 << 10;  // of `a`, which every column of `b` sweeps: a share of a second-level cache

// Modes of a block: a few vectors, more where the matrices are small.
template <class T>
int64_t mode_block(int64_t rows, int64_t depth) {
  int64_t modes = 64;
  while (modes > 16 && rows * depth * modes * 2 * int64_t(sizeof(T)) > kPackedBytes) modes /= 2;
  return modes;
}

template <class T>
struct Complex {
  Vector<T> re, im;
};

// Two vectors of interleaved complex numbers ↔ a real and an imaginary vector. Shuffles stay inside 128-bit lanes, where they are one
// instruction; the order of numbers this leaves is the same for every operand and undone on the way out.
template <class T, int... i>
inline Complex<T> deinterleave(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
  constexpr int lanes = kLanes<T>, lane = 16 / sizeof(T), half = lane / 2;
  return {__builtin_shufflevector(
              a, b, (i % lane < half ? i / lane * lane + 2 * (i % lane) : lanes + i / lane * lane + 2 * (i % lane - half))...),
          __builtin_shufflevector(
              a, b, (i % lane < half ? i / lane * lane + 2 * (i % lane) + 1 : lanes + i / lane * lane + 2 * (i % lane - half) + 1)...)};
}
template <int first, class T, int... i>
inline Vector<T> interleave(Complex<T> c, std::integer_sequence<int, i...>) {
  constexpr int lanes = kLanes<T>, lane = 16 / sizeof(T);
  return __builtin_shufflevector(c.re, c.im, (i % 2 * lanes + i / lane * lane + first * lane / 2 + i % lane / 2)...);
}
template <class T>
using Indices = std::make_integer_sequence<int, kLanes<T>>;

template <class T>
inline Complex<T> load_complex(const T* p, int64_t valid) {
  T tail[2 * kLanes<T>];
  if (valid < kLanes<T>) {
    for (int64_t i = 0; i < 2 * kLanes<T>; ++i) tail[i] = i < 2 * valid ? p[i] : T(0);
    p = tail;
  }
  return deinterleave<T>(load(p), load(p + kLanes<T>), Indices<T>{});
}
template <class T>
inline void store_complex(T* p, Complex<T> c, int64_t valid) {
  T tail[2 * kLanes<T>];
  T* target = valid < kLanes<T> ? tail : p;
  store(target, interleave<0>(c, Indices<T>{}));
  store(target + kLanes<T>, interleave<1>(c, Indices<T>{}));
  if (target == tail)
    for (int64_t i = 0; i < 2 * valid; ++i) p[i] = tail[i];
}

// packed[vector][i][2][lanes] ← op(source[i · stride + mode]) of one block of modes. What lies `ahead` numbers on is fetched: channels
// are pages apart, where no hardware prefetcher follows.
template <class T>
void pack(const T* source, int64_t count, int64_t stride, bool conjugate, int64_t modes, T* packed, int64_t vector_stride, int64_t ahead) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t m = 0, v = 0; m < modes; m += kLanes<T>, ++v) {
      __builtin_prefetch(source + 2 * (i * stride + m + ahead), 0, 2);
      Complex<T> z = load_complex(source + 2 * (i * stride + m), modes - m);
      T* out = packed + v * vector_stride + i * 2 * kLanes<T>;
      store(out, z.re);
      store(out + kLanes<T>, conjugate ? -z.im : z.im);
    }
}

// out[i] = Σ_r a[i][r] · b[r] for kRows rows of one vector of modes
template <int kRows, class T>
inline void multiply_rows(const T* a, const T* b, int64_t depth, T* out, int64_t out_stride, int64_t valid) {
  Complex<T> acc[kRows] = {};
  for (int64_t r = 0; r < depth; ++r) {
    const Vector<T> b_re = load(b + r * 2 * kLanes<T>), b_im = load(b + r * 2 * kLanes<T> + kLanes<T>);
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const T* z = a + (i * depth + r) * 2 * kLanes<T>;
      const Vector<T> a_re = load(z), a_im = load(z + kLanes<T>);
      acc[i].re += a_re * b_re;
      acc[i].im += a_re * b_im;
      acc[i].re -= a_im * b_im;
      acc[i].im += a_im * b_re;
    }
  }
  FASTSEG_UNROLL
  for (int i = 0; i < kRows; ++i) store_complex(out + 2 * i * out_stride, acc[i], valid);
}

template <class T>
void multiply_column(const MixParams& p, const T* a, const T* b, int64_t modes, T* out) {
  for (int64_t m = 0; m < modes; m += kLanes<T>, a += p.p * p.r * 2 * kLanes<T>, b += p.r * 2 * kLanes<T>)
    for (int64_t row = 0; row < p.p; row += kTileRows) {
      const T* rows = a + row * p.r * 2 * kLanes<T>;
      T* target = out + 2 * (row * p.out_p + m);
      switch (p.p - row) {
        case 1:
          multiply_rows<1>(rows, b, p.r, target, p.out_p, modes - m);
          break;
        case 2:
          multiply_rows<2>(rows, b, p.r, target, p.out_p, modes - m);
          break;
        case 3:
          multiply_rows<3>(rows, b, p.r, target, p.out_p, modes - m);
          break;
        default:
          multiply_rows<kTileRows>(rows, b, p.r, target, p.out_p, modes - m);
      }
    }
}

template <class T>
void mix(const MixParams& p) {
  const int64_t block = mode_block<T>(p.p, p.r), blocks = ceil_div(p.modes, block), block_vectors = ceil_div(block, kLanes<T>);
  auto run = [&](int64_t begin, int64_t end) {
    T* packed_a = static_cast<T*>(thread_scratch(size_t(block_vectors * (p.p + 1) * p.r * 2 * kLanes<T>) * sizeof(T)));
    T* packed_b = packed_a + block_vectors * p.p * p.r * 2 * kLanes<T>;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / blocks, first = task % blocks * block;
      const int64_t modes = p.modes - first < block ? p.modes - first : block;
      const T* a = static_cast<const T*>(p.a) + 2 * (group * p.a_group + first);
      const T* b = static_cast<const T*>(p.b) + 2 * (group * p.b_group + first);
      T* out = static_cast<T*>(p.out) + 2 * (group * p.out_group + first);
      for (int64_t i = 0; i < p.p; ++i)
        pack(a + 2 * i * p.a_p, p.r, p.a_r, p.conj_a, modes, packed_a + i * p.r * 2 * kLanes<T>, p.p * p.r * 2 * kLanes<T>, p.a_p);
      for (int64_t q = 0; q < p.q; ++q) {
        pack(b + 2 * q * p.b_q, p.r, p.b_r, p.conj_b, modes, packed_b, p.r * 2 * kLanes<T>, p.b_q);
        multiply_column(p, packed_a, packed_b, modes, out + 2 * q * p.out_q);
      }
    }
  };
  parallel_for(p.groups * blocks, 1, useful_threads(4 * p.groups * p.p * p.q * p.r * p.modes, p.lane.threads), run);
}

}  // namespace

void mix(const MixParams& p) { p.is_double ? mix<double>(p) : mix<float>(p); }

}  // namespace fastseg::FASTSEG_ISA
