// Truncated real DFT over the last one, two or three axes, and its mirror image; the meaning is that of cpu/transform.cpp.
//   analysis:  X[k] = Σ x[n]·e^(−2πi·k·n/N) per axis, k kept only      synthesis: the conjugate sum, real part on the last axis
// A block takes one plane: it sums the plane over H on the way from device memory (x is read once), then over W in shared memory; only
// kept modes leave the block. D is a third product over those. Planes too wide for shared memory, or too few to fill the device, go
// through W-long sums in device memory instead, in tiles of columns and of rows.
#include <algorithm>
#include <climits>

#include "block/block.h"
#include "planes.h"
#include "tensor/transform.h"
#include "tiles.h"
#include "whole/whole.h"

namespace fastseg::cuda {
namespace {

constexpr int64_t kManyPlanes = 96;       // enough for more than one on a multiprocessor
constexpr int64_t kFewPlanes = 64;        // too few for one block each …
constexpr int64_t kLargePlane = 1 << 18;  // … when a block has so much to do
constexpr int kStepsWorth = 4;            // steps a group of threads must sum to be worth adding its sums to the others'

bool is_deep(const Transform& t) { return t.d.size > 1; }
bool is_lines(const Transform& t) { return t.h.size == 1; }
bool too_few(const Transform& t, int64_t planes) { return planes < kFewPlanes && t.h.size * t.w.size >= kLargePlane; }

// Whether tensor cores take a transform over H and W.
bool tensor_analysis(const Transform& t, int64_t planes) { return !too_few(t, planes) && tensor::serves_analysis(t); }
bool tensor_synthesis(const Transform& t, int64_t planes) { return !too_few(t, planes) && tensor::serves_synthesis(t, planes); }

int64_t plane_spectrum_floats(const Transform& t) { return t.h.kept() * t.w.kept() * 2; }
int64_t spectra_floats(const Transform& t, int64_t planes) {  // of all planes, and what follows them is packs
  return is_deep(t) ? round_up(planes * plane_spectrum_floats(t), kColumns) : 0;
}
int64_t row_stride(const Transform& t) { return round_up(t.w.size, kColumns) + kColumns; }  // rows fall on different banks

// The frequencies of an axis in as few passes over x as registers allow.
struct Passes {
  int count, pairs;
  Passes(const Axis& axis, bool wide) {
    const int64_t all = axis.distinct() - 1, most = max_pairs(all, wide);
    count = int(all > most ? ceil_div(all, most) : 1);
    pairs = int(all > 4 ? round_up(ceil_div(all, count), 4) : 4);
  }
};

size_t sums_bytes(const Transform& t) { return size_t(stage_rows(t.h) * row_stride(t)) * sizeof(float); }
size_t synthesis_shared_bytes(const Transform& t) { return sums_bytes(t) + size_t(t.h.distinct() * t.w.positive) * sizeof(Coefficients); }

bool analysis_fuses(const Transform& t, int64_t planes) {
  const int64_t threads = ColumnPlace<kSumColumns, false>::lanes(t.w.size) * Passes(t.h, false).count;
  return !is_lines(t) && !too_few(t, planes) && sums_bytes(t) <= shared_limit() && threads <= kPlaneThreads;
}
bool synthesis_fuses(const Transform& t, int64_t planes) {
  return !is_lines(t) && !too_few(t, planes) && synthesis_shared_bytes(t) <= shared_limit();
}

// Scratch of a transform: spectra of planes where there is a D axis, then the sums between H and W where they do not stay in a block.
struct Scratch {
  float *planes, *sums;
  Scratch(const TransformParams& p, bool fused) {
    const bool missing = !p.planes && (is_deep(p.t) || !(fused || is_lines(p.t)));
    if (missing) throw Error("transform: no scratch");
    planes = static_cast<float*>(p.planes);
    sums = planes + spectra_floats(p.t, p.images * p.t.d.size);
  }
};

// run(std::bool_constant): whether rows of `columns` numbers from data on are whole packs of n.
template <int n, class S, class Run>
void by_packs(const S* data, int64_t columns, Run&& run) {
  packs_align<n>(data, columns) ? run(std::true_type{}) : run(std::false_type{});
}

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

int64_t column_tiles(int64_t columns) { return ceil_div(columns, kTileColumns); }
int column_chunks(const Axis& axis) { return int(axis.distinct() > 1 ? ceil_div(axis.distinct() - 1, kTilePairs) : 1); }
int sample_parts(const Axis& axis) { return int(ceil_div(folded_rows(axis.size), kTileGroups * kSamples)); }
constexpr size_t kSumsBytes = (1 + 2 * kTilePairs) * kTileColumns * sizeof(float);
constexpr size_t kStageBytes = kTileStage * 2 * kTileColumns * sizeof(float);
constexpr size_t kFoldBytes = kTilePairs * 4 * kTileSamples * sizeof(float);
constexpr size_t kCoefficientBytes = kTilePairs * kTileModes * sizeof(Coefficients);

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

// run(S{}) for the storage type S of a transform that has something to do.
template <class Run>
void by_storage(const TransformParams& p, Run&& run) {
  for (const Axis* axis : {&p.t.d, &p.t.h, &p.t.w})
    if (axis->size > INT_MAX / 4) throw Error("transform: an axis of " + std::to_string(axis->size) + " samples");
  if (p.images == 0) return;
  switch (p.dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat16:
      return run(Half{});
    case DType::kBFloat16:
      return run(BFloat16{});
    default:
      throw Error("transform: dtype code " + std::to_string(int(p.dtype)) + " has no CUDA kernel");
  }
}

}  // namespace

void analysis(const TransformParams& p) {
  by_storage(p, [&](auto storage) { analysis_of<decltype(storage)>(p); });
}

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
