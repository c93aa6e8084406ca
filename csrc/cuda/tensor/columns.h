// Sums over the outer axis of a plane by one warp: 16 frequencies of 32 columns. Lane 4g + t reads row t of every four straight into the
// places that mma wants of B, in four tiles of 8 columns, column g of each: which columns of the plane those are is free, so the lane takes
// four neighbours where packs align (kPacked), else every eighth one, and nothing goes through shared memory or shuffles.
#pragma once

#include "fragments.h"

namespace fastseg::cuda::tensor {

constexpr int kWarpColumns = 32;
constexpr int kLaneColumns = 4;

// Column g of a tile, among the warp's.
template <bool kPacked>
__device__ inline int warp_column(int tile, int g) {
  return kPacked ? kLaneColumns * g + tile : 8 * tile + g;
}

// Which columns a warp takes: the last 32 of a plane where its tile is not whole, so that every lane has a column.
struct WarpColumns {
  int begin, fresh;  // columns before `fresh` are the tile's before

  __device__ WarpColumns(int tile, int width) : begin(min(tile * kWarpColumns, width - kWarpColumns)), fresh(tile * kWarpColumns) {}
};

// Images of `height` rows, and what is summed over them: frequencies 0 … K−1, of which the table begins with `first`.
struct Plane {
  int height, width;
  int frequencies, first;
  int column_tiles, chunks;  // of 32 columns and 16 frequencies
};

// Four columns of a row.
template <bool kPacked>
__device__ inline Pack<float, kLaneColumns> load_columns(const float* p) {
  if constexpr (kPacked) return load_pack<kLaneColumns>(p);
  return {{p[0], p[8], p[16], p[24]}};
}

// The same in 16 bits, as it comes from memory, to be unpacked when it is used: what unpacks at once waits for it at once.
template <bool kPacked>
struct Raw {
  uint32_t words[kPacked ? 2 : 4] = {};

  template <class S>
  __device__ void load(const S* p) {
    if constexpr (kPacked) {
      const auto pack = load_pack<2>(reinterpret_cast<const uint32_t*>(p));
      words[0] = pack.at[0], words[1] = pack.at[1];
    } else {
      FASTSEG_UNROLL
      for (int j = 0; j < kLaneColumns; ++j) words[j] = p[8 * j].bits;
    }
  }
  // Column j of this row and, in the high half, of another.
  __device__ uint32_t with(const Raw& other, int j) const {
    if constexpr (kPacked) return permute_bytes(words[j / 2], other.words[j / 2], j % 2 ? 0x7632 : 0x5410);
    return permute_bytes(words[j], other.words[j], 0x5410);
  }
};

// What a warp sums: [cosines, sines][tile of columns][as mma leaves them], and the zero frequency where no tile of the table has it.
struct WarpSums {
  float of[2][kLaneColumns][4] = {};
  float dc[kLaneColumns] = {};

  __device__ void take_dc(const Pack<float, kLaneColumns>& row) {
    FASTSEG_UNROLL
    for (int j = 0; j < kLaneColumns; ++j) dc[j] -= row.at[j];
  }
  // Folded rows, `until_middle` and 8 less of it before N; once each, N/2 half of it, none after.
  __device__ void add_dc(const float (&even)[2][kLaneColumns], float until_middle) {
    FASTSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float weight = saturate(0.5f * until_middle + (0.5f - float(kTf32Depth / 2 * r)));
      FASTSEG_UNROLL
      for (int j = 0; j < kLaneColumns; ++j) dc[j] += weight * even[r][j];
    }
  }
  // Pairs of rows.
  template <class S>
  __device__ void add_dc(const uint32_t (&b)[2][kLaneColumns], S) {
    FASTSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      FASTSEG_UNROLL
      for (int j = 0; j < kLaneColumns; ++j) dc[j] += to_compute(S{uint16_t(b[r][j])}) + to_compute(S{uint16_t(b[r][j] >> 16)});
    }
  }

  // Over the lanes t, which have read different rows.
  __device__ void gather_dc() {
    FASTSEG_UNROLL
    for (int j = 0; j < kLaneColumns; ++j) {
      dc[j] += __shfl_xor_sync(kAllLanes, dc[j], 1);
      dc[j] += __shfl_xor_sync(kAllLanes, dc[j], 2);
    }
  }
};

// float32: rows t and t + 4 of every eight are folded with their mirror images. Rows 0 and N/2 meet themselves, for which the table has
// them halved; rows past N/2 meet zeros.
template <bool kPacked>
class FoldedRows {
 public:
  struct Step {
    Pack<float, kLaneColumns> low[2], high[2];
    __device__ void fold(float (&even)[2][kLaneColumns], float (&odd)[2][kLaneColumns]) const {
      FASTSEG_UNROLL
      for (int r = 0; r < 2; ++r) {
        FASTSEG_UNROLL
        for (int j = 0; j < kLaneColumns; ++j) even[r][j] = low[r].at[j] + high[r].at[j], odd[r][j] = low[r].at[j] - high[r].at[j];
      }
    }
  };

  __device__ FoldedRows(const float* column, const Plane& p, int t)
      : row_(p.width), low_(column + t * p.width), high_(column + (p.height - t) * p.width), mirror_(t == 0 ? low_ : high_) {}

