// The vocabulary of the CPU kernels: a vector of T as wide as the instruction set this file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../../storage.h"

#ifndef FASTSEG_ISA
#error "compile with FASTSEG_ISA (a namespace) and FASTSEG_VECTOR_BYTES"
#endif

// For a function whose loops would lack registers beside those of its callers, and compile once for each of them.
#define FASTSEG_APART __attribute__((noinline))

// Loops over accumulators must unroll before the compiler decides what lives in registers.
#define FASTSEG_UNROLL _Pragma("GCC unroll 16")

namespace fastseg::FASTSEG_ISA {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(FASTSEG_VECTOR_BYTES)));
  typedef float unaligned __attribute__((vector_size(FASTSEG_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(FASTSEG_VECTOR_BYTES)));
  typedef double unaligned __attribute__((vector_size(FASTSEG_VECTOR_BYTES), aligned(8), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = FASTSEG_VECTOR_BYTES / sizeof(T);

template <class T>
inline Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <class T>
inline void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
// A store past the caches, for results larger than they are: the line is not read first. p is aligned to the vector. What was
// streamed is visible to other threads only after stream_fence().
template <class T>
inline void stream(T* p, Vector<T> v) {
#if FASTSEG_VECTOR_BYTES == 64 && defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif FASTSEG_VECTOR_BYTES == 32 && defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#elif FASTSEG_VECTOR_BYTES == 16 && defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v));
#else
  store(p, v);
#endif
}
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
template <class T>
inline Vector<T> broadcast(T x) {
  return x - Vector<T>{};  // subtracting zero is exact for every x, so it compiles to a broadcast alone
}

template <class T>
using Lanes = std::make_integer_sequence<int, kLanes<T>>;

template <class T, int... i>
inline Vector<T> reverse(Vector<T> v, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(v, v, (kLanes<T> - 1 - i)...);
}
// p[0], p[1], …, p[kPeriod − 1], p[0], …
template <int kPeriod, class T, int... i>
inline Vector<T> repeat(const T* p, std::integer_sequence<int, i...>) {
  static_assert(kPeriod == 1 || kPeriod == 2);
  if constexpr (kPeriod == 1) {
    return broadcast(*p);
  } else if constexpr (sizeof(T) == 4) {  // one number of twice the width
    typedef int64_t Wide __attribute__((vector_size(FASTSEG_VECTOR_BYTES)));
    int64_t both;
    std::memcpy(&both, p, sizeof both);
    return reinterpret_cast<Vector<T>>(both - Wide{});
  } else {
    return __builtin_shufflevector(broadcast(p[0]), broadcast(p[1]), (i % 2 * kLanes<T> + i)...);
  }
}
// out ← a[0], b[0], a[1], b[1], …
template <class T, int... i>
inline void store_interleaved(T* out, Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
  constexpr int lanes = kLanes<T>;
  store(out, __builtin_shufflevector(a, b, (i % 2 * lanes + i / 2)...));
  store(out + lanes, __builtin_shufflevector(a, b, (i % 2 * lanes + lanes / 2 + i / 2)...));
}

template <class T, class S>
inline void read_row(const S* src, T* dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dst[i] = to_compute(src[i]);
}
template <class T, class S>
inline void write_row(const T* src, S* dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_compute(src[i], dst[i]);
}

// acc[i][v] += Σ_k a[i·a_row + k·a_k] · b[k·b_k + v·lanes]: the one multiply-add loop of this library. kPeriod 2: two numbers of `a`
// take turns along the lanes.
template <int kRows, int kVectors, int kPeriod = 1, class T>
inline __attribute__((always_inline)) void multiply_add(int64_t depth, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k,
                                                        Vector<T> (&acc)[kRows][kVectors]) {
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T> column[kVectors];
    FASTSEG_UNROLL
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + k * b_k + v * kLanes<T>);
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vector<T> factor = repeat<kPeriod>(a + i * a_row + k * a_k, Lanes<T>{});
      FASTSEG_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[i][v] += factor * column[v];
    }
  }
}

template <class T, class S>
struct Types {
  using Compute = T;
  using Storage = S;
};

// body(Types<T, S>{}) of a tensor's dtype: what it computes in, what it stores.
template <class Body>
inline void by_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(Types<float, float>{});
    case DType::kFloat64:
      return body(Types<double, double>{});
    case DType::kFloat16:
      return body(Types<float, Half>{});
    case DType::kBFloat16:
      return body(Types<float, BFloat16>{});
  }
  throw Error("unknown dtype code");
}

}  // namespace fastseg::FASTSEG_ISA
