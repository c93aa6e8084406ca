// The mirror image of transform_analysis.cu: spectra to samples, with a bias.
#include <algorithm>

#include "../block/block.h"
#include "choice.h"

namespace fastseg::cuda {
namespace {

constexpr size_t kStageBytes = kTileStage * 2 * kTileColumns * sizeof(float);
constexpr size_t kCoefficientBytes = kTilePairs * kTileModes * sizeof(Coefficients);

int sample_parts(const Axis& axis) { return int(ceil_div(folded_rows(axis.size), kTileGroups * kSamples)); }

template <class S>
void launch_rows_back(const Spectrum& in, S* y, const Bias& bias, const Transform& t, int64_t planes, void* stream) {
  const int64_t blocks = ceil_div(planes * t.h.distinct(), kTilePairs) * ceil_div(t.w.even(), kTileLanes * kModes);
  launch(synthesise_rows<S>, grid_of(blocks), dim3(kTileThreads), kCoefficientBytes, stream, in, y, bias, t.h, t.w, planes);
}

template <class Rows, class S>
void launch_columns_back(const Rows& rows, S* y, const Bias& bias, const Axis& axis, int64_t columns, int64_t outer, void* stream) {
  const int parts = sample_parts(axis);
  by_packs<kColumns>(y, columns, [&](auto wide) {
    launch(synthesise_columns<wide.value, Rows, S>, grid_of(outer * column_tiles(columns) * parts), dim3(kTileThreads), kStageBytes, stream,
           rows, y, bias, axis, columns, parts);
  });
}

template <class S>
void synthesise_whole_planes(const Spectrum& in, S* y, const Bias& bias, const Transform& t, int64_t planes, void* stream) {
  by_packs<kColumns>(y, t.w.size, [&](auto wide) {
    const int64_t lanes = ColumnPlace<kColumns, wide.value>::lanes(t.w.size);
    const int64_t tasks = round_up(lanes * ceil_div(folded_rows(t.h.size), kSamples), kWarp);
    const bool alone = planes < kManyPlanes || device().resident(kPlaneThreads / 2, kPlaneRegisters, synthesis_shared_bytes(t)) < 2;
    const int64_t most = alone ? kPlaneThreads : kPlaneThreads / 2, threads = tasks < kMinThreads ? kMinThreads : std::min(tasks, most);
    launch(synthesise_planes<wide.value, S>, grid_of(planes), dim3(unsigned(threads)), synthesis_shared_bytes(t), stream, in, y, bias, t.h,
           t.w, int(row_stride(t)));
  });
}

// The spectra of planes: what the D axis makes of it, where there is one.
Spectrum synthesise_depth(const TransformParams& p, const Scratch& scratch) {
  const Transform& t = p.t;
  const int64_t plane_modes = t.h.kept() * t.w.kept();
  const Spectrum whole = {static_cast<float*>(p.spectrum), t.d.kept() * plane_modes, p.planar};
  if (!is_deep(t)) return whole;
  launch_columns_back(SpectrumRows{whole, Pairing(t.d, plane_modes)}, scratch.planes, Bias{nullptr, 1, 1}, t.d, 2 * plane_modes, p.images,
                      p.lane.stream);
  return {scratch.planes, plane_modes, false};
}

template <class S>
void synthesis_of(const TransformParams& p) {
  const Transform& t = p.t;
  const int64_t planes = p.images * t.d.size;
  const bool whole_planes = whole_serves(planes_of(t)), by_tensor_cores = !whole_planes && tensor_synthesis(t, planes),
             fused = whole_planes || by_tensor_cores || synthesis_fuses(t, planes);
  const Bias none = {nullptr, 1, 1}, bias = {static_cast<const float*>(p.bias), p.channels, t.d.size};
  S* y = static_cast<S*>(p.real);
  void* stream = p.lane.stream;
  if (whole_serves(t)) {
    const Spectrum spectrum = {static_cast<float*>(p.spectrum), t.d.kept() * t.h.kept() * t.w.kept(), p.planar};
    return synthesise_whole(spectrum, y, p.dtype, {bias.values, bias.channels, 1}, t, p.images, stream);
  }
  const Scratch scratch(p, fused);
  const Spectrum in = synthesise_depth(p, scratch);
  if (whole_planes) return synthesise_whole(in, y, p.dtype, bias, planes_of(t), planes, stream);
  if (by_tensor_cores) return tensor::synthesise_planes(p, in);
  if (is_lines(t)) return launch_rows_back(in, y, bias, t, planes, stream);
  if (fused) return synthesise_whole_planes(in, y, bias, t, planes, stream);
  launch_rows_back(in, scratch.sums, none, t, planes, stream);
  launch_columns_back(StoredRows{scratch.sums, t.w.size, int(t.h.distinct())}, y, bias, t.h, t.w.size, planes, stream);
}

}  // namespace

void synthesis(const TransformParams& p) {
  by_storage(p, [&](auto storage) { synthesis_of<decltype(storage)>(p); });
}

const float* synthesise_to_rows(const TransformParams& p) {
  const Scratch scratch(p, false);
  if (p.images > 0)
    launch_rows_back(synthesise_depth(p, scratch), scratch.sums, Bias{nullptr, 1, 1}, p.t, p.images * p.t.d.size, p.lane.stream);
  return scratch.sums;
}

int64_t rows_scratch(const Transform& t, int64_t images) {
  const int64_t planes = images * t.d.size;
  return spectra_floats(t, planes) + planes * stage_rows(t.h) * t.w.size;
}

}  // namespace fastseg::cuda
