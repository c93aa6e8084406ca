// Analysis and synthesis of spectra with every bin by FFT, a volume or some planes in each block.
#pragma once

#include "../rows.h"

namespace fastseg::cuda {

// Whether the FFT serves a transform on the current device.
bool whole_serves(const Transform& t);

inline Transform planes_of(Transform t) {
  t.d = {};
  t.d.size = t.d.positive = 1;
  return t;
}

// x → out and in → y for `images` images of `dtype`, whose pairs of samples are aligned.
void analyse_whole(const void* x, DType dtype, const Spectrum& out, const Transform& t, int64_t images, void* stream);
void synthesise_whole(const Spectrum& in, void* y, DType dtype, const Bias& bias, const Transform& t, int64_t images, void* stream);

}  // namespace fastseg::cuda
