#include "convolution.h"

namespace fastseg {

void Stages::analysis(const Transform& t, const Transformed& at, int64_t images, DType dtype) const {
  kernels.analysis({.t = t,
                    .real = at.real,
                    .spectrum = at.spectrum,
                    .planes = at.planes,
                    .bias = nullptr,
                    .images = images,
                    .channels = 1,
                    .dtype = dtype,
                    .planar = false,
                    .lane = lane});
}

void Stages::synthesis(const Transform& t, const Transformed& at, int64_t images, int64_t channels, DType dtype) const {
  kernels.synthesis({.t = t,
                     .real = at.real,
                     .spectrum = at.spectrum,
                     .planes = at.planes,
                     .bias = at.bias,
                     .images = images,
                     .channels = channels,
                     .dtype = dtype,
                     .planar = false,
                     .lane = lane});
}

void Stages::mix(Address spectrum, Address weight, Address out, int64_t batch, bool transposed) const {
  const int64_t m = c.modes, weight_row = c.groups * c.outputs * m;
  const int64_t from = transposed ? c.outputs : c.inputs, to = transposed ? c.inputs : c.outputs;
  kernels.mix({.a = spectrum,
               .b = weight,
               .out = out,
               .groups = c.groups,
               .p = batch,
               .q = to,
               .r = from,
               .modes = m,
               .a_group = from * m,
               .a_p = c.groups * from * m,
               .a_r = m,
               .b_group = c.outputs * m,
               .b_r = transposed ? m : weight_row,
               .b_q = transposed ? weight_row : m,
               .out_group = to * m,
               .out_p = c.groups * to * m,
               .out_q = m,
               .conj_a = false,
               .conj_b = transposed,
               .is_double = c.is_double(),
               .lane = lane});
}

PointwiseParams Stages::skip_product(Address skip, int64_t samples, Epilogue epilogue) const {
  PointwiseParams p{};
  p.weight = skip, p.batch = samples, p.groups = c.groups, p.outputs = c.outputs, p.inputs = c.inputs, p.points = c.points();
  p.epilogue = epilogue, p.in_dtype = p.out_dtype = c.dtype, p.lane = lane;
  return p;
}

}  // namespace fastseg
