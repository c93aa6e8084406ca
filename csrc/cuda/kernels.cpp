// The table of the CUDA kernels.
#include "../ops.h"

namespace fastseg {
namespace cuda {

void pointwise(const PointwiseParams&);
void affine_relu(const AffineReluParams&);
void gaussian(const GaussianParams&);
void taps_gradient(const TapsGradientParams&);
void gate(const GateParams&);
void gate_backward(const GateBackwardParams&);

}  // namespace cuda

const Kernels& cuda_kernels() {
  static constexpr Kernels kTable = {
      "cuda",          nullptr,
      nullptr,         nullptr,
      cuda::pointwise, cuda::affine_relu,
      cuda::gaussian,  cuda::taps_gradient,
      cuda::gate,      cuda::gate_backward,
  };
  return kTable;
}

}  // namespace fastseg
