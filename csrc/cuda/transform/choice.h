// What shapes and the device decide of a truncated transform: its kernels, their tiles, and what lies between them.
#pragma once

#include <climits>

#include "../tensor/transform.h"
#include "../whole/whole.h"
#include "planes.h"
#include "tiles.h"

namespace fastseg::cuda {

constexpr int64_t kManyPlanes = 96;       // enough for more than one on a multiprocessor
constexpr int64_t kFewPlanes = 64;        // too few for one block each …
constexpr int64_t kLargePlane = 1 << 18;  // … when a block has so much to do

inline bool is_deep(const Transform& t) { return t.d.size > 1; }
inline bool is_lines(const Transform& t) { return t.h.size == 1; }
inline bool too_few(const Transform& t, int64_t planes) { return planes < kFewPlanes && t.h.size * t.w.size >= kLargePlane; }

// Whether tensor cores take a transform over H and W.
inline bool tensor_analysis(const Transform& t, int64_t planes) { return !too_few(t, planes) && tensor::serves_analysis(t); }
inline bool tensor_synthesis(const Transform& t, int64_t planes) { return !too_few(t, planes) && tensor::serves_synthesis(t, planes); }

inline int64_t plane_spectrum_floats(const Transform& t) { return t.h.kept() * t.w.kept() * 2; }
inline int64_t spectra_floats(const Transform& t, int64_t planes) {  // of all planes, and what follows them is packs
  return is_deep(t) ? round_up(planes * plane_spectrum_floats(t), kColumns) : 0;
}
inline int64_t row_stride(const Transform& t) { return round_up(t.w.size, kColumns) + kColumns; }  // rows fall on different banks

// The frequencies of an axis in as few passes over x as registers allow.
struct Passes {
  int count, pairs;
  Passes(const Axis& axis, bool wide) {
    const int64_t all = axis.distinct() - 1, most = max_pairs(all, wide);
    count = int(all > most ? ceil_div(all, most) : 1);
    pairs = int(all > 4 ? round_up(ceil_div(all, count), 4) : 4);
  }
};

inline size_t sums_bytes(const Transform& t) { return size_t(stage_rows(t.h) * row_stride(t)) * sizeof(float); }
inline size_t synthesis_shared_bytes(const Transform& t) {
  return sums_bytes(t) + size_t(t.h.distinct() * t.w.positive) * sizeof(Coefficients);
}

inline bool analysis_fuses(const Transform& t, int64_t planes) {
  const int64_t threads = ColumnPlace<kSumColumns, false>::lanes(t.w.size) * Passes(t.h, false).count;
  return !is_lines(t) && !too_few(t, planes) && sums_bytes(t) <= shared_limit() && threads <= kPlaneThreads;
}
inline bool synthesis_fuses(const Transform& t, int64_t planes) {
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

inline int64_t column_tiles(int64_t columns) { return ceil_div(columns, kTileColumns); }

}  // namespace fastseg::cuda
