// A separable filter, one pass an axis: device memory → tile of 32 lines with a halo in shared memory → registers, where a thread makes 8
// neighbouring samples of one line. The last pass also writes x − low. Taps come in segments, so no radius is too large. Symmetric taps are
// not folded: adding a mirrored pair first costs the instruction that the spared multiply-add was.
#include "../ops.h"
#include "intrinsics.h"
#include "launch.h"
#include "lines.h"
#include "sums.h"

namespace fastseg::cuda {
namespace {

constexpr int kSamples = 8;    // of one thread
constexpr int kMaxGroups = 8;  // warps of a block, which share its lines
constexpr int kMaxThreads = kMaxGroups * kWarp;
constexpr int kMaxSteps = 64;                       // samples a thread reads for a segment of taps
constexpr int kSegment = kMaxSteps - kSamples + 1;  // taps
constexpr int kPack = 4;
// Blocks of a multiprocessor at a time: what the registers allow without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
constexpr int kResident = 2;
#else
constexpr int kResident = 4;
#endif

constexpr int steps_for(int taps) { return int(round_up(taps + kSamples - 1, kSamples)); }
constexpr int taps_in(int64_t radius) { return 2 * radius + 1 < kSegment ? int(2 * radius + 1) : kSegment; }

struct Taps {
  const float* data;     // [tap_images, 3, 2·radius + 1]
  const int32_t* radii;  // [tap_images, 3]
  int64_t per_image;     // 0 where all images share them
  int radius;

