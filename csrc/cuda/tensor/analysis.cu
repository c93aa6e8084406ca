// Analysis of planes by tensor cores: a block takes a plane, and its warps sum it over H on the way from device memory (columns.h), then
// over W in shared memory, where an n-tile of an mma holds the rows A[k], B[k] of four k side by side, so that a lane has both and pairs
// the frequencies ±k itself.
#include "../launch.h"
#include "columns.h"
#include "transform.h"

namespace fastseg::cuda::tensor {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kDepthWarps = 8;
constexpr int kMinRows = 16;
constexpr int64_t kMaxImage = int64_t{1} << 31;

// The sums over rows in shared memory: of cosines for k = 0 … K−1, from row `sines` on of sines. `stride` ≡ 4 and `sines` ≡ 4 (mod 8), so
// that no two lanes of a fragment meet in a bank.
struct SharedRows {
  float* data;
  int stride, sines;

  template <bool kPacked>
  __device__ void deposit(const WarpSums& sums, const Plane& p, const WarpColumns& columns, int chunk) const {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    FASTSEG_UNROLL
    for (int c = 0; c < 2; ++c) {
      FASTSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int k = p.first + kTileRows * chunk + g + 8 * (i / 2);
        const float values[] = {sums.of[c][0][i], sums.of[c][1][i], sums.of[c][2][i], sums.of[c][3][i]};
        if (k < p.frequencies) store<kPacked>(p, columns, data + (c * sines + k) * stride, 2 * t + i % 2, values);
      }
    }
    if (p.first && chunk == 0 && t == 0) store<kPacked>(p, columns, data, g, sums.dc);
  }

 private:
  // Columns g of the tiles; column 0 once more, a period later, for the fold along W.
  template <bool kPacked>
  __device__ static void store(const Plane& p, const WarpColumns& columns, float* row, int g, const float (&values)[kLaneColumns]) {
    const int at = columns.begin + warp_column<kPacked>(0, g);
    if (at == 0) row[p.width] = values[0];
    if constexpr (kPacked) {
      if (at >= columns.fresh) store_pack(row + at, Pack<float, kLaneColumns>{{values[0], values[1], values[2], values[3]}});
    } else {
      FASTSEG_UNROLL
      for (int j = 0; j < kLaneColumns; ++j)
        if (at + 8 * j >= columns.fresh) row[at + 8 * j] = values[j];
    }
  }
};

// The W axis, and the frequencies of the H axis.
struct RowProduct {
  const void* table;
  int modes, mode_tiles, steps;
  int positive, negative;
};

__device__ inline void store_mode(const Spectrum& out, int64_t image, int64_t mode, float re, float im) {
  float* at = out.at(image, mode);
  if (!out.planar) return store_pack(at, Pack<float, 2>{{re, im}});
  at[0] = re, at[out.modes] = im;
}

// Sums over a row's samples of A[k], B[k], of modes g and g + 8 of a tile: [real, imaginary parts][·][A, B of g, of g + 8].
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

__device__ inline void sum_rows(const SharedRows& rows, const Plane& p, const RowProduct& w, const Spectrum& out, int64_t plane) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, tiles = (p.frequencies + 3) / 4;
  for (int task = threadIdx.x / kWarp; task < tiles * w.mode_tiles; task += blockDim.x / kWarp) {
    const int tile = task % tiles, mode_tile = task / tiles;
    const int side = g % 2, k = min(max(4 * tile + g / 2, side), p.frequencies - 1);  // there may be no B[0], and nobody asks for it
    const float* row = rows.data + (side * rows.sines + k) * rows.stride;
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
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    multiply_planes(const S* x, const void* table, Spectrum out, Plane p, RowProduct w, int stride, int sines) {
  if constexpr (kHasTensorCores) {
    const SharedRows rows = {shared_memory<float>(), stride, sines};
    const int64_t plane = blockIdx.x;
    x += plane * p.height * p.width;
    for (int task = threadIdx.x / kWarp; task < p.column_tiles * p.chunks; task += blockDim.x / kWarp) {
      const WarpColumns columns(task % p.column_tiles, p.width);
      const int chunk = task / p.column_tiles;
      rows.deposit<kPacked>(sum_columns<kPacked, kProducts>(x, p, table, columns, chunk), p, columns, chunk);
    }
    __syncthreads();
    sum_rows(rows, p, w, out, plane);
  }
}

// What a lane has of complex columns: A[k] from cosines, B[k] from sines, at four places; X[±k] = A ∓ iB.
template <bool kPacked>
__device__ inline void store_depth(const WarpSums& sums, const Spectrum& out, int64_t image, const Plane& p, const Pairing& pairing,
                                   const WarpColumns& columns, int chunk) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  FASTSEG_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int half = i / 4, place = i % 4, k = p.first + kTileRows * chunk + g + 8 * half;
    const int tile = kPacked ? place % 2 * 2 : place, beside = kPacked ? tile + 1 : tile;
    const int re = 2 * half + (kPacked ? place / 2 : 0), im = kPacked ? re : re + 1;
    const int column = columns.begin + warp_column<kPacked>(tile, 2 * t + re % 2);
    if (k >= p.frequencies || column < columns.fresh) continue;
    const Complex a = {sums.of[0][tile][re], sums.of[0][beside][im]};
    const Complex b = k > 0 ? Complex{sums.of[1][tile][re], sums.of[1][beside][im]} : Complex{};
    if (pairing.has_positive(k)) store_mode(out, image, pairing.mode(k, column / 2), a.re + b.im, a.im - b.re);
    if (pairing.has_negative(k)) store_mode(out, image, pairing.mirror(k, column / 2), a.re - b.im, a.im + b.re);
  }
  if (!p.first || chunk > 0 || t > 0) return;
  FASTSEG_UNROLL
  for (int j = 0; j < kLaneColumns; ++j) {
    const int column = columns.begin + warp_column<kPacked>(j, g);
    if (column >= columns.fresh) out.at(image, column / 2)[column % 2 * out.imaginary()] = sums.dc[j];
  }
}

