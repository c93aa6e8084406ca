// The table of the CUDA kernels.
#include "../ops.h"

namespace fastseg {
namespace cuda {

void pointwise(const PointwiseParams&);
void affine_relu(const AffineReluParams&);

}  // namespace cuda

const Kernels& cuda_kernels() {
  static constexpr Kernels kTable = {
      "cuda", nullptr, nullptr, nullptr, cuda::pointwise, cuda::affine_relu, nullptr, nullptr, nullptr, nullptr,
  };
  return kTable;
}

}  // namespace fastseg
