// Compositions of the CPU kernels that Python calls as one: on small tensors three calls from Python cost more than the arithmetic, on
// large ones a few samples at a time stay near a cache from one kernel to the next.
#pragma once

#include "../ops.h"

namespace fastseg {

using Address = char*;

// A whole spectral convolution.
struct Convolution {
  Transform analysis, synthesis;
  int64_t groups, inputs, outputs, modes;  // channels of one group
  DType dtype;

  int64_t points() const { return analysis.d.size * analysis.h.size * analysis.w.size; }
  bool is_double() const { return dtype == DType::kFloat64; }
  int64_t stored() const { return is_double() ? 8 : dtype == DType::kFloat32 ? 4 : 2; }  // bytes of a number
};

// What a convolution reads and writes. Without a skip weight it is no block; the bias may be null, and where `spectrum` is, that of x is not
// kept.
struct Convolved {
  Address x, weight, skip, bias, spectrum, y;
};

// y = synthesis(weight · analysis(x)) + bias
void convolve(const Convolution& c, const Convolved& tensors, int64_t batch, int threads);

// y = gelu(convolution + skip · x)
void convolve_block(const Convolution& c, const Convolved& tensors, int64_t batch, int threads);

// What a block's backward reads, and writes: the gradients of x, of what the synthesis read and, a row a chunk of samples, of the skip.
// Those of x and of the skip may be null.
struct BlockGradients {
  Address x, weight, skip, bias, spectrum, gradient, dx, grad_mixed, dskip;
};

// `adjoint`: the convolution's with the tables of its backward.
void convolve_block_backward(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, int64_t batch, int threads);
int64_t convolve_block_chunks(const Convolution& c, int64_t batch);

}  // namespace fastseg
