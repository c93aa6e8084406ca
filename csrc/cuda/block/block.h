// The last step of an FNO block: y = gelu(synthesis along H + skip · x + bias), where x is read once and y is written once.
#pragma once

#include "../../ops.h"

namespace fastseg::cuda {

struct BlockParams {
  const void* x;      // [batch, groups·inputs, depth, H, width] dtype; rows of it, of `rows` and of y are whole packs of four
  const float* rows;  // [batch, groups·outputs, depth, 2K−1, width]: what the synthesis along H reads, cosine rows, then sine rows
  const float* skip;  // [groups·outputs, inputs]
  const float* bias;  // [groups·outputs], or null
  void* y;            // [batch, groups·outputs, depth, H, width] dtype
  Axis h;             // of the synthesis
  int64_t batch, groups, inputs, outputs, depth, width;
  DType dtype;
  void* stream;
};

// In ../transform/transform_synthesis.cu: what a synthesis along H reads, in p.planes, which has room for `rows_scratch` floats; nothing is
// written to p.real.
const float* synthesise_to_rows(const TransformParams& p);
int64_t rows_scratch(const Transform& t, int64_t images);

// Whether the kernel serves a block, and beats a synthesis with a 1×1 convolution behind it.
bool block_fuses(const Transform& synthesis, int64_t outputs);  // of one group

void block(const BlockParams& p);

}  // namespace fastseg::cuda
