// Kernels that take a whole plane in one block: x is read once on the way through registers, y is written once, and what lies between the
// H and the W axis stays in shared memory.
#pragma once

#include "../columns.h"
#include "../launch.h"
#include "../rows.h"
#include "../samples.h"

namespace fastseg::cuda {

// At most: 128 registers for each hold the sums of its frequencies, or its samples, and what is on its way.
constexpr int kPlaneThreads = 512;
constexpr int kPlaneRegisters = 128;
constexpr int kMinThreads = 64;  // the last axis keeps more threads busy than a small plane has columns

// How a block of analyse_planes divides its plane: thread → (group of rows n, chunk of frequencies, lane along the columns).
struct PlaneTiling {
  int lanes, chunks, groups;
  int stride;  // of a row of sums
  int splits;  // lanes that share one product along a row
};

template <int kPairs, bool kWide, class S>
__device__ void sum_columns(const S* plane, const Axis& h, int width, const PlaneTiling& t, float* rows) {
  const int lane = threadIdx.x % t.lanes, chunk = threadIdx.x / t.lanes % t.chunks, group = threadIdx.x / (t.lanes * t.chunks);
  const int first = chunk * kPairs, column = ColumnPlace<kSumColumns, kWide>(lane).first, k_count = int(h.distinct());
  const int pairs = min(kPairs, k_count - 1 - first), valid = width - column;
  ColumnSums<kPairs> sums;
  if (group < t.groups) {
    const ColumnSource<S, kWide> x = {plane + column, width, int(h.size), valid};
    sums.add_rows(x, static_cast<const float*>(h.cos) + 2 * first, int(h.padded), group, t.groups);
  }
  rows += column;
  for (int turn = 0; turn < t.groups; ++turn) {
    const int stride = forgotten(t.stride);  // or the addresses of all rows would fill registers
    if (group == turn)
      sums.template deposit<kWide>(chunk == 0 ? rows : nullptr, rows + (1 + first) * stride, rows + (k_count + first) * stride, stride,
                                   pairs, valid, turn == 0);
    __syncthreads();
  }
}

// Folds each row in place, as columns are folded: sums at n for even m, at W/2−n for odd m, differences at W−n and W/2+n. A warp takes a
// row.
__device__ inline void fold_rows(float* rows, int count, int stride, const Axis& w) {
  const int size = int(w.size), warps = blockDim.x / kWarp;
  const RowGroup exists(size);
  for (int i = threadIdx.x / kWarp; i < count; i += warps) {
    float* row = rows + i * stride;
    for (int n = threadIdx.x % kWarp; n < exists.lows; n += kWarp) {
      const bool high = exists.high(n), twin_low = exists.twin_low(n), twin_high = exists.twin_high(n);
      const float low_value = row[n], high_value = high ? row[size - n] : 0.f;
      const float twin_low_value = twin_low ? row[size / 2 - n] : 0.f, twin_high_value = twin_high ? row[size / 2 + n] : 0.f;
      const float sum = low_value + high_value, difference = low_value - high_value;
      const float twin_sum = twin_low_value + twin_high_value, twin_difference = twin_low_value - twin_high_value;
      row[n] = sum + twin_sum;
      if (high) row[size - n] = difference - twin_difference;
      if (twin_low) row[size / 2 - n] = sum - twin_sum;
      if (twin_high) row[size / 2 + n] = difference + twin_difference;
    }
  }
}

__device__ inline void analyse_folded(const float* rows, const PlaneTiling& t, const Axis& h, const Axis& w, const Spectrum& out,
                                      int64_t plane) {
  const Pairing pairing(h, w.positive);
  const int k_count = int(h.distinct()), mode_groups = int(ceil_div(w.positive, kModes)), tasks = k_count * mode_groups;
  const int split = threadIdx.x % t.splits, at_once = blockDim.x / t.splits, size = int(w.size), count = folded_rows(size);
  const bool twins = size % 2 == 0;
  for (int begin = 0; begin < tasks; begin += at_once) {
    const int task = begin + threadIdx.x / t.splits, k = task / mode_groups, mode = task % mode_groups * kModes;
    RowSums sums;
    if (task < tasks) {
      const float* a = rows + k * t.stride;
      const int to_b = k > 0 ? (k_count - 1) * t.stride : 0;
      const FoldedSamples cosines = {a, a + (twins ? size / 2 : 0), 1, twins ? -1 : 1, to_b};
      const FoldedSamples sines = {a + size - 1, a + (twins ? size / 2 + 1 : size - 1), -1, twins ? 1 : -1, to_b};
      sums.add(0, cosines, static_cast<const float*>(w.cos) + mode, int(w.padded), split, count, t.splits);
      sums.add(1, sines, static_cast<const float*>(w.sin) + mode, int(w.padded), split, count - 1, t.splits);
    }
    sums.reduce(t.splits);
    if (task < tasks && split == 0) sums.store(out, plane, pairing, k, mode);
  }
}

template <int kPairs, bool kWide, class S>
__global__ void __launch_bounds__(kPlaneThreads, 1) analyse_planes(const S* x, Spectrum out, Axis h, Axis w, PlaneTiling t) {
  float* rows = shared_memory<float>();
  const int64_t plane = blockIdx.x;
  sum_columns<kPairs, kWide>(x + plane * h.size * w.size, h, int(w.size), t, rows);
  fold_rows(rows, stage_rows(h), t.stride, w);
  __syncthreads();
  analyse_folded(rows, t, h, w, out, plane);
}

// Synthesis of one plane: coefficients [K][columns] and rows [2K−1][stride] in shared memory.
__device__ inline void synthesise_rows_of(const Coefficients* coefficients, const Axis& h, const Axis& w, float* rows, int stride) {
  const int k_count = int(h.distinct()), columns = int(w.positive), groups = int(ceil_div(w.even(), kModes));
  for (int task = threadIdx.x; task < k_count * groups; task += blockDim.x) {
    const int k = task / groups, first = task % groups * kModes;
    RowSamples samples;
    samples.add(coefficients + k * columns, static_cast<const float*>(w.cos) + first, static_cast<const float*>(w.sin) + first, w.padded,
                columns);
    samples.store_p(rows + k * stride, int(w.size), first, 0.f);
    if (k > 0) samples.store_q(rows + (k_count + k - 1) * stride, int(w.size), first, 0.f);
  }
}

template <bool kWide, class S>
__device__ void synthesise_columns_of(const float* rows, int stride, const Axis& h, int width, float bias, S* y) {
  using Place = ColumnPlace<kColumns, kWide>;
  const int lanes = int(Place::lanes(width)), size = int(h.size), tiles = int(ceil_div(folded_rows(size), kSamples));
  for (int task = threadIdx.x; task < lanes * tiles; task += blockDim.x) {
    const int column = Place(task % lanes).first, first = task / lanes * kSamples, valid = width - column, pairs = frequency_pairs(h);
    if (valid <= 0) continue;
    const float* p = rows + stride + column;
    Samples samples;
    samples.add_dc(load_columns<kWide>(rows + column, valid), bias);
    samples.add(SharedRows<kWide>{p, p + pairs * stride, stride, valid}, pairs, table_of_samples(h, first), int(h.padded));
    samples.store<kWide>(y + column, width, size, first, valid);
  }
}

template <bool kWide, class S>
__global__ void __launch_bounds__(kPlaneThreads, 1) synthesise_planes(Spectrum in, S* y, Bias bias, Axis h, Axis w, int stride) {
  const int k_count = int(h.distinct()), columns = int(w.positive);
  const int64_t plane = blockIdx.x;
  Coefficients* coefficients = shared_memory<Coefficients>();
  float* rows = shared_memory<float>() + 4 * k_count * columns;
  const Pairing pairing(h, columns);
  for (int i = threadIdx.x; i < k_count * columns; i += blockDim.x)
    coefficients[i] = separate(in, plane, pairing, i / columns, i % columns);
  __syncthreads();
  synthesise_rows_of(coefficients, h, w, rows, stride);
  __syncthreads();
  synthesise_columns_of<kWide>(rows, stride, h, int(w.size), bias.of_plane(plane), y + plane * h.size * w.size);
}

}  // namespace fastseg::cuda
