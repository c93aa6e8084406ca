// The table of one instruction set.
#include "../ops.h"

#ifndef FASTSEG_ISA
#error "compile with FASTSEG_ISA (a namespace)"
#endif
#define FASTSEG_TEXT_(x) #x
#define FASTSEG_TEXT(x) FASTSEG_TEXT_(x)

namespace fastseg::FASTSEG_ISA {

void analysis(const TransformParams&);
void synthesis(const TransformParams&);
void mix(const MixParams&);
void pointwise(const PointwiseParams&);
void affine_relu(const AffineReluParams&);
void gaussian(const GaussianParams&);
void taps_gradient(const TapsGradientParams&);
void gate(const GateParams&);
void gate_backward(const GateBackwardParams&);
void spectral_filter(const FilterParams&);

extern const Kernels kernels;
// constant: read by the static table of csrc/cpu/dispatch.cpp before any constructor runs
constexpr Kernels kTable = {
    FASTSEG_TEXT(FASTSEG_ISA), analysis, synthesis, mix, pointwise, affine_relu, gaussian, taps_gradient, gate, gate_backward,
    spectral_filter,
};
const Kernels kernels = kTable;

}  // namespace fastseg::FASTSEG_ISA
