// Whole convolutions and blocks on CUDA: one call from Python, one workspace that it allocates, one stream.
#pragma once

#include "../convolution.h"

namespace fastseg {

// y = synthesis(weight · analysis(x)) + bias
void cuda_convolve(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane);

// y = gelu(convolution + skip · x)
void cuda_convolve_block(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane);

// How many floats the workspace of a convolution (or block) must hold that keeps the spectrum of x, or not.
int64_t cuda_workspace(const Convolution& c, int64_t batch, bool keeps, bool block);

}  // namespace fastseg
