// Along W: rows with a halo in shared memory, half a warp a row, a thread four neighbours of two rows. Taps come in segments, so no radius
// is too large.
#pragma once

#include "../launch.h"
#include "taps.h"

namespace fastseg::cuda::filter {

constexpr int kColumns = 64;  // of a tile
constexpr int kHalf = kColumns / kPack;
constexpr int kPair = 2;           // rows of a thread
constexpr int kSegmentSteps = 32;  // groups of four taps in shared memory at a time
constexpr int kLoadsInFlight = 4;

// Rows of a plane, or of a volume, that a tile covers with its halo. `sources`: where each lies in the plane, −1 for zeros.
template <class In>
struct Region {
  const In* plane;
  const int* sources;
  int rows, w, first_column, columns;
};

// A barrier must follow.
__device__ inline void fill_sources(int first, int rows, int size, Padding padding, int* sources) {
  for (int row = int(threadIdx.y) * kWarp + int(threadIdx.x); row < rows; row += int(blockDim.y) * kWarp)
    sources[row] = source_of(first + row, size, padding);
}

// Packs at `from` of four rows, so many rows apart: all are under way before the first is used.
template <int n, class In>
__device__ inline void load_four(const Region<In>& region, const int (&from)[n], int row, float* tile, int stride) {
  const int warps = int(blockDim.y);
  const bool together = from[0] >= 0 && from[n - 1] == from[0] + n - 1;
  Pack<In, n> read[kLoadsInFlight] = {};
  FASTSEG_UNROLL
  for (int k = 0; k < kLoadsInFlight; ++k) {
    const int source = row + k * warps < region.rows ? region.sources[row + k * warps] : -1;
    if (source < 0) continue;
    const In* line = region.plane + int64_t(source) * region.w;
    if (together) {
      read[k] = load_pack<n>(line + from[0]);
      continue;
    }
    FASTSEG_UNROLL
    for (int v = 0; v < n; ++v)
      if (from[v] >= 0) read[k].at[v] = line[from[v]];
  }
  FASTSEG_UNROLL
  for (int k = 0; k < kLoadsInFlight; ++k) {
    if (row + k * warps >= region.rows) return;
    Pack<float, n> values;
    FASTSEG_UNROLL
    for (int v = 0; v < n; ++v) values.at[v] = to_compute(read[k].at[v]);
    store_pack(tile + (row + k * warps) * stride, values);
  }
}

// tile[row][column] ← the extended region; a warp takes whole rows, packs of n lie on neighbouring lanes.
template <int n, class In>
__device__ inline void load_region(const Region<In>& region, Padding padding, float* tile, int stride) {
  for (int column = int(threadIdx.x) * n; column < region.columns; column += kWarp * n) {
    int from[n];
    FASTSEG_UNROLL
    for (int v = 0; v < n; ++v) from[v] = source_of(region.first_column + column + v, region.w, padding);
    for (int row = int(threadIdx.y); row < region.rows; row += int(blockDim.y) * kLoadsInFlight)
      load_four(region, from, row, tile + column, stride);
  }
}

// Packs do not straddle the end of a row where `wide`.
template <class In>
__device__ inline void load_tile(const Region<In>& region, Padding padding, bool wide, float* tile, int stride) {
  if (wide)
    load_region<kPack>(region, padding, tile, stride);
  else
    load_region<1>(region, padding, tile, stride);
}

// sums[row][s] += the taps times `steps` groups of four samples of two rows.
__device__ inline void correlate_rows(const float* rows, int stride, const float* padded, int steps, float (&sums)[kPair][kOutputs]) {
  float window[2 * kOutputs];
  advance(window, padded);
  FASTSEG_UNROLL_BY(2)
  for (int step = 0; step < steps; ++step) {
    advance(window, padded + (step + 1) * kOutputs);
    FASTSEG_UNROLL
    for (int row = 0; row < kPair; ++row) {
      const auto samples = load_pack<kOutputs>(rows + row * stride + step * kOutputs);
      FASTSEG_UNROLL
      for (int i = 0; i < kOutputs; ++i) {
        FASTSEG_UNROLL
        for (int s = 0; s < kOutputs; ++s) sums[row][s] += window[kOutputs + i - s] * samples.at[i];
      }
    }
  }
}

template <class In, class Out>
struct RowsPass {
  Taps taps;
  int rows, w;  // of an image
  const In* x;
  Result<Out> to;
  bool wide;
  int narrow;  // images of a plane_reach up to this are another kernel's
};

template <class In, class Out>
__global__ void __launch_bounds__(kMaxThreads, kResident) filter_rows(RowsPass<In, Out> p) {
  float* padded = shared_memory<float>();  // [4·(kSegmentSteps + 1)]
  int* sources = reinterpret_cast<int*>(padded + kOutputs * (kSegmentSteps + 1));
  float* tile = reinterpret_cast<float*>(sources + kMaxWarps * 2 * kPair);
  const int across = int(ceil_div(p.w, kColumns)), down = int(ceil_div(p.rows, kPair * 2 * blockDim.y));
  const int64_t image = blockIdx.x / (across * down);
  if (p.taps.plane_reach(image) <= p.narrow) return;
  const int first_row = int(blockIdx.x / across % down) * kPair * 2 * int(blockDim.y), x0 = int(blockIdx.x % across) * kColumns;
  const int rows = p.rows - first_row < kPair * 2 * int(blockDim.y) ? p.rows - first_row : kPair * 2 * int(blockDim.y);
  const int lane = int(threadIdx.x), own = (int(threadIdx.y) * 2 + lane / kHalf) * kPair, column = lane % kHalf * kPack;
  const In* x = p.x + image * p.rows * p.w;
  const int reach = p.taps.reach(image, 2), lead = int(round_up(reach, kPack)), all = steps_of(lead, reach);
  fill_sources(first_row, rows, p.rows, Padding::kZeros, sources);
  float sums[kPair][kOutputs] = {};
  for (int first = 0; first < all; first += kSegmentSteps) {
    const int steps = all - first < kSegmentSteps ? all - first : kSegmentSteps, stride = kColumns + (steps - 1) * kOutputs;
    __syncthreads();
    pad_taps(p.taps, image, 2, lead, first * kOutputs, (steps + 1) * kOutputs, padded);
    load_tile(Region<In>{x, sources, rows, p.w, x0 - lead + first * kOutputs, stride}, p.taps.extension(), p.wide, tile, stride);
    __syncthreads();
    if (own < rows) correlate_rows(tile + own * stride + column, stride, padded, steps, sums);
  }
  if (p.taps.folds_back())
    add_gifts(sums, [&](int row, int s) {
      const In* line = x + int64_t(first_row + own + row) * p.w;
      if (own + row >= rows || x0 + column + s >= p.w) return 0.0f;
      return reflected_gifts(p.taps, image, 2, p.w, x0 + column + s, [&](int n) { return to_compute(line[n]); });
    });
  if (x0 + column < p.w)
    write<kPack>(p.to, (image * p.rows + first_row + own) * p.w + x0 + column, p.w, sums, unit_gain(p.taps, image, p.to.unit_axes),
                 rows - own, p.w - x0 - column, p.wide);
}

template <class In, class Out>
void launch_rows(const RowsPass<In, Out>& pass, int64_t images, void* stream) {
  const int warps = int(pass.rows < kMaxWarps * kPair * 2 ? ceil_div(pass.rows, kPair * 2) : kMaxWarps);
  const int steps = steps_of(int(round_up(pass.taps.radius, kPack)), pass.taps.radius);
  const int held = steps < kSegmentSteps ? steps : kSegmentSteps, stride = kColumns + (held - 1) * kOutputs;
  const dim3 grid = grid_of(images * ceil_div(pass.w, kColumns) * ceil_div(pass.rows, kPair * 2 * warps));
  const size_t bytes = (kOutputs * (kSegmentSteps + 1) + kMaxWarps * 2 * kPair + kPair * 2 * warps * stride) * sizeof(float);
  launch(filter_rows<In, Out>, grid, dim3(kWarp, warps), bytes, stream, pass);
}

}  // namespace fastseg::cuda::filter
