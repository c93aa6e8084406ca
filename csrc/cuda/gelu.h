// The exact GELU, z·Φ(z), and what its derivative is made of.
#pragma once

#include "intrinsics.h"

namespace fastseg::cuda {

// 2^x and 1/x to two units in the last place or so, an instruction each.
#ifdef FASTSEG_CUDA_HOST
inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_reciprocal(float x) { return 1 / x; }
#else
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// z·Φ(z) = max(z, 0) − s·Q(s), s = |z|, the upper tail Q(s) = e^(−s²/2)·P(s)/D(s) fitted to relative 6e-8 over s in [0, 6], as on the CPU
// (cpu/vector/gelu.h); a third of the instructions of erfcf. Beyond 12 all is below 1e-31. The comparison keeps NaN.
__device__ inline float gelu(float z) {
  const float magnitude = fabsf(z), s = magnitude > 12.f ? 12.f : magnitude;
  const float p = ((0.398702174f * s + 3.05568428f) * s + 9.78577909f) * s + 14.6230073f;
  const float d = (((s + 7.64330387f) * s + 25.7237148f) * s + 42.906395f) * s + 29.2460155f;
  return fmaxf(z, 0.f) - s * p * fast_reciprocal(d) * fast_exp2(s * s * -0.72134752f);
}

__device__ inline float normal_cdf(float z) { return 0.5f * erfcf(z * -0.70710678118654752f); }
__device__ inline float normal_density(float z) { return 0.39894228040143268f * expf(-0.5f * z * z); }

}  // namespace fastseg::cuda
