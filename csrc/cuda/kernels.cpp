// The table of the CUDA kernels.
#include "../ops.h"

namespace fastseg {

const Kernels& cuda_kernels() {
  static constexpr Kernels kTable = {
      "cuda", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
  };
  return kTable;
}

}  // namespace fastseg
