// Transforms of planes by tensor cores: what they serve, which is asked before any other kernel, and the way to them.
#pragma once

#include "../../ops.h"
#include "../rows.h"

namespace fastseg::cuda::tensor {

// Whether a transform over H and W (and D) takes them; its `planes` holds no more than spectra of planes then.
bool serves_analysis(const Transform& t);
bool serves_synthesis(const Transform& t, int64_t planes);

// p.real → `out`, over H and W.
void analyse_planes(const TransformParams& p, const Spectrum& out);

// The D axis of an analysis, from the spectra of planes: whether tensor cores take it, and the way to them.
bool serves_depth_analysis(const Transform& t);
void analyse_depth(const TransformParams& p, const float* planes, const Spectrum& out);

// `in` → p.real, over H and W, with p.bias.
void synthesise_planes(const TransformParams& p, const Spectrum& in);

}  // namespace fastseg::cuda::tensor
