// Synthesis of planes by tensor cores.
#include "transform.h"

namespace fastseg::cuda::tensor {

bool serves_synthesis(const Transform&, int64_t) { return false; }
void synthesise_planes(const TransformParams&, const Spectrum&) { throw Error("transform: no kernel"); }

}  // namespace fastseg::cuda::tensor
