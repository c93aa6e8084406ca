// Along W and H at once: a tile with its halo in shared memory is filtered along W in place, each row by the half warp that read it, then
// along H from there, a thread four neighbours of four rows. So a plane is read once, and again for `high` from where it still is in L2.
#pragma once

#include "rows.h"

namespace fastseg::cuda::filter {

constexpr int kTileRows = 64;
constexpr int kWidest = 24;  // the largest reach: a wider halo costs more than a pass an axis
constexpr int kMaxRowsRead = kTileRows + (steps_of(kWidest, kWidest) - 1) * kOutputs;
constexpr int kPadded = (steps_of(kWidest, kWidest) + 1) * kOutputs;

template <class In, class Out>
struct PlanesPass {
  Taps taps;
  int64_t planes;  // of an image
  int h, w;
  int first, rows;  // those to make
  int tile_rows;    // a multiple of 4
  const In* x;
  Result<Out> to;        // of planes that have no rows but those
  int64_t result_plane;  // numbers of one
  bool wide;
};

// Where a block's tile lies, and how it is laid out.
struct PlaneTile {
  int64_t plane, image;
  int row, column;  // the first to make
  int rows;         // to make, a multiple of 4 of which the last may not exist
  int reach_h, steps_h, lead, steps_w;

  template <class P>
  __device__ explicit PlaneTile(const P& p) {
    const int across = int(ceil_div(p.w, kColumns)), down = int(ceil_div(p.rows, p.tile_rows)), tile = int(blockIdx.x % (across * down));
    plane = blockIdx.x / (across * down), image = plane / p.planes;
    row = p.first + tile / across * p.tile_rows, column = tile % across * kColumns;
    const int left = p.first + p.rows - row;
    rows = left < p.tile_rows ? int(round_up(left, kOutputs)) : p.tile_rows;
    reach_h = p.taps.reach(image, 1), steps_h = steps_of(reach_h, reach_h);
    const int reach_w = p.taps.reach(image, 2);
    lead = int(round_up(reach_w, kPack)), steps_w = steps_of(lead, reach_w);
  }
  __device__ int stride() const { return kColumns + (steps_w - 1) * kOutputs; }
  __device__ int rows_read() const { return rows + (steps_h - 1) * kOutputs; }
};

// Each row of the tile becomes its filtered columns.
__device__ inline void filter_in_place(const Taps& taps, const PlaneTile& at, int w, const float* padded, float* tile) {
  const int lane = int(threadIdx.x), column = lane % kHalf * kPack, together = int(blockDim.y) * 2 * kPair, stride = at.stride();
  for (int first = 0; first < at.rows_read(); first += together) {
    const int row = first + (int(threadIdx.y) * 2 + lane / kHalf) * kPair;
    float* own = tile + row * stride + column;
    float sums[kPair][kOutputs] = {};
    if (row < at.rows_read()) {
      correlate_rows(own, stride, padded, at.steps_w, sums);
      if (taps.folds_back())
        add_gifts(sums, [&](int i, int s) {
          const float* line = tile + (row + i) * stride + at.lead - at.column;
          const int m = at.column + column + s;
          return m < w ? reflected_gifts(taps, at.image, 2, w, m, [&](int n) { return line[n]; }) : 0.0f;
        });
    }
    __syncwarp();
    if (row >= at.rows_read()) continue;
    FASTSEG_UNROLL
    for (int i = 0; i < kPair; ++i) {
      Pack<float, kOutputs> four;
      FASTSEG_UNROLL
      for (int s = 0; s < kOutputs; ++s) four.at[s] = sums[i][s];
      store_pack(own + i * stride, four);
    }
  }
}

// sums[s][v] += the taps times `steps` groups of four rows.
__device__ inline void correlate_down(const float* tile, int stride, const float* padded, int steps, float (&sums)[kOutputs][kPack]) {
  float window[2 * kOutputs];
  advance(window, padded);
  FASTSEG_UNROLL_BY(1)
  for (int step = 0; step < steps; ++step) {
    advance(window, padded + (step + 1) * kOutputs);
    Pack<float, kPack> samples[kOutputs];
    FASTSEG_UNROLL
    for (int i = 0; i < kOutputs; ++i) samples[i] = load_pack<kPack>(tile + (step * kOutputs + i) * stride);
    accumulate(window, samples, sums);
  }
}

template <class In, class Out>
__global__ void __launch_bounds__(kMaxThreads, kResident) filter_planes(PlanesPass<In, Out> p) {
  float *taps_w = shared_memory<float>(), *taps_h = taps_w + kPadded;
  int* sources = reinterpret_cast<int*>(taps_h + kPadded);
  float* tile = reinterpret_cast<float*>(sources + kMaxRowsRead);
  const PlaneTile at(p);
  if (p.taps.plane_reach(at.image) > kWidest) return;
  const int stride = at.stride(), lane = int(threadIdx.x), column = lane % kHalf * kPack;
  const In* x = p.x + at.plane * p.h * p.w;
  pad_taps(p.taps, at.image, 2, at.lead, 0, (at.steps_w + 1) * kOutputs, taps_w);
  pad_taps(p.taps, at.image, 1, at.reach_h, 0, (at.steps_h + 1) * kOutputs, taps_h);
  fill_sources(at.row - at.reach_h, at.rows_read(), p.h, p.taps.extension(), sources);
  __syncthreads();
  load_tile(Region<In>{x, sources, at.rows_read(), p.w, at.column - at.lead, stride}, p.taps.extension(), p.wide, tile, stride);
  __syncthreads();
  filter_in_place(p.taps, at, p.w, taps_w, tile);
  __syncthreads();
  const float gain = unit_gain(p.taps, at.image, p.to.unit_axes);
  const int last = p.first + p.rows - at.row, lines = p.w - at.column - column;
  if (lines <= 0) return;
  for (int row = (int(threadIdx.y) * 2 + lane / kHalf) * kOutputs; row < at.rows; row += int(blockDim.y) * 2 * kOutputs) {
    float sums[kOutputs][kPack] = {};
    correlate_down(tile + row * stride + column, stride, taps_h, at.steps_h, sums);
    if (p.taps.folds_back())
      add_gifts(sums, [&](int i, int v) {
        const float* line = tile + (at.reach_h - at.row) * stride + column + v;
        const int m = at.row + row + i;
        return row + i < last ? reflected_gifts(p.taps, at.image, 1, p.h, m, [&](int n) { return line[n * stride]; }) : 0.0f;
      });
    const int64_t offset = at.plane * p.result_plane + int64_t(at.row + row - p.first) * p.w + at.column + column;
    write<kPack>(p.to, offset, p.w, sums, gain, last - row, lines, p.wide);
  }
}

template <class In, class Out>
void launch_planes(PlanesPass<In, Out> pass, int64_t images, void* stream) {
  const int64_t down = ceil_div(pass.rows, kTileRows);
  pass.tile_rows = int(round_up(ceil_div(pass.rows, down), kOutputs));
  const int reach = pass.taps.radius < kWidest ? pass.taps.radius : kWidest, lead = int(round_up(reach, kPack));
  const int rows = pass.tile_rows + (steps_of(reach, reach) - 1) * kOutputs, stride = kColumns + (steps_of(lead, reach) - 1) * kOutputs;
  const int warps = pass.tile_rows < kMaxWarps * 2 * kOutputs ? int(ceil_div(pass.tile_rows, 2 * kOutputs)) : kMaxWarps;
  const dim3 grid = grid_of(images * pass.planes * ceil_div(pass.w, kColumns) * ceil_div(pass.rows, pass.tile_rows));
  launch(filter_planes<In, Out>, grid, dim3(kWarp, warps), (2 * kPadded + kMaxRowsRead + rows * stride) * sizeof(float), stream, pass);
}

}  // namespace fastseg::cuda::filter
