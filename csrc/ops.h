// The native API: one Params struct a kernel. Pointers are to contiguous memory and validated by the caller.
#pragma once

#include "common.h"

namespace fastseg {

// One axis of a truncated transform. Kept frequencies are 0 … positive−1, then −negative … −1; with K = max(positive, negative + 1)
// distinct |k|, the even half of the samples (n = 0 … N/2) meets K cosine rows, the odd half (n = 1 … ⌈N/2⌉−1) meets K−1 sine rows.
struct Axis {
  const void* cos;  // outer axes: analysis [even, K], synthesis [K, even]; last axis: analysis [even, padded], synthesis [K, padded]
  const void* sin;  // outer axes: analysis [odd, K−1], synthesis [K−1, odd]; last axis: analysis [odd, padded], synthesis [K, padded]
  int64_t size;
  int64_t positive;
  int64_t negative;
  int64_t padded;  // last axis only: row length of the tables, a multiple of 16

  int64_t kept() const { return positive + negative; }
  int64_t distinct() const { return positive > negative + 1 ? positive : negative + 1; }
  int64_t even() const { return size / 2 + 1; }
  int64_t odd() const { return (size - 1) / 2; }
};

struct Transform {
  Axis d, h, w;
};

struct TransformParams {
  Transform t;
  void* real;        // [images, D, H, W]         `dtype`: read by analysis, written by synthesis
  void* spectrum;    // [images, MD, MH, MW, 2]   float32 (float64 for float64): written by analysis, read by synthesis
  void* planes;      // [images, D, MH, MW, 2]    scratch like spectrum, used when D > 1
  const void* bias;  // [channels] like spectrum, or null: added by synthesis
  int64_t images, channels;
  DType dtype;
  int threads;
};

// out[p, q, m] (+)= Σ_r op(a[p, r, m]) · op(b[r, q, m]) for every mode m, per group; op is the identity or the conjugate.
struct MixParams {
  const void* a;
  const void* b;
  void* out;
  int64_t groups, p, q, r, modes;                                         // extents; modes are contiguous complex numbers
  int64_t a_group, a_p, a_r, b_group, b_r, b_q, out_group, out_p, out_q;  // strides in complex numbers
  bool conj_a, conj_b;
  bool is_double;
  int threads;
};

struct CpuKernels {
  const char* name;
  void (*analysis)(const TransformParams&);
  void (*synthesis)(const TransformParams&);
  void (*mix)(const MixParams&);
};

// The widest set this processor runs, or the one FASTSEG_CPU_ISA names (Error when it cannot run here).
const CpuKernels& cpu_kernels();
// Names of the sets built in, widest first, separated by spaces.
const char* cpu_kernels_built();

}  // namespace fastseg
