// A 1×1 convolution is a matrix product whose rows are contiguous points: z [outputs, points] = weight [outputs, inputs] · x [inputs,
// points] per image and group. A block makes a tile of outputs × 128 points and applies the epilogue to it in registers.
#include "../ops.h"
#include "gelu.h"
#include "intrinsics.h"
#include "launch.h"
#include "product.h"
#include "sums.h"

namespace fastseg::cuda {
namespace {

__device__ inline float relu(float y) { return y < 0 ? 0.0f : y; }  // NaN stays NaN

// One row's four points: z → out. Moments add up what they see.
template <Epilogue epilogue, class Factor>
struct Finish {
  const PointwiseParams& p;
  bool wide;
  float scale, shift, sum, squares;

  __device__ Finish(const PointwiseParams& p, int64_t channel, bool exists, bool wide) : p(p), wide(wide), sum(0), squares(0) {
    if (epilogue != Epilogue::kAffineRelu || !exists) return;
    scale = static_cast<const float*>(p.scale)[channel];
    shift = static_cast<const float*>(p.shift)[channel];
  }

  __device__ void operator()(float (&z)[kPack], int64_t offset, int64_t valid) {
    if (p.addend) {
      const Four addend = load_valid<kPack>(static_cast<const float*>(p.addend) + offset, valid, wide);
      FASTSEG_UNROLL
      for (int v = 0; v < kPack; ++v) z[v] += addend.at[v];
    }
    Pack<Factor, kPack> factor;
    if constexpr (epilogue == Epilogue::kGeluGradient)
      factor = load_valid<kPack>(static_cast<const Factor*>(p.factor) + offset, valid, wide);
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) {
      if constexpr (epilogue == Epilogue::kGelu) z[v] = gelu(z[v]);
      if constexpr (epilogue == Epilogue::kGeluGradient) z[v] = (normal_cdf(z[v]) + z[v] * normal_density(z[v])) * to_compute(factor.at[v]);
      if constexpr (epilogue == Epilogue::kAffineRelu) z[v] = relu(scale * z[v] + shift);
      if constexpr (epilogue == Epilogue::kMoments) {
        if (v < valid) sum += z[v], squares += z[v] * z[v];
      }
    }
  }
};

// Over the lanes that share a row.
__device__ inline float row_sum(float value) {
  FASTSEG_UNROLL
  for (int lanes = kPointLanes / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

template <Epilogue epilogue, int kRows, class In, class Out>
__device__ inline void finish(const PointwiseParams& p, const Tile& tile, bool wide, Sums<kRows>& z) {
  const int lane = int(threadIdx.x) % kPointLanes, row_lane = int(threadIdx.x) / kPointLanes;
  const int64_t channels = p.groups * p.outputs, first = tile.group * p.outputs;
  FASTSEG_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = tile.row + row_lane * kRows + r, channel = first + row;
    Finish<epilogue, In> apply(p, channel, row < p.outputs, wide);
    FASTSEG_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      const int64_t point = tile.point + h * kHalfPoints + lane * kPack, offset = (tile.image * channels + channel) * p.points + point;
      const int64_t valid = row < p.outputs ? p.points - point : 0;
      apply(z[r][h], offset, valid);
      store_valid(static_cast<Out*>(p.out) + offset, z[r][h], valid, wide);
    }
    if constexpr (epilogue == Epilogue::kMoments) {
      const float sum = row_sum(apply.sum), squares = row_sum(apply.squares);
      float* partial = static_cast<float*>(p.partial) + tile.block * 2 * channels + channel;
      if (lane == 0 && row < p.outputs) partial[0] = sum, partial[channels] = squares;
    }
  }
}

template <Epilogue epilogue, int kRows, class In, class Out>
__device__ inline void finish_if_asked(const PointwiseParams& p, const Tile& tile, bool wide, Sums<kRows>& z) {
  if constexpr (pointwise_serves(epilogue, kDTypeOf<In>, kDTypeOf<Out>)) {
    if (p.epilogue == epilogue) finish<epilogue, kRows, In, Out>(p, tile, wide, z);
  }
}

// The epilogue is chosen here, not by the kernel's type: one product serves them all.
template <int kRows, class In, class Out>
__device__ inline void finish_as_asked(const PointwiseParams& p, const Tile& tile, bool wide, Sums<kRows>& z) {
  finish_if_asked<Epilogue::kNone, kRows, In, Out>(p, tile, wide, z);
  finish_if_asked<Epilogue::kGelu, kRows, In, Out>(p, tile, wide, z);
  finish_if_asked<Epilogue::kGeluGradient, kRows, In, Out>(p, tile, wide, z);
  finish_if_asked<Epilogue::kAffineRelu, kRows, In, Out>(p, tile, wide, z);
  finish_if_asked<Epilogue::kMoments, kRows, In, Out>(p, tile, wide, z);
}

template <int kRows, class In, class Out>
__global__ void __launch_bounds__(kThreads, 3) pointwise_tile(PointwiseParams p, bool wide) {
  using S = Shape<kRows>;
  float* slices = shared_memory<float>();  // [2]: x [kDepth][kTilePoints], weight [kDepth][kWeightStride]
  const Tile tile(p, S::kTileRows);
  Slice<kRows, In> next(p, tile, wide);
  Sums<kRows> z = {};
  next.fetch(0);
  int buffer = 0;
  for (int first = 0; first < p.inputs; first += kDepth, buffer ^= 1) {
    float *x = slices + buffer * S::kSlice, *weight = x + kDepth * kTilePoints;
    next.put(x, weight);
    __syncthreads();
    if (first + kDepth < p.inputs) next.fetch(first + kDepth);
    multiply<kRows>(x, weight, z);
  }
  finish_as_asked<kRows, In, Out>(p, tile, wide, z);
}

template <int kRows, class In, class Out>
void run_rows(const PointwiseParams& p) {
  const auto aligned = [&](auto* pointer) { return packs_align<kPack>(pointer, p.points); };
  const bool wide = aligned(static_cast<const In*>(p.x)) && aligned(static_cast<const Out*>(p.out)) &&
                    aligned(static_cast<const float*>(p.addend)) && aligned(static_cast<const In*>(p.factor));
  using S = Shape<kRows>;
  const int64_t tiles = ceil_div(p.outputs, S::kTileRows) * p.groups * moment_blocks(p.batch, p.points);
  launch(pointwise_tile<kRows, In, Out>, grid_of(tiles), kThreads, S::kSharedBytes, p.lane.stream, p, wide);
}

template <class In, class Out>
void run(const PointwiseParams& p) {
  p.outputs <= Shape<4>::kTileRows ? run_rows<4, In, Out>(p) : run_rows<8, In, Out>(p);
}

// float32 to and from either 16-bit type, and every type to itself.
template <class In>
void run_to(const PointwiseParams& p) {
  if (p.out_dtype == DType::kFloat32) return run<In, float>(p);
  if constexpr (!std::is_same_v<In, BFloat16>)
    if (p.out_dtype == DType::kFloat16) return run<In, Half>(p);
  if constexpr (!std::is_same_v<In, Half>)
    if (p.out_dtype == DType::kBFloat16) return run<In, BFloat16>(p);
}

constexpr int kReluWarps = 8, kReluThreads = kReluWarps * kWarp;  // a warp takes 128 points of one channel

template <bool backward>
__global__ void __launch_bounds__(kReluThreads) affine_relu_rows(AffineReluParams p, bool wide) {
  const int64_t blocks = ceil_div(p.points, kMomentPoints), index = int64_t{blockIdx.x} * kReluWarps + threadIdx.x / kWarp;
  if (index >= p.batch * p.channels * blocks) return;
  const int64_t plane = index / blocks, channel = plane % p.channels, image = plane / p.channels, block = index % blocks;
  const int64_t point = block * kMomentPoints + threadIdx.x % kWarp * kPack, offset = plane * p.points + point, valid = p.points - point;
  const float scale = static_cast<const float*>(p.scale)[channel], shift = static_cast<const float*>(p.shift)[channel];
  const Four z = load_valid<kPack>(static_cast<const float*>(p.z) + offset, valid, wide);
  Four gradient = {};
  if (backward) gradient = load_valid<kPack>(static_cast<const float*>(p.gradient) + offset, valid, wide);
  float out[kPack], dscale = 0, dshift = 0;
  FASTSEG_UNROLL
  for (int v = 0; v < kPack; ++v) {
    const float y = scale * z.at[v] + shift;
    const float passed = y > 0 ? gradient.at[v] : 0.0f;
    out[v] = backward ? scale * passed : relu(y);
    dscale += passed * z.at[v];
    dshift += passed;
  }
  store_valid(static_cast<float*>(p.out) + offset, out, valid, wide);
  if (!backward) return;
  dscale = warp_sum(dscale), dshift = warp_sum(dshift);
  float* partial = static_cast<float*>(p.partial) + (image * blocks + block) * 2 * p.channels + channel;
  if (threadIdx.x % kWarp == 0) partial[0] = dscale, partial[p.channels] = dshift;
}

template <bool backward>
void run_affine_relu(const AffineReluParams& p) {
  const auto aligned = [&](const void* pointer) { return packs_align<kPack>(static_cast<const float*>(pointer), p.points); };
  const int64_t rows = p.batch * p.channels * ceil_div(p.points, kMomentPoints);
  launch(affine_relu_rows<backward>, grid_of(ceil_div(rows, kReluWarps)), kReluThreads, 0, p.lane.stream, p,
         aligned(p.z) && aligned(p.gradient) && aligned(p.out));
}

}  // namespace

