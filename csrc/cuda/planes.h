// Kernels that take a whole plane in one block: x is read once on the way through registers, y is written once, and what lies between the
// H and the W axis stays in shared memory.
#pragma once

#include "columns.h"
#include "launch.h"
#include "rows.h"

namespace fastseg::cuda {

constexpr int kAnalysisThreads = 256;  // at most: 255 registers for each hold the sums of 16 frequencies
constexpr int kSynthesisThreads = 256;
constexpr int kMinThreads = 64;  // the last axis keeps more threads busy than a small plane has columns

// How a block of analyse_planes divides its plane: thread → (group of rows n, chunk of frequencies, four columns).
struct PlaneTiling {
  int quads, chunks, groups, stride;
  int splits;  // lanes that share one product along a row
  bool wide;
};

template <int kPairs, class S>
__device__ void sum_columns(const S* plane, const Axis& h, int width, const PlaneTiling& t, float* rows) {
  const int quad = threadIdx.x % t.quads, chunk = threadIdx.x / t.quads % t.chunks, group = threadIdx.x / (t.quads * t.chunks);
  const int first = chunk * kPairs, column = quad * kColumns, k_count = int(h.distinct());
  const int pairs = min(kPairs, k_count - 1 - first), valid = min(kColumns, width - column);
  ColumnSums<kPairs> sums;
  if (group < t.groups) {
    const ColumnSource<S> x = {plane + column, width, int(h.size), valid, t.wide};
    sums.add_rows(x, static_cast<const float*>(h.cos) + 2 * first, h.padded, group, t.groups);
  }
  for (int turn = 0; turn < t.groups; ++turn) {
    if (group == turn)
      sums.deposit(chunk == 0 ? rows + column : nullptr, rows + (1 + first) * t.stride + column,
                   rows + (k_count + first) * t.stride + column, t.stride, pairs, turn == 0);
    __syncthreads();
  }
}

// x[n], x[W−n] → their sum and difference, in place
__device__ void fold_rows(float* rows, int count, int stride, const Axis& w) {
  const int odd = int(w.odd()), size = int(w.size);
  for (int i = threadIdx.x; i < count * odd; i += blockDim.x) {
    float* row = rows + i / odd * stride;
    const int n = 1 + i % odd;
    const float low = row[n], high = row[size - n];
    row[n] = low + high, row[size - n] = low - high;
  }
}

__device__ void analyse_folded(const float* rows, const PlaneTiling& t, const Axis& h, const Axis& w, const Spectrum& out, int64_t plane) {
  const Pairing pairing(h, w.positive);
  const int k_count = int(h.distinct()), mode_groups = int(ceil_div(w.positive, kModes)), tasks = k_count * mode_groups;
  const int split = threadIdx.x % t.splits, at_once = blockDim.x / t.splits;
  for (int begin = 0; begin < tasks; begin += at_once) {
    const int task = begin + threadIdx.x / t.splits, k = task / mode_groups, mode = task % mode_groups * kModes;
    RowSums sums;
    if (task < tasks) {
      const float* a = rows + k * t.stride;
      const float* b = rows + (k > 0 ? k_count + k - 1 : 0) * t.stride;
      const int last = int(w.size) - 1;
      sums.add(0, a, b, 1, static_cast<const float*>(w.cos) + mode, w.padded, split, int(w.even()), t.splits);
      sums.add(1, a + last, b + last, -1, static_cast<const float*>(w.sin) + mode, w.padded, split, int(w.odd()), t.splits);
    }
    sums.reduce(t.splits);
    if (task < tasks && split == 0) sums.store(out, plane, pairing, k, mode);
  }
}

template <int kPairs, class S>
__global__ void __launch_bounds__(kAnalysisThreads, 1) analyse_planes(const S* x, Spectrum out, Axis h, Axis w, PlaneTiling t) {
  float* rows = shared_memory<float>();
  const int64_t plane = blockIdx.x;
  sum_columns<kPairs>(x + plane * h.size * w.size, h, int(w.size), t, rows);
  fold_rows(rows, stage_rows(h), t.stride, w);
  __syncthreads();
  analyse_folded(rows, t, h, w, out, plane);
}

// Synthesis of one plane: coefficients [K][columns] and rows [2K−1][stride] in shared memory.
__device__ void synthesise_rows_of(const Coefficients* coefficients, const Axis& h, const Axis& w, float* rows, int stride) {
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

template <class S>
__device__ void synthesise_columns_of(const float* rows, int stride, const Axis& h, int width, float bias, S* y, bool wide) {
  const int quads = int(ceil_div(width, kColumns)), tiles = int(ceil_div(h.even(), kSamples)), k_count = int(h.distinct());
  for (int task = threadIdx.x; task < quads * tiles; task += blockDim.x) {
    const int column = task % quads * kColumns, tile = task / quads;
    Samples samples;
    samples.add_dc(rows + column, bias);
    samples.add(rows + stride + column, rows + k_count * stride + column, stride, k_count - 1,
                static_cast<const float*>(h.cos) + tile * 2 * kSamples, h.padded);
    samples.store(y + column, width, int(h.size), tile * kSamples, min(kColumns, width - column), wide);
  }
}

template <class S>
__global__ void __launch_bounds__(kSynthesisThreads, 2)
    synthesise_planes(Spectrum in, S* y, Bias bias, Axis h, Axis w, int stride, bool wide) {
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
  synthesise_columns_of(rows, stride, h, int(w.size), bias.of_plane(plane), y + plane * h.size * w.size, wide);
}

}  // namespace fastseg::cuda