  __device__ const float* centre(int64_t image, int axis) const {
    return data + (image * per_image * 3 + axis) * (2 * radius + 1) + radius;
  }
  __device__ int reach(int64_t image, int axis) const { return radii[image * per_image * 3 + axis]; }
};

template <class In, class Out>
struct Pass {
  Lines lines;
  int axis, unit_axes;  // unit_axes: a bit for every axis of one sample, where a filter is a factor
  Taps taps;
  Padding padding;
  bool adjoint;
  int64_t voxels;
  const In* x;
  const Out* original;
  Out *low, *high;
};

// The product of the filters along axes of one sample, which sees itself in every extension but zeros.
__device__ inline float unit_gain(const Taps& taps, int64_t image, int unit_axes, Padding padding) {
  float gain = 1;
  for (int axis = 0; axis < 3; ++axis) {
    if (!(unit_axes >> axis & 1)) continue;
    const float* centre = taps.centre(image, axis);
    const int reach = padding == Padding::kCircular ? taps.reach(image, axis) : 0;
    float sum = 0;
    for (int r = -reach; r <= reach; ++r) sum += centre[r];
    gain *= sum;
  }
  return gain;
}

// sums[s] += Σ_t taps[t] · samples[s + t]; `padded` has kSamples − 1 zeros before the taps and zeros after them.
__device__ inline void correlate(const float* samples, const float* padded, int steps, float (&sums)[kSamples]) {
  for (int step = 0; step < steps; step += kSamples) {
    float taps[2 * kSamples], read[kSamples];
    FASTSEG_UNROLL
    for (int i = 0; i < 2 * kSamples; i += kPack) {
      const auto four = load_pack<kPack>(padded + step + i);
      FASTSEG_UNROLL
      for (int v = 0; v < kPack; ++v) taps[i + v] = four.at[v];
    }
    FASTSEG_UNROLL
    for (int i = 0; i < kSamples; ++i) read[i] = samples[(step + i) * kTileStride];
    FASTSEG_UNROLL
    for (int s = 0; s < kSamples; ++s) {
      FASTSEG_UNROLL
      for (int i = 0; i < kSamples; ++i) sums[s] += taps[i - s + kSamples - 1] * read[i];
    }
  }
}

// What sample m gave through the reflections of a line, beside what it gave directly.
template <class In>
__device__ inline float reflected_gifts(const In* line, int64_t stride, int size, int m, const float* centre, int reach) {
  float sum = 0;
  if (m >= 1)
    for (int n = 0; n <= reach - m; ++n) sum += centre[-m - n] * to_compute(line[n * stride]);
  const int mirrored = 2 * (size - 1) - m;
  if (mirrored >= size)
    for (int n = mirrored - reach; n < size; ++n) sum += centre[mirrored - n] * to_compute(line[n * stride]);
  return sum;
}

template <bool contiguous, class In, class Out>
__global__ void __launch_bounds__(kMaxThreads, kResident) filter_lines(Pass<In, Out> p) {
  float* padded = shared_memory<float>();       // [kMaxSteps + kSamples]
  float* tile = padded + kMaxSteps + kSamples;  // samples, then results
  const int lane = int(threadIdx.x), own = int(threadIdx.y) * kSamples, span = int(blockDim.y) * kSamples;
  const int64_t spans = ceil_div(p.lines.size, span), tiles = p.lines.tiles(), image = blockIdx.x / (spans * tiles);
  const int begin = int(blockIdx.x % spans) * span;
  const LineTile at(p.lines, blockIdx.x / spans % tiles);
  const In* x = p.x + image * p.voxels;
  const float* centre = p.taps.centre(image, p.axis);
  const int reach = p.taps.reach(image, p.axis), all_taps = 2 * reach + 1;
  const bool folds_back = p.adjoint && p.padding == Padding::kReflect;
  float sums[kSamples] = {};
  for (int first = 0; first < all_taps; first += kSegment) {
    const int taps = all_taps - first < kSegment ? all_taps - first : kSegment, steps = steps_for(taps);
    __syncthreads();
    for (int i = int(threadIdx.y) * kWarp + lane; i < steps + kSamples; i += int(blockDim.y) * kWarp) {
      const int tap = i - (kSamples - 1), r = first + tap - reach;
      padded[i] = tap >= 0 && tap < taps ? centre[p.adjoint ? -r : r] : 0.0f;
    }
    load_tile<contiguous>(x, p.lines, at, begin + first - reach, span - kSamples + steps, folds_back ? Padding::kZeros : p.padding, tile);
    __syncthreads();
    correlate(tile + own * kTileStride + lane, padded, steps, sums);
  }
  const float gain = unit_gain(p.taps, image, p.unit_axes, p.padding);
  __syncthreads();
  FASTSEG_UNROLL
  for (int s = 0; s < kSamples; ++s) tile[(own + s) * kTileStride + lane] = gain * sums[s];
  __syncthreads();
  for_tile<contiguous>(p.lines.size - begin < span ? p.lines.size - begin : span, [&](int sample, int line) {
    if (line >= at.count) return;
    float low = tile[sample * kTileStride + line];
    if (folds_back) {
      const In* start = x + at.offset + line * p.lines.column_stride;
      low += gain * reflected_gifts(start, p.lines.stride, p.lines.size, begin + sample, centre, reach);
    }
    const int64_t offset = image * p.voxels + at.offset + line * p.lines.column_stride + (begin + sample) * p.lines.stride;
    if (p.low) from_compute(low, p.low[offset]);
    if (p.high) from_compute(to_compute(p.original[offset]) - low, p.high[offset]);
  });
}

// Warps of a block, so that a line's blocks are about equally full.
int groups_for(int64_t size) {
  const int64_t blocks = ceil_div(size, kMaxGroups * kSamples);
  return int(ceil_div(ceil_div(size, blocks), kSamples));
}

template <class In, class Out>
void launch_pass(const GaussianParams& p, int axis, int unit_axes, const void* x, void* low, void* high) {
  const Taps taps{static_cast<const float*>(p.taps), p.radii, p.tap_images > 1, int(p.radius)};
  const Lines lines = lines_along(axis, p.d, p.h, p.w);
  const Pass<In, Out> pass{lines,
                           axis,
                           unit_axes,
                           taps,
                           p.padding,
                           p.adjoint,
                           p.d * p.h * p.w,
                           static_cast<const In*>(x),
                           static_cast<const Out*>(p.x),
                           static_cast<Out*>(low),
                           static_cast<Out*>(high)};
  const int groups = groups_for(lines.size), samples = (groups - 1) * kSamples + steps_for(taps_in(p.radius));
  const dim3 grid = grid_of(p.images * lines.tiles() * ceil_div(lines.size, groups * kSamples));
  const size_t bytes = (kMaxSteps + kSamples + samples * kTileStride) * sizeof(float);
  launch(axis == 2 ? filter_lines<true, In, Out> : filter_lines<false, In, Out>, grid, dim3(kWarp, groups), bytes, p.lane.stream, pass);
}

// Axes W, H, D; between them float32 goes back and forth between two scratch volumes.
template <class S>
void filter(const GaussianParams& p) {
  const int64_t sizes[3] = {p.d, p.h, p.w};
  int axes[3], count = 0, unit_axes = 0;
  for (int axis = 2; axis >= 0; --axis)
    if (sizes[axis] > 1 || (axis == 0 && count == 0))
      axes[count++] = axis;
    else
      unit_axes |= 1 << axis;
  float* scratch[2] = {static_cast<float*>(p.scratch), static_cast<float*>(p.scratch) + p.images * p.d * p.h * p.w};
  if (count == 1) return launch_pass<S, S>(p, axes[0], unit_axes, p.x, p.low, p.high);
  launch_pass<S, float>(p, axes[0], unit_axes, p.x, scratch[0], nullptr);
  if (count == 3) launch_pass<float, float>(p, axes[1], 0, scratch[0], scratch[1], nullptr);
  launch_pass<float, S>(p, axes[count - 1], 0, scratch[count - 2], p.low, p.high);
}

template <class In>
struct Correlation {
  Lines lines;
  Padding padding;
  int64_t voxels;
  int radius, blocks;  // blocks: partial sums of an image
  const In *x, *gradient;
  float* partial;
};

constexpr int kSpan = kMaxGroups * kSamples;  // samples of the gradient in a tile

// Each warp sums 8 taps over the tiles of its block; lanes are lines.
template <bool contiguous, class In>
__global__ void __launch_bounds__(kMaxThreads) correlate_lines(Correlation<In> p) {
  float* gradient = shared_memory<float>();   // [kSpan][kTileStride]
  float* x = gradient + kSpan * kTileStride;  // [kSpan + taps of the block][kTileStride]
  const int lane = int(threadIdx.x), own = int(threadIdx.y) * kSamples, taps = int(blockDim.y) * kSamples;
  const int tap_blocks = int(ceil_div(2 * p.radius + 1, taps)), first_tap = int(blockIdx.x % tap_blocks) * taps;
  const int64_t block = blockIdx.x / tap_blocks % p.blocks, image = blockIdx.x / tap_blocks / p.blocks;
  const int64_t spans = ceil_div(p.lines.size, kSpan), tiles = p.lines.tiles() * spans;
  float sums[kSamples] = {};
  for (int64_t tile = block; tile < tiles; tile += p.blocks) {
    const LineTile at(p.lines, tile / spans);
    const int begin = int(tile % spans) * kSpan;
    __syncthreads();
    load_tile<contiguous>(p.gradient + image * p.voxels, p.lines, at, begin, kSpan, Padding::kZeros, gradient);
    load_tile<contiguous>(p.x + image * p.voxels, p.lines, at, begin + first_tap - p.radius, kSpan + taps, p.padding, x);
    __syncthreads();
    for (int step = 0; step < kSpan; step += kSamples) {
      float given[kSamples], read[2 * kSamples];
      FASTSEG_UNROLL
      for (int i = 0; i < kSamples; ++i) given[i] = gradient[(step + i) * kTileStride + lane];
      FASTSEG_UNROLL
      for (int i = 0; i < 2 * kSamples; ++i) read[i] = x[(step + own + i) * kTileStride + lane];
      FASTSEG_UNROLL
      for (int s = 0; s < kSamples; ++s) {
        FASTSEG_UNROLL
        for (int i = 0; i < kSamples; ++i) sums[s] += given[i] * read[s + i];
      }
    }
  }
  FASTSEG_UNROLL
  for (int s = 0; s < kSamples; ++s) {
    const float sum = warp_sum(sums[s]);
    const int tap = first_tap + own + s;
    if (lane == 0 && tap <= 2 * p.radius) p.partial[(image * p.blocks + block) * (2 * p.radius + 1) + tap] = sum;
  }
}

template <class In>
void correlate(const TapsGradientParams& p) {
  const Lines lines = lines_along(p.axis, p.d, p.h, p.w);
  const int64_t taps = 2 * p.radius + 1, blocks = taps_blocks(p.d * p.h * p.w);
  const Correlation<In> correlation{lines,
                                    p.padding,
                                    p.d * p.h * p.w,
                                    int(p.radius),
                                    int(blocks),
                                    static_cast<const In*>(p.x),
                                    static_cast<const In*>(p.gradient),
                                    static_cast<float*>(p.partial)};
  const int groups = taps < kSpan ? int(ceil_div(taps, kSamples)) : kMaxGroups;
  const dim3 grid = grid_of(p.images * blocks * ceil_div(taps, groups * kSamples));
  const size_t bytes = (2 * kSpan + groups * kSamples) * kTileStride * sizeof(float);
  launch(p.axis == 2 ? correlate_lines<true, In> : correlate_lines<false, In>, grid, dim3(kWarp, groups), bytes, p.lane.stream,
         correlation);
  launch_sum_rows({correlation.partial, p.images, blocks, taps, taps}, p.out, p.lane.stream);
}

}  // namespace

void gaussian(const GaussianParams& p) {
  if (p.images * p.d * p.h * p.w == 0 || (!p.low && !p.high)) return;
  if (p.dtype == DType::kFloat32) return filter<float>(p);
  if (p.dtype == DType::kFloat16) return filter<Half>(p);
  if (p.dtype == DType::kBFloat16) return filter<BFloat16>(p);
  throw Error("gaussian: no CUDA kernel for float64");
}

void taps_gradient(const TapsGradientParams& p) {
  if (p.images == 0) return;
  if (p.dtype == DType::kFloat32) return correlate<float>(p);
  if (p.dtype == DType::kFloat16) return correlate<Half>(p);
  if (p.dtype == DType::kBFloat16) return correlate<BFloat16>(p);
  throw Error("taps_gradient: no CUDA kernel for float64");
}

}  // namespace fastseg::cuda
