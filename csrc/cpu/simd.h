// The vocabulary of the CPU kernels: a vector of T as wide as the instruction set this file is compiled for, and 16-bit storage.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common.h"

#ifndef FASTSEG_ISA
#error "compile with FASTSEG_ISA (a namespace) and FASTSEG_VECTOR_BYTES"
#endif

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

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

// Conversions round to nearest even and are free of branches, so that loops over them vectorise.
inline float to_compute(float x) { return x; }
inline double to_compute(double x) { return x; }
inline float to_compute(BFloat16 x) { return float_of(uint32_t{x.bits} << 16); }
inline float to_compute(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = uint32_t(x.bits & 0x8000u) << 16;
  const float scaled = float_of(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return float_of(bits_of(scaled) | special | sign);
}

inline void from_compute(float x, float& out) { out = x; }
inline void from_compute(double x, double& out) { out = x; }
inline void from_compute(float x, BFloat16& out) {
  const uint32_t u = bits_of(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  out.bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}
inline void from_compute(float x, Half& out) {
  const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = uint16_t(sign | (magnitude >= 0x47800000u ? special : finite));
}

template <class T, class S>
inline void read_row(const S* src, T* dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dst[i] = to_compute(src[i]);
}
template <class T, class S>
inline void write_row(const T* src, S* dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_compute(src[i], dst[i]);
}

// acc[i][v] += Σ_k a[i·a_row + k·a_k] · b[k·b_k + v·lanes]: the one multiply-add loop of this library.
template <int kRows, int kVectors, class T>
inline __attribute__((always_inline)) void multiply_add(int64_t depth, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k,
                                                        Vector<T> (&acc)[kRows][kVectors]) {
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T> column[kVectors];
    FASTSEG_UNROLL
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + k * b_k + v * kLanes<T>);
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vector<T> scalar = broadcast(a[i * a_row + k * a_k]);
      FASTSEG_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[i][v] += scalar * column[v];
    }
  }
}

}  // namespace fastseg::FASTSEG_ISA
