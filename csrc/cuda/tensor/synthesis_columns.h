// The outer axis of a plane's synthesis by tensor cores: rows P[k] and Q[k] in shared memory → y[n] = C[n] + S[n], y[N−n] = C[n] − S[n].
// The table's 16 rows are samples n; the zero frequency and the bias are added in float32.
#pragma once

#include "synthesis_rows.h"

namespace fastseg::cuda::tensor {

constexpr int kWarpColumns = 32;  // four tiles of eight

// Which of a warp's 32 columns a lane has: column g of tile j where it reads, columns 2t + i of tile j where it has sums. Where packs
// start in y, four columns of the four tiles are neighbours; else those of the four lanes of a row are. Either way 64 bytes lie side by
// side.
template <class S, bool kPacks>
struct LaneColumns {
  int g, t, base;

  __device__ int read(int j) const {
    if (!kPacks) return base + 8 * j + g % 2 * 4 + g / 2;
    return base + 4 * (sizeof(S) == 2 ? g : g / 2 + g % 2 * 4) + j;
  }
  __device__ int made(int i, int j) const {
    if (!kPacks) return base + 8 * j + 4 * i + t;
    return base + 4 * (sizeof(S) == 2 ? 2 * t + i : t + 4 * i) + j;
  }

  // Four columns that begin at `at`, or that are `stride` apart up to the last one.
  __device__ static Pack<float, 4> load(const float* row, int at, int stride, int last) {
    if (kPacks) return load_pack<4>(row + min(at, last - 3));
    return {{row[min(at, last)], row[min(at + stride, last)], row[min(at + 2 * stride, last)], row[min(at + 3 * stride, last)]}};
  }
};

template <int n, class S>
__device__ inline void store_columns(const float* v, bool inside, S* y) {
  Pack<S, n> stored;
  FASTSEG_UNROLL
  for (int i = 0; i < n; ++i) from_compute(v[i], stored.at[i]);
  if (inside) store_pack(y, stored);
}

// v[i][j], column 2t + i of tile j → a row of y
template <class S, bool kPacks>
__device__ inline void store_row(const float (&v)[2][4], const LaneColumns<S, kPacks>& columns, const Slab& slab, int pack, S* row) {
  if constexpr (!kPacks) {
    FASTSEG_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int at = columns.made(i / 4, i % 4);
      store_columns<1>(&v[i / 4][i % 4], at < slab.length, row + slab.column(at));
    }
  } else {
    const int at = columns.made(0, 0), next = columns.made(1, 0);
    if constexpr (sizeof(S) == 2)
      if (pack == 8) return store_columns<8>(v[0], at < slab.length, row + slab.column(at));
    store_columns<4>(v[0], at < slab.length, row + slab.column(at));
    store_columns<4>(v[1], next < slab.length, row + slab.column(next));
  }
}

// Sums of the cosines and of the sines over frequencies, for 16 samples n and a warp's columns.
struct Sums {
  float even[2][2][4], odd[2][2][4] = {};  // tiles j = 2a + b at [a][b]

  // rows n and N − n, for the lane's n = first and first + 8
  template <class S, bool kPacks>
  __device__ void store(const LaneColumns<S, kPacks>& columns, const Slab& slab, int pack, int first, int size, int width, S* y) const {
    FASTSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int n = first + 8 * r;
      if (2 * n > size) continue;
      float low[2][4], high[2][4];
      FASTSEG_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int a = i % 4 / 2, b = i % 2, at = 2 * r + i / 4;
        const float e = even[a][b][at], o = odd[a][b][at];
        low[i / 4][i % 4] = e + o, high[i / 4][i % 4] = e - o;
      }
      store_row(low, columns, slab, pack, y + int64_t(n) * width);
      if (n > 0 && 2 * n < size) store_row(high, columns, slab, pack, y + int64_t(size - n) * width);
    }
  }
};

template <int kProducts, bool kPacks, class S>
__device__ void synthesise_columns(const float* rows, const SlabTiling& tiling, const Axis& h, const Slab& slab, int warp, int width,
                                   float bias, S* y) {
  const int group = warp / blockDim.y, lane = threadIdx.x, t = lane % 4, k_count = int(h.distinct());
  const int tiles = int(ceil_div(h.even(), kTileRows)), stride = tiling.stride, last = slab.length - 1;
  const LaneColumns<S, kPacks> columns = {lane / 4, t, int(warp - group * blockDim.y) * kWarpColumns};
  const int at = columns.read(0), step = columns.read(1) - at;
  for (int tile = group; tile < tiles; tile += blockDim.z) {
    Sums sums;
    FASTSEG_UNROLL
    for (int i = 0; i < 2; ++i) {
      const auto dc = columns.load(rows, columns.made(i, 0), columns.made(i, 1) - columns.made(i, 0), last);
      FASTSEG_UNROLL
      for (int j = 0; j < 4; ++j) sums.even[j / 2][j % 2][i] = sums.even[j / 2][j % 2][2 + i] = dc.at[j] + bias;
    }
    FragmentTable table(h.fragments, tiles, tile, 2, lane);
    for (int first = 1; first < k_count; first += kTf32Depth, table.advance()) {
      const float* low = rows + min(first + t, k_count - 1) * stride;
      const float* high = rows + min(first + t + 4, k_count - 1) * stride;
      FASTSEG_UNROLL
      for (int sines = 0; sines < 2; ++sines) {
        const auto a = columns.load(low, at, step, last), b = columns.load(high, at, step, last);
        const Fragment big = table.part(sines, 2, 0), small = table.part(sines, 2, 1);
        FASTSEG_UNROLL
        for (int j = 0; j < 4; j += 2) {
          const float v[2][2] = {{a.at[j], a.at[j + 1]}, {b.at[j], b.at[j + 1]}};
          multiply_tf32<kProducts>(sines ? sums.odd[j / 2] : sums.even[j / 2], big, small, v);
        }
        low += (k_count - 1) * stride, high += (k_count - 1) * stride;
      }
    }
    sums.store(columns, slab, tiling.pack, tile * kTileRows + lane / 4, int(h.size), width, y);
  }
}

}  // namespace fastseg::cuda::tensor
