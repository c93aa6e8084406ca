// The second stage of every reduction: blocks left partial sums, and their sum is taken in an order that never changes.
#pragma once

#include "intrinsics.h"
#include "launch.h"

namespace fastseg::cuda {

struct PartialSums {
  const float* data;  // [images, rows, stride], of which `columns` columns count
  int64_t images, rows, stride, columns;
};

// out[image, column] = Σ_row data[image, row, column]; a block of kWarp × kWarp threads sums kWarp columns of an image.
static __global__ void sum_rows(PartialSums p, float* out) {
  float* sums = shared_memory<float>();  // [strand of rows][lane]
  const int lane = int(threadIdx.x), strand = int(threadIdx.y);
  const int64_t tiles = ceil_div(p.columns, kWarp), image = blockIdx.x / tiles, column = blockIdx.x % tiles * kWarp + lane;
  const float* first = p.data + image * p.rows * p.stride + column;
  float sum = 0;
  if (column < p.columns) {
    FASTSEG_UNROLL_BY(8)
    for (int64_t row = strand; row < p.rows; row += kWarp) sum += first[row * p.stride];
  }
  sums[strand * kWarp + lane] = sum;
  for (int half = kWarp / 2; half > 0; half /= 2) {
    __syncthreads();
    if (strand < half) sums[strand * kWarp + lane] += sums[(strand + half) * kWarp + lane];
  }
  if (strand == 0 && column < p.columns) out[image * p.columns + column] = sums[lane];
}

inline void launch_sum_rows(const PartialSums& p, void* out, void* stream) {
  if (p.images * p.columns == 0) return;
  launch(sum_rows, grid_of(p.images * ceil_div(p.columns, kWarp)), dim3(kWarp, kWarp), kWarp * kWarp * sizeof(float), stream, p,
         static_cast<float*>(out));
}

}  // namespace fastseg::cuda