// The D axis: [images, D, columns] of complex columns → `out`; a warp takes 32 columns and 16 frequencies.
template <bool kPacked>
__global__ void __launch_bounds__(kDepthWarps* kWarp, 2)
    multiply_depth(const float* x, const void* table, Spectrum out, Plane p, Pairing pairing, int64_t images) {
  if constexpr (kHasTensorCores) {
    const int64_t task = blockIdx.x * int64_t{kDepthWarps} + threadIdx.x / kWarp, tasks = int64_t{p.column_tiles} * p.chunks;
    const int64_t image = task / tasks;
    if (image >= images) return;
    const int place = int(task % tasks), chunk = place / p.column_tiles;
    const WarpColumns columns(place % p.column_tiles, p.width);
    const WarpSums sums = sum_columns<kPacked, 3>(x + image * p.height * p.width, p, table, columns, chunk);
    store_depth<kPacked>(sums, out, image, p, pairing, columns, chunk);
  }
}

Plane plane_of(const Axis& axis, int64_t width) {
  const int k_count = int(axis.distinct()), first = first_in_tile(axis, kTileRows);
  const int64_t column_tiles = ceil_div(width, kWarpColumns), chunks = ceil_div(k_count - first, kTileRows);
  return {int(axis.size), int(width), k_count, first, int(column_tiles), int(chunks)};
}

int64_t stride_of(const Transform& t) { return round_up(t.w.size, 8) + 4; }
int64_t sines_of(const Transform& t) { return round_up(t.h.distinct() + 4, 8) - 4; }
size_t shared_bytes(const Transform& t) { return size_t((sines_of(t) + t.h.distinct()) * stride_of(t)) * sizeof(float); }

template <bool kPacked, int kProducts, class S>
void launch_planes(const S* x, const void* table, const Spectrum& out, const TransformParams& p) {
  const Transform& t = p.t;
  const Plane plane = plane_of(t.h, t.w.size);
  const RowProduct w = {t.w.fragments,     int(t.w.positive), int(ceil_div(t.w.positive, kTileRows)), int(ceil_div(t.w.even(), kTf32Depth)),
                        int(t.h.positive), int(t.h.negative)};
  const int64_t tasks = int64_t{plane.column_tiles} * plane.chunks, warps = ceil_div(tasks, ceil_div(tasks, kMaxWarps));
  launch(multiply_planes<kPacked, kProducts, S>, grid_of(p.images * t.d.size), dim3(unsigned(warps * kWarp)), shared_bytes(t),
         p.lane.stream, x, table, out, plane, w, int(stride_of(t)), int(sines_of(t)));
}

template <int kProducts, class S>
void analyse(const void* table, const Spectrum& out, const TransformParams& p) {
  const S* x = static_cast<const S*>(p.real);
  if (!table) throw Error("transform: no table for tensor cores");
  if (packs_align<kLaneColumns>(x, p.t.w.size)) return launch_planes<true, kProducts>(x, table, out, p);
  launch_planes<false, kProducts>(x, table, out, p);
}

template <bool kPacked>
void launch_depth(const float* x, const Spectrum& out, const TransformParams& p, int64_t columns) {
  const Plane plane = plane_of(p.t.d, columns);
  const int64_t tasks = p.images * plane.column_tiles * plane.chunks;
  launch(multiply_depth<kPacked>, grid_of(ceil_div(tasks, kDepthWarps)), dim3(kDepthWarps * kWarp), 0, p.lane.stream, x, p.t.d.fragments,
         out, plane, Pairing(p.t.d, columns / 2), p.images);
}

// Places in an image are 32 bits; folded rows are read in eights, past N/2.
bool serves_columns(const Axis& axis, int64_t columns) {
  return axis.fragments && axis.size >= kMinRows && columns >= kWarpColumns && axis.size * columns < kMaxImage;
}

}  // namespace

bool serves_analysis(const Transform& t) { return serves_columns(t.h, t.w.size) && t.w.fragments && shared_bytes(t) <= shared_limit(); }

void analyse_planes(const TransformParams& p, const Spectrum& out) {
  if (p.dtype == DType::kFloat16) return analyse<1, Half>(p.t.h.halves, out, p);
  if (p.dtype == DType::kBFloat16) return analyse<1, BFloat16>(p.t.h.halves, out, p);
  if (p.t.tf32) return analyse<1, float>(p.t.h.fragments, out, p);
  analyse<3, float>(p.t.h.fragments, out, p);
}

bool serves_depth_analysis(const Transform& t) { return serves_columns(t.d, 2 * t.h.kept() * t.w.kept()); }

void analyse_depth(const TransformParams& p, const float* planes, const Spectrum& out) {
  const int64_t columns = 2 * p.t.h.kept() * p.t.w.kept();
  if (packs_align<kLaneColumns>(planes, columns)) return launch_depth<true>(planes, out, p, columns);
  launch_depth<false>(planes, out, p, columns);
}

}  // namespace fastseg::cuda::tensor
