// The gradient of a filter's taps: the gradient of its result times what the taps met, summed over tiles of 32 lines in shared memory.
#include "../../ops.h"
#include "../intrinsics.h"
#include "../launch.h"
#include "../sums.h"
#include "lines.h"

namespace fastseg::cuda {
namespace {

constexpr int kSamples = 8;    // taps of a warp, whose lanes are lines
constexpr int kMaxGroups = 8;  // warps of a block, which share its lines
constexpr int kMaxThreads = kMaxGroups * kWarp;

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

void taps_gradient(const TapsGradientParams& p) {
  if (p.images == 0) return;
  if (p.dtype == DType::kFloat32) return correlate<float>(p);
  if (p.dtype == DType::kFloat16) return correlate<Half>(p);
  if (p.dtype == DType::kBFloat16) return correlate<BFloat16>(p);
  throw Error("taps_gradient: no CUDA kernel for float64");
}

}  // namespace fastseg::cuda
