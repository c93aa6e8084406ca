// The table of the CUDA kernels.
#include "../ops.h"

namespace fastseg {
namespace cuda {

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

}  // namespace cuda

const Kernels& cuda_kernels() {
  using namespace cuda;
  static constexpr Kernels kTable = {
      "cuda", analysis, synthesis, mix, pointwise, affine_relu, gaussian, taps_gradient, gate, gate_backward, spectral_filter,
  };
  return kTable;
}

}  // namespace fastseg
