// Analysis of planes by tensor cores: a block takes a plane, and its warps sum it over H on the way from device memory (columns.h), then
// over W in shared memory, where an n-tile of an mma holds the rows A[k], B[k] of four k side by side, so that a lane has both and pairs
// the frequencies ±k itself.
#include "../launch.h"
#include "columns.h"
#include "transform.h"

namespace fastseg::cuda::tensor {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kMinHeight = 16;  // folded rows are read in eights, past N/2
constexpr int kMinWidth = kWarpColumns;
constexpr int64_t kMaxPlane = int64_t{1} << 31;  // places in it are 32 bits

// The W axis, and where its result goes.
struct RowProduct {
  const void* table;
  int modes, mode_tiles, steps;
  int positive, negative;  // of the H axis
};

__device__ inline void store_mode(const Spectrum& out, int64_t plane, int64_t mode, float re, float im) {
  float* at = out.at(plane, mode);
  if (!out.planar) return store_pack(at, Pack<float, 2>{{re, im}});
  at[0] = re, at[out.modes] = im;
}

// Sums over a row's samples of A[k], B[k], of modes g and g + 8 of a tile: [modes' real, imaginary parts][·][A, B of g, of g + 8].
__device__ inline void store_pairs(const float (&sums)[2][1][4], const Spectrum& out, int64_t plane, const RowProduct& w, int k, int mode) {
  FASTSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int m = mode + 8 * i;
    if (m >= w.modes) continue;
    const float a_re = sums[0][0][2 * i], a_im = sums[1][0][2 * i];
    const float b_re = k > 0 ? sums[0][0][2 * i + 1] : 0.f, b_im = k > 0 ? sums[1][0][2 * i + 1] : 0.f;
    if (k < w.positive) store_mode(out, plane, k * w.modes + m, a_re + b_im, a_im - b_re);
    if (k > 0 && k <= w.negative) store_mode(out, plane, (w.positive + w.negative - k) * w.modes + m, a_re - b_im, a_im + b_re);
  }
}

__device__ inline void sum_rows(const float* rows, const Plane& p, const RowProduct& w, const Spectrum& out, int64_t plane) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, tiles = (p.frequencies + 3) / 4;
  for (int task = threadIdx.x / kWarp; task < tiles * w.mode_tiles; task += blockDim.x / kWarp) {
    const int tile = task % tiles, mode_tile = task / tiles;
    const float* row = rows + (g % 2 * p.sines + min(4 * tile + g / 2, p.frequencies - 1)) * p.stride;
    const float *low = row + t, *high = row + p.width - t;
    FragmentTable table(w.table, w.mode_tiles, mode_tile, kTableParts<float>, lane);
    float sums[2][1][4] = {};
    FASTSEG_UNROLL_BY(2)
    for (int s = 0; s < w.steps; ++s, low += kTf32Depth, high -= kTf32Depth) {
      const float even[2][1] = {{low[0] + high[0]}, {low[4] + high[-4]}}, odd[2][1] = {{low[0] - high[0]}, {low[4] - high[-4]}};
      multiply_tf32<3>(sums[0], table.part(0, 2, 0), table.part(0, 2, 1), even);
      multiply_tf32<3>(sums[1], table.part(1, 2, 0), table.part(1, 2, 1), odd);
      table.advance();
    }
    if (4 * tile + t < p.frequencies) store_pairs(sums, out, plane, w, 4 * tile + t, kTileRows * mode_tile + g);
  }
}

template <bool kPacked, int kProducts, class S>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) multiply_planes(const S* x, const void* table, Spectrum out, Plane p, RowProduct w) {
  if constexpr (kHasTensorCores) {
    float* rows = shared_memory<float>();
    const int64_t plane = blockIdx.x;
    x += plane * p.height * p.width;
    for (int task = threadIdx.x / kWarp; task < p.column_tiles * p.chunks; task += blockDim.x / kWarp)
      sum_columns<kPacked, kProducts>(x, p, table, task % p.column_tiles, task / p.column_tiles, rows);
    __syncthreads();
    sum_rows(rows, p, w, out, plane);
  }
}

Plane plane_of(const Transform& t) {
  const int k_count = int(t.h.distinct()), first = first_in_tile(t.h, kTileRows), width = int(t.w.size);
  return {int(t.h.size),
          width,
          k_count,
          first,
          int(ceil_div(width, kWarpColumns)),
          int(ceil_div(k_count - first, kTileRows)),
          int(round_up(width, 8)) + 4,
          int(round_up(k_count - 4, 8)) + 4};
}

size_t shared_bytes(const Plane& p) { return size_t(p.sines + p.frequencies) * p.stride * sizeof(float); }

template <bool kPacked, int kProducts, class S>
void launch_planes(const S* x, const void* table, const Spectrum& out, const TransformParams& p) {
  const Transform& t = p.t;
  const Plane plane = plane_of(t);
  const RowProduct w = {t.w.fragments,     int(t.w.positive), int(ceil_div(t.w.positive, kTileRows)), int(ceil_div(t.w.even(), kTf32Depth)),
                        int(t.h.positive), int(t.h.negative)};
  const int64_t tasks = int64_t{plane.column_tiles} * plane.chunks, warps = ceil_div(tasks, ceil_div(tasks, kMaxWarps));
  launch(multiply_planes<kPacked, kProducts, S>, grid_of(p.images * t.d.size), dim3(unsigned(warps * kWarp)), shared_bytes(plane),
         p.lane.stream, x, table, out, plane, w);
}

template <int kProducts, class S>
void analyse(const void* table, const Spectrum& out, const TransformParams& p) {
  const S* x = static_cast<const S*>(p.real);
  if (!table) throw Error("transform: no table for tensor cores");
  if (packs_align<kLaneColumns>(x, p.t.w.size)) return launch_planes<true, kProducts>(x, table, out, p);
  launch_planes<false, kProducts>(x, table, out, p);
}

}  // namespace

bool serves_analysis(const Transform& t, int64_t) {
  const bool large_enough = t.h.size >= kMinHeight && t.w.size >= kMinWidth && t.h.size * t.w.size < kMaxPlane;
  return t.h.fragments && t.w.fragments && large_enough && shared_bytes(plane_of(t)) <= shared_limit();
}

void analyse_planes(const TransformParams& p, const Spectrum& out) {
  if (p.dtype == DType::kFloat16) return analyse<1, Half>(p.t.h.halves, out, p);
  if (p.dtype == DType::kBFloat16) return analyse<1, BFloat16>(p.t.h.halves, out, p);
  if (p.t.tf32) return analyse<1, float>(p.t.h.fragments, out, p);
  analyse<3, float>(p.t.h.fragments, out, p);
}

}  // namespace fastseg::cuda::tensor
