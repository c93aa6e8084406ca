// Along H or D: a thread slides down four neighbouring columns, or one where packs do not align, and makes four samples of each. Warps of a
// block lie one below the other and meet each other's samples in L1. Taps come in segments, so no radius is too large.
#pragma once

#include "../launch.h"
#include "taps.h"

namespace fastseg::cuda::filter {

constexpr int kColumnTaps = 1024;  // in shared memory at a time

// Groups of columns, a sample of which lies `stride` below the one before it.
struct Columns {
  int64_t groups;
  int columns, size;
  int64_t image, group, stride;                       // numbers from one to the next, in what is read
  int64_t result_image, result_group, result_stride;  // and in the results
};

template <class In, class Out>
struct ColumnsPass {
  Taps taps;
  int axis;
  Columns of;
  const In* x;
  Result<Out> to;
  bool wide;
  int narrow;  // images of a plane_reach up to this are another kernel's
};

template <int n, class In>
struct Down {
  const In* column;
  int64_t stride;
  int first, size;  // the first sample that is read
  Padding padding;

  __device__ bool inside(int samples) const { return first >= 0 && first + samples <= size; }

  template <bool inside>
  __device__ void load(int at, Pack<In, n> (&samples)[kOutputs]) const {
    FASTSEG_UNROLL
    for (int i = 0; i < kOutputs; ++i) {
      const int source = inside ? first + at + i : source_of(first + at + i, size, padding);
      samples[i] = inside || source >= 0 ? load_pack<n>(column + source * stride) : Pack<In, n>{};
    }
  }
};

// sums[s][v] += the taps times `steps` groups of four samples from `first` on; the next group is under way while one is used.
template <bool inside, int n, class In>
__device__ inline void slide(const Down<n, In>& down, const float* padded, int first, int steps, float (&sums)[kOutputs][n]) {
  float window[2 * kOutputs];
  Pack<In, n> next[kOutputs];
  advance(window, padded);
  down.template load<inside>(first * kOutputs, next);
  FASTSEG_UNROLL_BY(1)
  for (int step = 0; step < steps; ++step) {
    Pack<float, n> samples[kOutputs];
    FASTSEG_UNROLL
    for (int i = 0; i < kOutputs; ++i) {
      FASTSEG_UNROLL
      for (int v = 0; v < n; ++v) samples[i].at[v] = to_compute(next[i].at[v]);
    }
    if (step + 1 < steps) down.template load<inside>((first + step + 1) * kOutputs, next);
    advance(window, padded + (step + 1) * kOutputs);
    accumulate(window, samples, sums);
  }
}

// Samples that are stored narrower than results want more registers.
template <int n, class In, class Out>
__global__ void __launch_bounds__(kMaxThreads, sizeof(In) < sizeof(Out) ? 2 : kResident)
    filter_columns(ColumnsPass<In, Out> p) {
  float* padded = shared_memory<float>();  // [kColumnTaps + 4] at most
  const int span = int(blockDim.y) * kOutputs, across = int(ceil_div(p.of.columns, kWarp * n)), spans = int(ceil_div(p.of.size, span));
  const int64_t tile = blockIdx.x / spans, image = tile / across / p.of.groups, group = tile / across % p.of.groups;
  if (p.taps.plane_reach(image) <= p.narrow) return;
  const int begin = int(blockIdx.x % spans) * span + int(threadIdx.y) * kOutputs;
  const int column = (int(tile % across) * kWarp + int(threadIdx.x)) * n;
  const bool exists = begin < p.of.size && column < p.of.columns;
  const int reach = p.taps.reach(image, p.axis), all = steps_of(reach, reach);
  const Down<n, In> down{p.x + image * p.of.image + group * p.of.group + column, p.of.stride, begin - reach, p.of.size, p.taps.extension()};
  float sums[kOutputs][n] = {};
  for (int first = 0; first < all; first += kColumnTaps / kOutputs) {
    const int steps = all - first < kColumnTaps / kOutputs ? all - first : kColumnTaps / kOutputs;
    __syncthreads();
    pad_taps(p.taps, image, p.axis, reach, first * kOutputs, (steps + 1) * kOutputs, padded);
    __syncthreads();
    if (!exists) continue;
    if (down.inside(all * kOutputs))
      slide<true>(down, padded, first, steps, sums);
    else
      slide<false>(down, padded, first, steps, sums);
  }
  if (!exists) return;
  if (p.taps.folds_back())
    add_gifts(sums, [&](int i, int v) {
      const In* line = down.column + v;
      if (begin + i >= p.of.size) return 0.0f;
      return reflected_gifts(p.taps, image, p.axis, p.of.size, begin + i, [&](int at) { return to_compute(line[at * p.of.stride]); });
    });
  const int64_t offset = image * p.of.result_image + group * p.of.result_group + begin * p.of.result_stride + column;
  write<n>(p.to, offset, p.of.result_stride, sums, unit_gain(p.taps, image, p.to.unit_axes), p.of.size - begin, n, p.wide);
}

template <class In, class Out>
void launch_columns(const ColumnsPass<In, Out>& pass, int64_t images, void* stream) {
  const Columns& of = pass.of;
  const int warps = of.size < kMaxWarps * kOutputs ? int(ceil_div(of.size, kOutputs)) : kMaxWarps, n = pass.wide ? kPack : 1;
  const int64_t taps = steps_of(pass.taps.radius, pass.taps.radius) * kOutputs;
  const size_t bytes = ((taps < kColumnTaps ? taps : kColumnTaps) + kOutputs) * sizeof(float);
  const dim3 grid = grid_of(images * of.groups * ceil_div(of.columns, kWarp * n) * ceil_div(of.size, warps * kOutputs));
  launch(pass.wide ? filter_columns<kPack, In, Out> : filter_columns<1, In, Out>, grid, dim3(kWarp, warps), bytes, stream, pass);
}

}  // namespace fastseg::cuda::filter
