// Analysis of planes by tensor cores.
#include "fragments.h"
#include "transform.h"

namespace fastseg::cuda::tensor {

bool serves_analysis(const Transform&, int64_t) { return false; }
void analyse_planes(const TransformParams&, const Spectrum&) {}

}  // namespace fastseg::cuda::tensor
