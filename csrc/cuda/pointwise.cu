// A 1×1 convolution is a matrix product whose rows are contiguous points: z [outputs, points] = weight [outputs, inputs] · x [inputs,
// points] per image and group. A block makes a tile of outputs × 128 points in registers and applies the epilogue on its way out.
#include "../ops.h"
#include "gelu.h"
#include "intrinsics.h"
#include "launch.h"
#include "product.h"
#include "sums.h"

namespace fastseg::cuda {
namespace {

__device__ inline float relu(float y) { return y < 0 ? 0.0f : y; }  // NaN stays NaN

// z → out for four points of a row, and what moments see of them.
template <Epilogue epilogue, class In>
__device__ inline void apply(const PointwiseParams& p, Four& z, int64_t channel, int64_t offset, int64_t valid, bool wide,
                             float (&moments)[2]) {
  Four gain = {};
  if constexpr (epilogue == Epilogue::kGeluGradient) {
    const auto factor = load_valid<kPack>(static_cast<const In*>(p.factor) + offset, valid, wide);
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) gain.at[v] = to_compute(factor.at[v]);
  }
  float scale = 1, shift = 0;
  if constexpr (epilogue == Epilogue::kAffineRelu) {
    scale = static_cast<const float*>(p.scale)[channel];
    shift = static_cast<const float*>(p.shift)[channel];
  }
  FASTSEG_UNROLL
  for (int v = 0; v < kPack; ++v) {
    float& y = z.at[v];
    if constexpr (epilogue == Epilogue::kGelu) y = gelu(y);
    if constexpr (epilogue == Epilogue::kGeluGradient) y = (normal_cdf(y) + y * normal_density(y)) * gain.at[v];
    if constexpr (epilogue == Epilogue::kAffineRelu) y = relu(scale * y + shift);
    if constexpr (epilogue == Epilogue::kMoments) {
      if (v < valid) moments[0] += y, moments[1] += y * y;
    }
  }
}

constexpr int kStagedRows = kRowLanes * kPack;  // rows of a tile that pass through shared memory at a time

// The epilogue of staged rows, a warp a row: its code is there once, and a row is read and written in one piece. Rows come in packs,
// of which this is one: pack i is that of rows tile.row + i · kRows + first …
template <Epilogue epilogue, int kRows, class In, class Out>
__device__ inline void finish(const PointwiseParams& p, const Tile& tile, const float* staged, int first, bool wide) {
  const int64_t channels = p.groups * p.outputs, point = tile.point + threadIdx.x % kWarp * kPack, valid = p.points - point;
  FASTSEG_UNROLL_BY(1)
  for (int i = threadIdx.x / kWarp; i < kStagedRows; i += kThreads / kWarp) {
    const int64_t row = tile.row + i / kPack * kRows + first + i % kPack, channel = tile.group * p.outputs + row;
    if (row >= p.outputs) continue;
    const int64_t offset = (tile.image * channels + channel) * p.points + point;
    Four z = load_pack<kPack>(staged + i * kTilePoints + threadIdx.x % kWarp * kPack);
    if (p.addend) {
      const Four addend = load_valid<kPack>(static_cast<const float*>(p.addend) + offset, valid, wide);
      FASTSEG_UNROLL
      for (int v = 0; v < kPack; ++v) z.at[v] += addend.at[v];
    }
    float moments[2] = {};
    apply<epilogue, In>(p, z, channel, offset, valid, wide, moments);
    store_valid(static_cast<Out*>(p.out) + offset, z.at, valid, wide);
    if constexpr (epilogue == Epilogue::kMoments) {
      float* partial = static_cast<float*>(p.partial) + tile.block * 2 * channels + channel;
      const float sum = warp_sum(moments[0]), squares = warp_sum(moments[1]);
      if (threadIdx.x % kWarp == 0) partial[0] = sum, partial[channels] = squares;
    }
  }
}

template <Epilogue epilogue, int kRows, class In, class Out>
__device__ inline void finish_if_asked(const PointwiseParams& p, const Tile& tile, const float* staged, int first, bool wide) {
  if constexpr (pointwise_serves(epilogue, kDTypeOf<In>, kDTypeOf<Out>)) {
    if (p.epilogue == epilogue) finish<epilogue, kRows, In, Out>(p, tile, staged, first, wide);
  }
}

// The epilogue is chosen here, not by the kernel's type: one product serves them all.
template <int kRows, class In, class Out>
__device__ inline void finish_as_asked(const PointwiseParams& p, const Tile& tile, float* staged, const Sums<kRows>& z, bool wide) {
  float* own = staged + int(threadIdx.x) / kPointLanes * kPack * kTilePoints + int(threadIdx.x) % kPointLanes * kPack;
  FASTSEG_UNROLL_BY(1)
  for (int first = 0; first < kRows; first += kPack) {
    __syncthreads();
    FASTSEG_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTSEG_UNROLL
      for (int h = 0; h < kHalves; ++h)
        if (r / kPack * kPack == first)
          store_pack(own + r % kPack * kTilePoints + h * kHalfPoints, Four{{z[r][h][0], z[r][h][1], z[r][h][2], z[r][h][3]}});
    }
    __syncthreads();
    finish_if_asked<Epilogue::kNone, kRows, In, Out>(p, tile, staged, first, wide);
    finish_if_asked<Epilogue::kGelu, kRows, In, Out>(p, tile, staged, first, wide);
    finish_if_asked<Epilogue::kGeluGradient, kRows, In, Out>(p, tile, staged, first, wide);
    finish_if_asked<Epilogue::kAffineRelu, kRows, In, Out>(p, tile, staged, first, wide);
    finish_if_asked<Epilogue::kMoments, kRows, In, Out>(p, tile, staged, first, wide);
  }
}

template <int kRows, class In, class Out>
__global__ void __launch_bounds__(kThreads, kRows == 4 ? 4 : 3) pointwise_tile(PointwiseParams p, bool wide) {
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
  static_assert(kStagedRows * kTilePoints * sizeof(float) <= S::kSharedBytes);
  finish_as_asked<kRows, In, Out>(p, tile, slices, z, wide);
}

constexpr int64_t kEnoughTiles = 48;  // tall ones to give most multiprocessors one

template <int kRows>
int64_t tiles(const PointwiseParams& p) {
  return ceil_div(p.outputs, Shape<kRows>::kTileRows) * p.groups * moment_blocks(p.batch, p.points);
}

template <int kRows, class In, class Out>
void run_rows(const PointwiseParams& p) {
  const auto aligned = [&](auto* pointer) { return packs_align<kPack>(pointer, p.points); };
  const bool wide = aligned(static_cast<const In*>(p.x)) && aligned(static_cast<const Out*>(p.out)) &&
                    aligned(static_cast<const float*>(p.addend)) && aligned(static_cast<const In*>(p.factor));
  launch(pointwise_tile<kRows, In, Out>, grid_of(tiles<kRows>(p)), kThreads, Shape<kRows>::kSharedBytes, p.lane.stream, p, wide);
}

// Tall tiles read x less often, if they are neither padding nor too few for the device.
template <class In, class Out>
void run(const PointwiseParams& p) {
  p.outputs > Shape<4>::kTileRows&& tiles<8>(p) >= kEnoughTiles ? run_rows<8, In, Out>(p) : run_rows<4, In, Out>(p);
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
