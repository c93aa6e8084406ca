// Truncated real DFT over the last one, two or three axes, and its mirror image; the meaning is that of cpu/transform.cpp.
//   analysis:  X[k] = Σ x[n]·e^(−2πi·k·n/N) per axis, k kept only      synthesis: the conjugate sum, real part on the last axis
// A block takes one plane: it sums the plane over H on the way from device memory (x is read once), then over W in shared memory; only
// kept modes leave the block. D is a third product over those. Planes too wide for shared memory, or too few to fill the device, go
// through W-long sums in device memory instead, in tiles of columns and of rows.
#include <climits>

#include "block/block.h"
#include "planes.h"
#include "tiles.h"

namespace fastseg::cuda {
namespace {

constexpr int64_t kManyPlanes = 512;      // enough of them to have several on every multiprocessor
constexpr int64_t kFewPlanes = 64;        // too few for one block each …
constexpr int64_t kLargePlane = 1 << 18;  // … when a block has so much to do
constexpr int kStepsWorth = 4;            // rows a group of threads must sum to be worth adding its sums to the others'

bool is_deep(const Transform& t) { return t.d.size > 1; }
bool is_lines(const Transform& t) { return t.h.size == 1; }
bool too_few(const Transform& t, int64_t planes) { return planes < kFewPlanes && t.h.size * t.w.size >= kLargePlane; }

int64_t plane_spectrum_floats(const Transform& t) { return t.h.kept() * t.w.kept() * 2; }
int64_t spectra_floats(const Transform& t, int64_t planes) {  // of all planes, and what follows them is packs
  return is_deep(t) ? round_up(planes * plane_spectrum_floats(t), kColumns) : 0;
}
int64_t row_stride(const Transform& t) { return round_up(t.w.size, kColumns) + kColumns; }  // rows of a product fall on different banks

// The frequencies of an axis in as few passes over x as registers allow.
struct Passes {
  int count, pairs;
  explicit Passes(const Axis& axis) {
    const int64_t all = axis.distinct() - 1;
    count = int(all > kMaxPairs ? ceil_div(all, kMaxPairs) : 1);
    pairs = int(all > 4 ? round_up(ceil_div(all, count), 4) : 4);
  }
};

size_t analysis_shared_bytes(const Transform& t) { return size_t(stage_rows(t.h) * row_stride(t)) * sizeof(float); }
size_t synthesis_shared_bytes(const Transform& t) {
  return analysis_shared_bytes(t) + size_t(t.h.distinct() * t.w.positive) * sizeof(Coefficients);
}

bool analysis_fuses(const Transform& t, int64_t planes) {
  const Passes passes(t.h);
  return !is_lines(t) && !too_few(t, planes) && analysis_shared_bytes(t) <= shared_limit() &&
         ceil_div(t.w.size, kColumns) * passes.count <= kAnalysisThreads;
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

template <class S>
bool packs_fit(const S* data, int64_t columns) {
  return packs_align<kColumns>(data, columns);
}

PlaneTiling plane_tiling(const Transform& t, int64_t planes, bool wide) {
  const Passes passes(t.h);
  const int quads = int(ceil_div(t.w.size, kColumns)), units = quads * passes.count;
  const int64_t wanted = planes < kManyPlanes ? kAnalysisThreads : kAnalysisThreads / 2;
  const int64_t worth = ceil_div(t.h.even(), kStepsWorth), room = wanted / units;
  return {quads, passes.count, int(room < 1 ? 1 : room < worth ? room : worth), int(row_stride(t)), 1, wide};
}

template <int kPairs, class S>
void launch_planes(const S* x, const Spectrum& out, const Transform& t, PlaneTiling tiling, int64_t planes, void* stream) {
  const int64_t busy = round_up(int64_t{tiling.quads} * tiling.chunks * tiling.groups, kWarp),
                threads = busy < kMinThreads ? kMinThreads : busy;
  const int64_t products = t.h.distinct() * ceil_div(t.w.positive, kModes);
  while (tiling.splits < kWarp && products * tiling.splits * 2 <= threads) tiling.splits *= 2;
  launch(analyse_planes<kPairs, S>, grid_of(planes), dim3(unsigned(threads)), analysis_shared_bytes(t), stream, x, out, t.h, t.w, tiling);
}

template <class S>
void analyse_whole_planes(const S* x, const Spectrum& out, const Transform& t, int64_t planes, void* stream) {
  const PlaneTiling tiling = plane_tiling(t, planes, packs_fit(x, t.w.size));
  switch (Passes(t.h).pairs) {
    case 4:
      return launch_planes<4>(x, out, t, tiling, planes, stream);
    case 8:
      return launch_planes<8>(x, out, t, tiling, planes, stream);
    case 12:
      return launch_planes<12>(x, out, t, tiling, planes, stream);
    default:
      return launch_planes<16>(x, out, t, tiling, planes, stream);
  }
}

int64_t column_tiles(int64_t columns) { return ceil_div(columns, kTileColumns); }
int column_chunks(const Axis& axis) { return int(axis.distinct() > 1 ? ceil_div(axis.distinct() - 1, kTilePairs) : 1); }
int sample_parts(const Axis& axis) { return int(ceil_div(axis.even(), kTileGroups * kSamples)); }
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
  launch(analyse_columns<S>, grid_of(planes * column_tiles(t.w.size) * chunks), dim3(kTileThreads), kSumsBytes, stream, x, sums, t.h,
         t.w.size, chunks, packs_fit(x, t.w.size));
  launch_rows<float>(sums, out, t, planes, stream);
}

template <class S>
void analysis_of(const TransformParams& p) {
  const Transform& t = p.t;
  const int64_t planes = p.images * t.d.size, plane_modes = t.h.kept() * t.w.kept();
  const bool fused = analysis_fuses(t, planes);
  const Scratch scratch(p, fused);
  const Spectrum whole = {static_cast<float*>(p.spectrum), t.d.kept() * plane_modes, p.planar};
  const Spectrum out = is_deep(t) ? Spectrum{scratch.planes, plane_modes, false} : whole;
  const S* x = static_cast<const S*>(p.real);
  if (is_lines(t))
    launch_rows(x, out, t, planes, p.lane.stream);
  else if (fused)
    analyse_whole_planes(x, out, t, planes, p.lane.stream);
  else
    analyse_plane_tiles(x, scratch.sums, out, t, planes, p.lane.stream);
  if (!is_deep(t)) return;
  const int64_t columns = 2 * plane_modes;
  const int chunks = column_chunks(t.d);
  launch(analyse_depth, grid_of(p.images * column_tiles(columns) * chunks), dim3(kTileThreads), kSumsBytes, p.lane.stream,
         static_cast<const float*>(scratch.planes), whole, t.d, columns, chunks, packs_fit(scratch.planes, columns));
}

template <class S>
void launch_rows_back(const Spectrum& in, S* y, const Bias& bias, const Transform& t, int64_t planes, void* stream) {
  const int64_t blocks = ceil_div(planes * t.h.distinct(), kTilePairs) * ceil_div(t.w.even(), kTileQuads * kModes);
  launch(synthesise_rows<S>, grid_of(blocks), dim3(kTileThreads), kCoefficientBytes, stream, in, y, bias, t.h, t.w, planes);
}

template <class Rows, class S>
void launch_columns_back(const Rows& rows, S* y, const Bias& bias, const Axis& axis, int64_t columns, int64_t outer, void* stream) {
  const int parts = sample_parts(axis);
  launch(synthesise_columns<Rows, S>, grid_of(outer * column_tiles(columns) * parts), dim3(kTileThreads), kStageBytes, stream, rows, y,
         bias, axis, columns, parts, packs_fit(y, columns));
}

template <class S>
void synthesise_whole_planes(const Spectrum& in, S* y, const Bias& bias, const Transform& t, int64_t planes, void* stream) {
  const int64_t tasks = round_up(ceil_div(t.w.size, kColumns) * ceil_div(t.h.even(), kSamples), kWarp);
  const int64_t threads = tasks < kMinThreads ? kMinThreads : tasks < kSynthesisThreads ? tasks : kSynthesisThreads;
  launch(synthesise_planes<S>, grid_of(planes), dim3(unsigned(threads)), synthesis_shared_bytes(t), stream, in, y, bias, t.h, t.w,
         int(row_stride(t)), packs_fit(y, t.w.size));
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
  const bool fused = synthesis_fuses(t, planes);
  const Scratch scratch(p, fused);
  const Bias none = {nullptr, 1, 1}, bias = {static_cast<const float*>(p.bias), p.channels, t.d.size};
  S* y = static_cast<S*>(p.real);
  void* stream = p.lane.stream;
  const Spectrum in = synthesise_depth(p, scratch);
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
  const int64_t planes = images * t.d.size;
  const bool fused = synthesis ? synthesis_fuses(t, planes) : analysis_fuses(t, planes);
  return spectra_floats(t, planes) + (fused || is_lines(t) ? 0 : planes * stage_rows(t.h) * t.w.size);
}

}  // namespace fastseg