void pointwise(const PointwiseParams& p) {
  if (p.in_dtype == DType::kFloat64) throw Error("pointwise: no CUDA kernel for float64");
  if (!pointwise_serves(p.epilogue, p.in_dtype, p.out_dtype)) throw Error("pointwise: no kernel for this epilogue and these dtypes");
  if (p.batch * p.groups * p.outputs * p.points > 0) {
    if (p.in_dtype == DType::kFloat32) run_to<float>(p);
    if (p.in_dtype == DType::kFloat16) run_to<Half>(p);
    if (p.in_dtype == DType::kBFloat16) run_to<BFloat16>(p);
  }
  const int64_t columns = 2 * p.groups * p.outputs;
  if (p.epilogue == Epilogue::kMoments)
    launch_sum_rows({static_cast<const float*>(p.partial), 1, moment_blocks(p.batch, p.points), columns, columns}, p.moments,
                    p.lane.stream);
}

void affine_relu(const AffineReluParams& p) {
  if (p.is_double) throw Error("affine_relu: no CUDA kernel for float64");
  if (p.batch * p.channels * p.points > 0) p.gradient ? run_affine_relu<true>(p) : run_affine_relu<false>(p);
  if (p.gradient)
    launch_sum_rows({static_cast<const float*>(p.partial), 1, moment_blocks(p.batch, p.points), 2 * p.channels, 2 * p.channels}, p.sums,
                    p.lane.stream);
}

}  // namespace fastseg::cuda
