// Tables in the order in which a warp's lanes load them for mma: two tables [rows, depth], cosines and sines, lie as
//   [step of the depth][tile of 16 rows][cosines, sines][part][lane] of 16 bytes each,
// zeros where rows or depth end (fastseg/ops/tables.py, `fragments`). Products of float32 are three in TF32, of big and small parts.
#pragma once

#include "../../ops.h"
#include "mma.h"

namespace fastseg::cuda {

constexpr int kTileRows = 16;  // of a table, for one mma
constexpr int kTf32Depth = 8, kHalfDepth = 16;

template <class S>
constexpr int kTableParts = 2;  // big and small
template <>
constexpr int kTableParts<BFloat16> = 3;

// Where a table begins for a lane and a tile of rows, and how far its steps are apart.
struct FragmentTable {
  const Fragment* at;
  int64_t step;

  __device__ FragmentTable(const void* table, int tiles, int tile, int parts, int lane)
      : at(static_cast<const Fragment*>(table) + tile * 2 * parts * kWarp + lane), step(int64_t{2} * tiles * parts * kWarp) {}
  // part of the cosines (0) or sines (1) of a step
  __device__ Fragment part(int sines, int parts, int part) const {
    return load_pack<4>(reinterpret_cast<const uint32_t*>(at + (sines * parts + part) * kWarp));
  }
  __device__ void advance() { at += step; }
};

// The first frequency in the fragments of an outer axis: 1 where the zero frequency would need a tile of its own, and is added apart.
constexpr int first_in_tile(const Axis& axis, int tile) { return axis.distinct() > 1 && axis.distinct() % tile == 1; }

// sums[j] += table · v[.][j] over kTf32Depth: the lane's two places of the depth, of `n` tiles of 8 columns. One product where `kProducts`
// is 1, else three with float32's digits, small ones first. It sums from zero in the tensor core and adds that outside, with rounding.
template <int kProducts, int n>
__device__ inline void multiply_tf32(float (&total)[n][4], const Fragment& big, const Fragment& small, const float (&v)[2][n]) {
  float sums[n][4] = {};
  uint32_t b[2][n], rest[2][n];
  FASTSEG_UNROLL
  for (int r = 0; r < 2; ++r) {
    FASTSEG_UNROLL
    for (int j = 0; j < n; ++j) {
      b[r][j] = kProducts > 1 ? to_tf32(v[r][j]) : to_tf32_alone(v[r][j]);
      rest[r][j] = tf32_rest(v[r][j], b[r][j]);
    }
  }
  if (kProducts > 1) {
    FASTSEG_UNROLL
    for (int j = 0; j < n; ++j) mma_tf32(sums[j], small, b[0][j], b[1][j]);
    FASTSEG_UNROLL
    for (int j = 0; j < n; ++j) mma_tf32(sums[j], big, rest[0][j], rest[1][j]);
  }
  FASTSEG_UNROLL
  for (int j = 0; j < n; ++j) mma_tf32(sums[j], big, b[0][j], b[1][j]);
  FASTSEG_UNROLL
  for (int j = 0; j < n; ++j) {
    FASTSEG_UNROLL
    for (int i = 0; i < 4; ++i) total[j][i] += sums[j][i];
  }
}

}  // namespace fastseg::cuda