  // Row 0 is its own mirror image.
  __device__ Step first() { return load(mirror_); }
  __device__ Step next() { return load(high_); }

 private:
  __device__ Step load(const float* mirror) {
    const Step step = {{load_columns<kPacked>(low_), load_columns<kPacked>(low_ + 4 * row_)},
                       {load_columns<kPacked>(mirror), load_columns<kPacked>(high_ - 4 * row_)}};
    low_ += kTf32Depth * row_, high_ -= kTf32Depth * row_;
    return step;
  }

  int row_;
  const float *low_, *high_, *mirror_;
};

template <bool kPacked, int kProducts>
__device__ inline WarpSums sum_columns(const float* x, const Plane& p, const void* table, const WarpColumns& columns, int chunk) {
  const int lane = threadIdx.x % kWarp, t = lane % 4, steps = (p.height / 2 + kTf32Depth) / kTf32Depth;
  FoldedRows<kPacked> source(x + columns.begin + warp_column<kPacked>(0, lane / 4), p, t);
  FragmentTable fragments(table, p.chunks, chunk, kTableParts<float>, lane);
  using Step = typename FoldedRows<kPacked>::Step;
  WarpSums sums;
  float until_middle = float(p.height - 2 * t);  // what is summed apart counts rows before N/2 once, N/2 half and none after it
  const auto add = [&](Step& step, bool more) {
    float even[2][kLaneColumns], odd[2][kLaneColumns];
    step.fold(even, odd);
    if (p.first) sums.add_dc(even, until_middle);
    until_middle -= 2 * kTf32Depth;
    multiply_tf32<kProducts>(sums.of[0], fragments.part(0, 2, 0), fragments.part(0, 2, 1), even);
    if (more) step = source.next();
    multiply_tf32<kProducts>(sums.of[1], fragments.part(1, 2, 0), fragments.part(1, 2, 1), odd);
    fragments.advance();
  };
  Step ahead[2] = {source.first(), source.next()};
  if (t == 0) sums.take_dc(ahead[0].low[0]);  // row 0 is folded with itself
  for (int s = 0; s < steps; s += 2) {
    add(ahead[0], s + 2 < steps);
    if (s + 1 < steps) add(ahead[1], s + 3 < steps);
  }
  if (p.first) sums.gather_dc();
  return sums;
}

// 16 bits: numbers are exact as they are, so that rows are not folded (a sum of two would not be); rows t, t + 4, t + 8, t + 12 of
// every 16.
template <class S, bool kPacked>
class PlainRows {
 public:
  struct Step {
    Raw<kPacked> row[4];
  };

  __device__ PlainRows(const S* column, const Plane& p, int t) : row_(p.width), left_(p.height - t), at_(column + t * p.width) {}

  __device__ Step next() {
    Step step;
    FASTSEG_UNROLL
    for (int q = 0; q < 4; ++q)
      if (4 * q < left_) step.row[q].load(at_ + 4 * q * row_);
    at_ += kHalfDepth * row_, left_ -= kHalfDepth;
    return step;
  }

 private:
  int row_, left_;
  const S* at_;
};

// total += all parts of a table · b over kHalfDepth.
template <class S, int n>
__device__ inline void multiply_parts(float (&total)[n][4], const FragmentTable& table, int sines, const uint32_t (&b)[2][n]) {
  float sums[n][4] = {};
  FASTSEG_UNROLL
  for (int part = kTableParts<S> - 1; part >= 0; --part) {
    const Fragment a = table.part(sines, kTableParts<S>, part);
    FASTSEG_UNROLL
    for (int j = 0; j < n; ++j) mma_16(sums[j], a, b[0][j], b[1][j], S{});
  }
  FASTSEG_UNROLL
  for (int j = 0; j < n; ++j) {
    FASTSEG_UNROLL
    for (int i = 0; i < 4; ++i) total[j][i] += sums[j][i];
  }
}

template <bool kPacked, int kProducts, class S>
__device__ inline WarpSums sum_columns(const S* x, const Plane& p, const void* table, const WarpColumns& columns, int chunk) {
  const int lane = threadIdx.x % kWarp, steps = (p.height + kHalfDepth - 1) / kHalfDepth;
  PlainRows<S, kPacked> source(x + columns.begin + warp_column<kPacked>(0, lane / 4), p, lane % 4);
  FragmentTable fragments(table, p.chunks, chunk, kTableParts<S>, lane);
  using Step = typename PlainRows<S, kPacked>::Step;
  WarpSums sums;
  const auto add = [&](Step& step, bool more) {
    uint32_t b[2][kLaneColumns];
    FASTSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      FASTSEG_UNROLL
      for (int j = 0; j < kLaneColumns; ++j) b[r][j] = step.row[2 * r].with(step.row[2 * r + 1], j);
    }
    if (more) step = source.next();
    if (p.first) sums.add_dc(b, S{});
    multiply_parts<S>(sums.of[0], fragments, 0, b);
    multiply_parts<S>(sums.of[1], fragments, 1, b);
    fragments.advance();
  };
  Step ahead[2] = {source.next(), source.next()};
  for (int s = 0; s < steps; s += 2) {
    add(ahead[0], s + 2 < steps);
    if (s + 1 < steps) add(ahead[1], s + 3 < steps);
  }
  if (p.first) sums.gather_dc();
  return sums;
}

}  // namespace fastseg::cuda::tensor
