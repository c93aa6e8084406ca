// Everything that is a hardware instruction or a vendor header's: 16-bit conversions, wide loads and stores, warp operations. Each has a
// body of equal meaning for execution on the host.
#pragma once

#ifdef FASTSEG_CUDA_HOST
#include "../storage.h"
#include "host/host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../common.h"
#endif

#include <cmath>
#include <cstring>
#include <type_traits>

// Loops over registers must unroll: an array that is indexed at run time lives in memory.
#ifdef FASTSEG_CUDA_HOST
#define FASTSEG_PRAGMA(text)
#else
#define FASTSEG_PRAGMA(text) _Pragma(#text)
#endif
#define FASTSEG_UNROLL FASTSEG_PRAGMA(unroll)
#define FASTSEG_UNROLL_BY(count) FASTSEG_PRAGMA(unroll count)

namespace fastseg::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#ifdef FASTSEG_CUDA_HOST
using fastseg::from_compute;
using fastseg::to_compute;
#else
__device__ inline float to_compute(float x) { return x; }
__device__ inline float to_compute(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline float to_compute(BFloat16 x) { return __bfloat162float(__ushort_as_bfloat16(x.bits)); }
__device__ inline void from_compute(float x, float& out) { out = x; }
__device__ inline void from_compute(float x, Half& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }
__device__ inline void from_compute(float x, BFloat16& out) { out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
#endif

// `n` numbers that one instruction moves; at most 16 bytes.
template <class S, int n>
struct alignas(n * sizeof(S)) Pack {
  static_assert(n * sizeof(S) <= 16);
  S at[n];
};

// Whether packs of n may start at p and at every multiple of `stride` numbers from it.
template <int n, class S>
inline bool packs_align(const S* p, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Pack<S, n>) == 0 && stride % n == 0;
}

template <int n, class S>
__device__ inline Pack<S, n> load_pack(const S* p) {
#ifdef FASTSEG_CUDA_HOST
  if (!packs_align<n>(p, 0)) host::fail("load of %d × %zu bytes from %p is misaligned", n, sizeof(S), static_cast<const void*>(p));
#endif
  return *reinterpret_cast<const Pack<S, n>*>(p);
}
template <int n, class S>
__device__ inline void store_pack(S* p, const Pack<S, n>& values) {
#ifdef FASTSEG_CUDA_HOST
  if (!packs_align<n>(p, 0)) host::fail("store of %d × %zu bytes to %p is misaligned", n, sizeof(S), static_cast<void*>(p));
#endif
  *reinterpret_cast<Pack<S, n>*>(p) = values;
}
// The same to device memory, by one instruction for certain: a plain store that shares a branch with stores of single numbers is split up.
template <int n, class S>
__device__ inline void store_global(S* p, const Pack<S, n>& values) {
#ifdef FASTSEG_CUDA_HOST
  store_pack(p, values);
#else
  using Words = std::conditional_t<n * sizeof(S) == 16, uint4, std::conditional_t<n * sizeof(S) == 8, uint2, unsigned>>;
  static_assert(sizeof(Words) == n * sizeof(S));
  Words words;
  memcpy(&words, &values, sizeof words);
#ifdef __clang__  // whose headers have it for other types
  *reinterpret_cast<Words*>(p) = words;
#else
  __stwb(reinterpret_cast<Words*>(p), words);
#endif
#endif
}

// A pack as it was loaded: 16-bit numbers lie two to a register until they are used, since to unpack them is to wait for the load.
template <int n, class S>
using RawPack = std::conditional_t<sizeof(S) == 2 && n % 2 == 0, Pack<uint32_t, n / 2>, Pack<S, n>>;

template <int n, class S>
__device__ inline RawPack<n, S> load_raw(const S* p) {
  if constexpr (std::is_same_v<RawPack<n, S>, Pack<S, n>>)
    return load_pack<n>(p);
  else
    return load_pack<n / 2>(reinterpret_cast<const uint32_t*>(p));
}
template <class S, int n>
__device__ inline float raw_at(const Pack<S, n>& pack, int i) {
  return to_compute(pack.at[i]);
}
template <class S, int words>
__device__ inline float raw_at(const Pack<uint32_t, words>& pack, int i) {
  return to_compute(S{uint16_t(pack.at[i / 2] >> 16 * (i % 2))});
}

// `n` neighbours of which the first `valid` exist, the others zero: one access where all do and `wide` says that packs align.
template <int n, class S>
__device__ inline Pack<S, n> load_valid(const S* p, int64_t valid, bool wide) {
  if (wide && valid >= n) return load_pack<n>(p);
  Pack<S, n> values = {};
  FASTSEG_UNROLL
  for (int i = 0; i < n; ++i)
    if (i < valid) values.at[i] = p[i];
  return values;
}
template <int n, class S>
__device__ inline void store_valid(S* p, const float (&values)[n], int64_t valid, bool wide) {
  Pack<S, n> stored;
  FASTSEG_UNROLL
  for (int i = 0; i < n; ++i) from_compute(values[i], stored.at[i]);
  if constexpr (n > 1)
    if (wide && valid >= n) return store_global(p, stored);
  FASTSEG_UNROLL
  for (int i = 0; i < n; ++i)
    if (i < valid) p[i] = stored.at[i];
}

// The same number, which the compiler does not know to be the same: what depends on it is not kept in registers from one use to the next.
__device__ inline int forgotten(int x) {
#ifndef FASTSEG_CUDA_HOST
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// cos and sin of 2πx, x reduced before it meets π.
__device__ inline void cos_sin_turns(double turns, double& cosine, double& sine) {
#ifdef FASTSEG_CUDA_HOST
  const double angle = 6.283185307179586476925 * (turns - std::rint(turns));
  cosine = std::cos(angle), sine = std::sin(angle);
#else
  sincospi(2 * turns, &sine, &cosine);
#endif
}

// The sum over the warp's lanes, the same in each of them.
__device__ inline float warp_sum(float value) {
  FASTSEG_UNROLL
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

}  // namespace fastseg::cuda
