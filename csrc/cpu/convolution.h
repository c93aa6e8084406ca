// Whole convolutions and blocks on a CPU; on large tensors a few samples at a time stay near a cache from one kernel to the next.
#pragma once

#include "../convolution.h"

namespace fastseg {

// y = synthesis(weight · analysis(x)) + bias
void cpu_convolve(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane);

// y = gelu(convolution + skip · x)
void cpu_convolve_block(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane);

// What a block's backward reads, and writes: the gradients of x, of what the synthesis read and, a row a chunk of samples, of the skip.
// Those of x and of the skip may be null.
struct BlockGradients {
  Address x, weight, skip, bias, spectrum, gradient, dx, grad_mixed, dskip;
};

// `adjoint`: the convolution's with the tables of its backward.
void convolve_block_backward(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, int64_t batch, Lane lane);
int64_t convolve_block_chunks(const Convolution& c, int64_t batch);

}  // namespace fastseg
