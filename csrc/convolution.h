// Whole spectral convolutions out of the kernels of a table, that Python calls as one: on small tensors three calls from Python cost more
// than the arithmetic. What they share on every processor; `cpu/convolution.h` and `cuda/convolution.h` compose it.
#pragma once

#include "ops.h"

namespace fastseg {

using Address = char*;

// A whole spectral convolution.
struct Convolution {
  Transform analysis, synthesis;
  int64_t groups, inputs, outputs, modes;  // channels of one group
  DType dtype;

  int64_t points() const { return analysis.d.size * analysis.h.size * analysis.w.size; }
  bool is_double() const { return dtype == DType::kFloat64; }
  DType wide() const { return is_double() ? DType::kFloat64 : DType::kFloat32; }         // that of spectra and weights
  int64_t stored() const { return is_double() ? 8 : dtype == DType::kFloat32 ? 4 : 2; }  // bytes of a number
};

// What a convolution reads and writes. Without a skip weight it is no block; the bias may be null, and where `spectrum` is, that of x is
// not kept. `workspace`: on CUDA what `cuda_workspace` says, on a CPU null.
struct Convolved {
  Address x, weight, skip, bias, spectrum, y, workspace;
};

// Where a transform reads and writes; `planes` and `bias` as in TransformParams.
struct Transformed {
  Address real, spectrum, planes, bias;
};

// The kernels of a convolution, on memory that the caller has.
struct Stages {
  const Kernels& kernels;
  const Convolution& c;
  Lane lane;

  void analysis(const Transform& t, const Transformed& at, int64_t images, DType dtype) const;
  void synthesis(const Transform& t, const Transformed& at, int64_t images, int64_t channels, DType dtype) const;
  // out = spectrum · weight, what a synthesis reads; transposed: from its gradient, with conjugate weights, that of the kept spectrum.
  void mix(Address spectrum, Address weight, Address out, int64_t batch, bool transposed = false) const;
  // The product of the skip over some samples, without addresses but the skip's.
  PointwiseParams skip_product(Address skip, int64_t samples, Epilogue epilogue) const;
};

}  // namespace fastseg
