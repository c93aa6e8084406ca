// The lines of a volume along one axis, and tiles of 32 neighbouring lines in shared memory. Whatever the axis, lanes of a warp touch
// neighbours in device memory and lane i computes on line i of a tile: along W, whose samples are contiguous, a tile is transposed on the
// way.
#pragma once

#include "../../ops.h"
#include "../intrinsics.h"

namespace fastseg::cuda {

constexpr int kTileStride = kWarp + 1;  // floats from one sample of a tile to the next: neighbours along either axis in different banks

struct Lines {
  int64_t outer, columns;  // groups of lines, lines of a group
  int size;                // samples of a line
  int64_t outer_stride, column_stride, stride;

  constexpr int64_t tiles() const { return outer * ceil_div(columns, kWarp); }
};

// axis 0, 1, 2 = D, H, W
inline Lines lines_along(int axis, int64_t d, int64_t h, int64_t w) {
  if (axis == 0) return {1, h * w, int(d), 0, 1, h * w};
  if (axis == 1) return {d, w, int(h), h * w, 1, w};
  return {1, d * h, int(w), 0, w, 1};
}

// 32 lines of a group; offsets are into the volume.
struct LineTile {
  int64_t offset;
  int count;

  __device__ LineTile(const Lines& lines, int64_t index) {
    const int64_t tiles = ceil_div(lines.columns, kWarp), first = index % tiles * kWarp;
    offset = index / tiles * lines.outer_stride + first * lines.column_stride;
    count = lines.columns - first < kWarp ? int(lines.columns - first) : kWarp;
  }
};

// The sample that extends a line to `index`; −1: zero. Beyond one reflection nothing is defined, and zero.
__device__ inline int extended(int index, int size, Padding padding) {
  if (index >= 0 && index < size) return index;
  if (padding == Padding::kZeros) return -1;
  if (padding == Padding::kCircular) {
    const int rest = index % size;
    return rest < 0 ? rest + size : rest;
  }
  const int reflected = index < 0 ? -index : 2 * (size - 1) - index;
  return reflected >= 0 && reflected < size ? reflected : -1;
}

// Calls body(sample, line) for every sample < `samples` of 32 lines, neighbours in device memory on neighbouring lanes.
template <bool contiguous, class Body>
__device__ inline void for_tile(int samples, Body&& body) {
  if (contiguous) {
    for (int sample = int(threadIdx.x); sample < samples; sample += kWarp)
      for (int line = int(threadIdx.y); line < kWarp; line += int(blockDim.y)) body(sample, line);
  } else {
    for (int sample = int(threadIdx.y); sample < samples; sample += int(blockDim.y)) body(sample, int(threadIdx.x));
  }
}

// tile[sample][line] ← samples first … first + samples of the extended lines.
template <bool contiguous, class S>
__device__ inline void load_tile(const S* volume, const Lines& lines, const LineTile& at, int first, int samples, Padding padding,
                                 float* tile) {
  for_tile<contiguous>(samples, [&](int sample, int line) {
    const int source = extended(first + sample, lines.size, padding);
    const bool exists = source >= 0 && line < at.count;
    tile[sample * kTileStride + line] = exists ? to_compute(volume[at.offset + line * lines.column_stride + source * lines.stride]) : 0.0f;
  });
}

}  // namespace fastseg::cuda
