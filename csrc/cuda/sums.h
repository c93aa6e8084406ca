// The second stage of every reduction: blocks left partial sums, and their sum is taken in an order that never changes.
#pragma once

#include "intrinsics.h"
#include "launch.h"

namespace fastseg::cuda {

// out[image, column] = Σ_row partial[image, row, column]; one block of kWarp × kWarp threads for kWarp columns of an image.
static __global__ void sum_rows(const float* partial, int64_t rows, int64_t columns, float* out) {
  float* sums = shared_memory<float>();  // [row strand][lane]
  const int lane = int(threadIdx.x), strand = int(threadIdx.y);
  const int64_t tiles = ceil_div(columns, kWarp), image = blockIdx.x / tiles, column = blockIdx.x % tiles * kWarp + lane;
  const float* first = partial + image * rows * columns + column;
  float sum = 0;
  if (column < columns) {
    FASTSEG_UNROLL_BY(8)
    for (int64_t row = strand; row < rows; row += kWarp) sum += first[row * columns];
  }
  sums[strand * kWarp + lane] = sum;
  for (int half = kWarp / 2; half > 0; half /= 2) {
    __syncthreads();
    if (strand < half) sums[strand * kWarp + lane] += sums[(strand + half) * kWarp + lane];
  }
  if (strand == 0 && column < columns) out[image * columns + column] = sums[lane];
}

inline void launch_sum_rows(const void* partial, int64_t images, int64_t rows, int64_t columns, void* out, void* stream) {
  launch(sum_rows, grid_of(images * ceil_div(columns, kWarp)), dim3(kWarp, kWarp), kWarp * kWarp * sizeof(float), stream,
         static_cast<const float*>(partial), rows, columns, static_cast<float*>(out));
}

}  // namespace fastseg::cuda
