// The last axis of a synthesis by tensor cores, which comes first: the spectrum → rows P[k] and Q[k] over the columns of a slab, in shared
// memory. The rows of an mma are data, P and Q of 8 frequencies, and its columns samples w: a fragment of the table is two of the operand
// B.
#pragma once

#include "../rows.h"
#include "fragments.h"

namespace fastseg::cuda::tensor {

constexpr int kRowFrequencies = 8;  // of which P and Q are an mma's 16 rows

// How planes are divided; `pack`: columns that one store can take, 1, 4 or 8 of 16 bits.
struct SlabTiling {
  int slabs, width, stride, pack;
};

// The columns of a slab lie side by side in shared memory: `width` from `first` on, then their mirror images in the order of the plane. The
// last slab is whole, its two halves meet.
struct Slab {
  int first, width, length, gap;

  __device__ Slab(const SlabTiling& t, int index, int size) {
    const bool last = index == t.slabs - 1;
    first = index * t.width;
    width = last ? size / 2 + 1 - first : t.width;
    length = last ? size - 2 * first : 2 * t.width;
    gap = size - 2 * first - length;
  }
  __device__ int column(int at) const { return first + at + (at < width ? 0 : gap); }
  // of the table, that its samples w take: the mirror image of column first + width is among them
  __device__ int tiles(int size) const { return min(width, size / 2 - first) / kTileRows + 1; }
};

// P and Q of a lane's frequency k at its two places of the depth, modes `first` and first + 4: the real or the imaginary parts are an
// operand.
struct RowData {
  float re[4] = {}, im[4] = {};

  __device__ RowData(const Spectrum& in, int64_t plane, const Pairing& pairing, int k, int first) {
    FASTSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int mode = first + 4 * r;
      if (mode >= pairing.columns) continue;
      const Coefficients z = separate(in, plane, pairing, k, mode);  // zeros past the last k
      re[2 * r] = z.at[0], im[2 * r] = z.at[1], re[2 * r + 1] = z.at[2], im[2 * r + 1] = z.at[3];
    }
  }
};

// total += data · table of 16 samples w, which are two tiles of columns.
template <int kProducts>
__device__ inline void multiply_rows(float (&total)[2][4], const float (&data)[4], const Fragment& big, const Fragment& small) {
  float sums[2][4] = {};
  Fragment rows, rest;
  FASTSEG_UNROLL
  for (int i = 0; i < 4; ++i) {
    rows.at[i] = kProducts > 1 ? to_tf32(data[i]) : to_tf32_alone(data[i]);
    rest.at[i] = tf32_rest(data[i], rows.at[i]);
  }
  if (kProducts > 1) {
    FASTSEG_UNROLL
    for (int j = 0; j < 2; ++j) mma_tf32(sums[j], rest, big.at[j], big.at[2 + j]);
    FASTSEG_UNROLL
    for (int j = 0; j < 2; ++j) mma_tf32(sums[j], rows, small.at[j], small.at[2 + j]);
  }
  FASTSEG_UNROLL
  for (int j = 0; j < 2; ++j) mma_tf32(sums[j], rows, big.at[j], big.at[2 + j]);
  FASTSEG_UNROLL
  for (int j = 0; j < 2; ++j) {
    FASTSEG_UNROLL
    for (int i = 0; i < 4; ++i) total[j][i] += sums[j][i];
  }
}

// even ± odd at the samples w, w + 1 and their mirror images → a row in shared memory
__device__ inline void deposit_pair(const float* even, const float* odd, int w, const Slab& slab, int size, float* row) {
  const int at = w - slab.first;
  const float low[2] = {even[0] + odd[0], even[1] + odd[1]}, high[2] = {even[0] - odd[0], even[1] - odd[1]};
  if (at + 1 < slab.width)
    store_pack<2>(row + at, Pack<float, 2>{{low[0], low[1]}});
  else if (at < slab.width)
    row[at] = low[0];
  float* mirror = row + slab.length - at;
  const int last = min(slab.width, (size - 1) / 2 - slab.first);
  if (0 < at && at <= last) mirror[0] = high[0];
  if (at < last) mirror[-1] = high[1];
}

template <int kProducts>
__device__ void synthesise_rows(const Spectrum& in, int64_t plane, const Axis& h, const Axis& w, const Slab& slab, int warp, int stride,
                                float* rows) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4, size = int(w.size), k_count = int(h.distinct());
  const int tiles = slab.tiles(size), tasks = int(ceil_div(k_count, kRowFrequencies)) * tiles;
  const Pairing pairing(h, w.positive);
  for (int task = warp; task < tasks; task += blockDim.y * blockDim.z) {
    const int k = task / tiles * kRowFrequencies + g, tile = slab.first / kTileRows + task % tiles;
    FragmentTable table(w.fragments, int(ceil_div(w.even(), kTileRows)), tile, 2, lane);
    float even[2][4] = {}, odd[2][4] = {};
    for (int first = 0; first < w.positive; first += kTf32Depth, table.advance()) {
      const RowData data(in, plane, pairing, k, first + t);
      multiply_rows<kProducts>(even, data.re, table.part(0, 2, 0), table.part(0, 2, 1));
      multiply_rows<kProducts>(odd, data.im, table.part(1, 2, 0), table.part(1, 2, 1));
    }
    if (k >= k_count) continue;
    FASTSEG_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int at = tile * kTileRows + 8 * j + 2 * t;
      deposit_pair(even[j], odd[j], at, slab, size, rows + k * stride);
      if (k > 0) deposit_pair(even[j] + 2, odd[j] + 2, at, slab, size, rows + (k_count + k - 1) * stride);
    }
  }
}

}  // namespace fastseg::cuda::tensor
