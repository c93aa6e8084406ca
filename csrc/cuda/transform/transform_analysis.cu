// Truncated real DFT over the last one, two or three axes, and its mirror image; the meaning is that of cpu/transform.cpp.
//   analysis:  X[k] = Σ x[n]·e^(−2πi·k·n/N) per axis, k kept only      synthesis: the conjugate sum, real part on the last axis
// A block takes one plane: it sums the plane over H on the way from device memory (x is read once), then over W in shared memory; only
// kept modes leave the block. D is a third product over those. Planes too wide for shared memory, or too few to fill the device, go
// through W-long sums in device memory instead, in tiles of columns and of rows.
#include "choice.h"

namespace fastseg::cuda {
namespace {

constexpr int kStepsWorth = 4;  // steps a group of threads must sum to be worth adding its sums to the others'
constexpr size_t kSumsBytes = (1 + 2 * kTilePairs) * kTileColumns * sizeof(float);
constexpr size_t kFoldBytes = kTilePairs * 4 * kTileSamples * sizeof(float);

int column_chunks(const Axis& axis) { return int(axis.distinct() > 1 ? ceil_div(axis.distinct() - 1, kTilePairs) : 1); }

// As many groups of rows as keep most threads of a multiprocessor busy; in two blocks rather than in one, where there are planes for that,
// so that one sums over H while the other sums over W.
PlaneTiling plane_tiling(const Transform& t, int64_t planes, int64_t lanes, bool wide) {
  const Passes passes(t.h, wide);
  const int units = int(lanes) * passes.count;
  PlaneTiling best = {int(lanes), passes.count, 1, int(row_stride(t)), 1};
  int most_busy = 0, best_blocks = 0;
  for (int groups = 1; groups * units <= kPlaneThreads && (groups - 1) * kStepsWorth < folded_rows(t.h.size); ++groups) {
    int blocks = device().resident(int(round_up(groups * units, kWarp)), kPlaneRegisters, sums_bytes(t));
    if (planes < kManyPlanes) blocks = 1;
    if (blocks < 2 && best_blocks >= 2) break;
    if (blocks * groups * units > most_busy) most_busy = blocks * groups * units, best_blocks = blocks, best.groups = groups;
  }
  return best;
}

template <int kPairs, bool kWide, class S>
void launch_planes(const S* x, const Spectrum& out, const Transform& t, int64_t planes, void* stream) {
  PlaneTiling tiling = plane_tiling(t, planes, ColumnPlace<kSumColumns, kWide>::lanes(t.w.size), kWide);
  const int64_t busy = round_up(int64_t{tiling.lanes} * tiling.chunks * tiling.groups, kWarp),
                threads = busy < kMinThreads ? kMinThreads : busy;
  const int64_t products = t.h.distinct() * ceil_div(t.w.positive, kModes);
  while (tiling.splits < kWarp && products * tiling.splits * 2 <= threads) tiling.splits *= 2;
  launch(analyse_planes<kPairs, kWide, S>, grid_of(planes), dim3(unsigned(threads)), sums_bytes(t), stream, x, out, t.h, t.w, tiling);
}

template <class S>
void analyse_whole_planes(const S* x, const Spectrum& out, const Transform& t, int64_t planes, void* stream) {
  by_packs<kSumColumns>(x, t.w.size, [&](auto wide) {
    switch (Passes(t.h, wide.value).pairs) {
      case 4:
        return launch_planes<4, wide.value>(x, out, t, planes, stream);
      case 8:
        return launch_planes<8, wide.value>(x, out, t, planes, stream);
      case 12:
        return launch_planes<12, wide.value>(x, out, t, planes, stream);
      default:
        if constexpr (wide.value) return launch_planes<16, true>(x, out, t, planes, stream);
        throw Error("transform: too many frequencies a pass");
    }
  });
}

template <class S>
void launch_rows(const S* x, const Spectrum& out, const Transform& t, int64_t planes, void* stream) {
  const int64_t blocks = ceil_div(planes * t.h.distinct(), kTilePairs) * ceil_div(t.w.positive, kTileModes);
  launch(analyse_rows<S>, grid_of(blocks), dim3(kTileThreads), kFoldBytes, stream, x, out, t.h, t.w, planes);
}

template <class S>
void analyse_plane_tiles(const S* x, float* sums, const Spectrum& out, const Transform& t, int64_t planes, void* stream) {
  const int chunks = column_chunks(t.h);
  by_packs<kSumColumns>(x, t.w.size, [&](auto wide) {
    launch(analyse_columns<wide.value, S>, grid_of(planes * column_tiles(t.w.size) * chunks), dim3(kTileThreads), kSumsBytes, stream, x,
           sums, t.h, t.w.size, chunks);
  });
  launch_rows<float>(sums, out, t, planes, stream);
}

template <class S>
void analysis_of(const TransformParams& p) {
  const Transform& t = p.t;
  const int64_t planes = p.images * t.d.size, plane_modes = t.h.kept() * t.w.kept();
  const bool whole_planes = whole_serves(planes_of(t)), by_tensor_cores = !whole_planes && tensor_analysis(t, planes),
             fused = whole_planes || by_tensor_cores || analysis_fuses(t, planes);
  const Spectrum whole = {static_cast<float*>(p.spectrum), t.d.kept() * plane_modes, p.planar};
  if (whole_serves(t)) return analyse_whole(p.real, p.dtype, whole, t, p.images, p.lane.stream);
  const Scratch scratch(p, fused);
  const Spectrum out = is_deep(t) ? Spectrum{scratch.planes, plane_modes, false} : whole;
  const S* x = static_cast<const S*>(p.real);
  if (whole_planes)
    analyse_whole(x, p.dtype, out, planes_of(t), planes, p.lane.stream);
  else if (by_tensor_cores)
    tensor::analyse_planes(p, out);
  else if (is_lines(t))
    launch_rows(x, out, t, planes, p.lane.stream);
  else if (fused)
    analyse_whole_planes(x, out, t, planes, p.lane.stream);
  else
    analyse_plane_tiles(x, scratch.sums, out, t, planes, p.lane.stream);
  if (!is_deep(t)) return;
  if (tensor::serves_depth_analysis(t)) return tensor::analyse_depth(p, scratch.planes, whole);
  const int64_t columns = 2 * plane_modes;
  const int chunks = column_chunks(t.d);
  by_packs<kSumColumns>(scratch.planes, columns, [&](auto wide) {
    launch(analyse_depth<wide.value>, grid_of(p.images * column_tiles(columns) * chunks), dim3(kTileThreads), kSumsBytes, p.lane.stream,
           static_cast<const float*>(scratch.planes), whole, t.d, columns, chunks);
  });
}

}  // namespace

void analysis(const TransformParams& p) {
  by_storage(p, [&](auto storage) { analysis_of<decltype(storage)>(p); });
}

}  // namespace fastseg::cuda

namespace fastseg {

int64_t cuda_scratch(const Transform& t, int64_t images, bool synthesis) {
  using namespace cuda;
  if (whole_serves(t)) return 0;
  const int64_t planes = images * t.d.size;
  const bool fused = whole_serves(planes_of(t)) || (synthesis ? tensor_synthesis(t, planes) || synthesis_fuses(t, planes)
                                                              : tensor_analysis(t, planes) || analysis_fuses(t, planes));
  return spectra_floats(t, planes) + (fused || is_lines(t) ? 0 : planes * stage_rows(t.h) * t.w.size);
}

}  // namespace fastseg
