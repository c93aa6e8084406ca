// The verbs of the tensor cores of sm_80 and later: D += A · B of one warp, sums in float32. Lane 4g + t holds of
//   A [16, depth]  rows g and g + 8: in TF32 (depth 8) columns t, t + 4; in 16 bits (depth 16) the pairs 2t, 2t + 1 and 2t + 8, 2t + 9
//   B [depth, 8]   column g: the same places of the depth
//   D [16, 8]      D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1]
// The hardware reads the 19 leading bits of a TF32 operand, and cuts what it adds towards zero: long sums are taken in parts outside of it.
#pragma once

#include "../intrinsics.h"

namespace fastseg::cuda {

#if defined(FASTSEG_CUDA_HOST) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
constexpr bool kHasTensorCores = true;
#else
constexpr bool kHasTensorCores = false;  // code for older devices compiles, and is never launched
#endif

using Fragment = Pack<uint32_t, 4>;  // of A: row g, g + 8 at the first place of the depth, then at the second

#ifdef FASTSEG_CUDA_HOST
__device__ inline uint32_t as_bits(float x) { return bits_of(x); }
__device__ inline float as_float(uint32_t bits) { return float_of(bits); }
__device__ inline uint32_t permute_bytes(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t both = uint64_t{y} << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= uint32_t(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return out;
}
#else
__device__ inline uint32_t as_bits(float x) { return __float_as_uint(x); }
__device__ inline float as_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ inline uint32_t permute_bytes(uint32_t x, uint32_t y, uint32_t selector) { return __byte_perm(x, y, selector); }
#endif

// min(max(x, 0), 1)
__device__ inline float saturate(float x) {
#ifdef FASTSEG_CUDA_HOST
  return x < 0.f ? 0.f : x > 1.f ? 1.f : x;
#else
  return __saturatef(x);
#endif
}

// x rounded to TF32: half a unit is added to the magnitude, the rest cut. Two instructions; the conversion of the hardware takes four.
__device__ inline uint32_t to_tf32(float x) { return (as_bits(x) + 0x1000u) & 0xffffe000u; }
// The same where nothing else carries a NaN on: rounding makes zero of the one that arithmetic gives.
__device__ inline uint32_t to_tf32_alone(float x) { return x != x ? as_bits(x) : to_tf32(x); }
// What that leaves of x, of which mma reads the leading bits.
__device__ inline uint32_t tf32_rest(float x, uint32_t big) { return as_bits(x - as_float(big)); }

#ifdef FASTSEG_CUDA_HOST
namespace host_mma {

inline float tf32_at(uint32_t bits, int) { return float_of(bits & 0xffffe000u); }
inline float half_at(uint32_t bits, int i) { return fastseg::to_compute(Half{uint16_t(bits >> 16 * i)}); }
inline float bfloat16_at(uint32_t bits, int i) { return fastseg::to_compute(BFloat16{uint16_t(bits >> 16 * i)}); }

inline float cut(double sum) {
  const float nearest = float(sum);
  return std::fabs(double(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.f) : nearest;
}

// `packed` numbers lie in a register.
template <int packed>
void multiply(float (&d)[4], const Fragment& a, uint32_t b0, uint32_t b1, float (*at)(uint32_t, int), host::Site site) {
  const uint64_t low = uint64_t{a.at[1]} << 32 | a.at[0], high = uint64_t{a.at[3]} << 32 | a.at[2], b = uint64_t{b1} << 32 | b0;
  const host::Parcel* lanes = host::machine.exchange(kAllLanes, {{low, high, b}}, site);
  const int g = host::machine.lane() / 4, t = host::machine.lane() % 4;
  for (int i = 0; i < 4; ++i) {
    double sum = double(d[i]);
    for (int k = 0; k < 8 * packed; ++k) {
      const int second = k / (4 * packed), from = k % (4 * packed) / packed, part = k % packed;
      const uint64_t a_words = lanes[4 * g + from].words[second], b_words = lanes[4 * (2 * t + i % 2) + from].words[2];
      sum += double(at(uint32_t(a_words >> 32 * (i / 2)), part)) * double(at(uint32_t(b_words >> 32 * second), part));
    }
    d[i] = cut(sum);
  }
}

}  // namespace host_mma
#define FASTSEG_MMA(packed, at) host_mma::multiply<packed>(d, a, b0, b1, host_mma::at, {__FILE__, __LINE__})
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define FASTSEG_MMA_PTX(shape, type)                                                                                             \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                                  \
               : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b0), "r"(b1))
#endif

// d += a · b, TF32, depth 8
__device__ inline void mma_tf32(float (&d)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
#ifdef FASTSEG_CUDA_HOST
  FASTSEG_MMA(1, tf32_at);
#elif defined(FASTSEG_MMA_PTX)
  FASTSEG_MMA_PTX("m16n8k8", "tf32");
#endif
}

// d += a · b, numbers of 16 bits, depth 16
__device__ inline void mma_16(float (&d)[4], const Fragment& a, uint32_t b0, uint32_t b1, BFloat16) {
#ifdef FASTSEG_CUDA_HOST
  FASTSEG_MMA(2, bfloat16_at);
#elif defined(FASTSEG_MMA_PTX)
  FASTSEG_MMA_PTX("m16n8k16", "bf16");
#endif
}
__device__ inline void mma_16(float (&d)[4], const Fragment& a, uint32_t b0, uint32_t b1, Half) {
#ifdef FASTSEG_CUDA_HOST
  FASTSEG_MMA(2, half_at);
#elif defined(FASTSEG_MMA_PTX)
  FASTSEG_MMA_PTX("m16n8k16", "f16");
#endif
}
#undef FASTSEG_MMA
#undef FASTSEG_MMA_PTX

}  // namespace fastseg::cuda
