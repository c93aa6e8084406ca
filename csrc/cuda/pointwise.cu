// A 1×1 convolution is a matrix product whose rows are contiguous points: z [outputs, points] = weight [outputs, inputs] · x [inputs,
// points] per image and group. A block makes a tile of outputs × 128 points; slices of x and of the weight pass through two buffers in
// shared memory, the next one on its way from device memory while a thread multiplies 4 or 8 rows by 8 points in registers.
#include "../ops.h"
#include "intrinsics.h"
#include "launch.h"
#include "sums.h"

namespace fastseg::cuda {
namespace {

constexpr int kPointLanes = 16, kRowLanes = 8, kThreads = kPointLanes * kRowLanes;
constexpr int kPack = 4, kHalves = 2;  // a thread's points: a pack in either half of the tile
constexpr int kHalfPoints = kPointLanes * kPack, kTilePoints = kHalves * kHalfPoints;
constexpr int kDepth = 16;  // inputs of a slice
static_assert(kTilePoints == kMomentPoints, "one partial sum a tile");

using Four = Pack<float, kPack>;

template <int kRows>
struct Shape {
  static constexpr int kTileRows = kRowLanes * kRows;
  static constexpr int kWeightStride = kTileRows + 4;  // neighbouring inputs of a row fall into different banks
  static constexpr int kSlice = kDepth * (kTilePoints + kWeightStride);
  static constexpr size_t kSharedBytes = 2 * kSlice * sizeof(float);
};

// What a block makes: rows [row, row + kTileRows) of a group and points [point, point + kTilePoints) of an image. Tiles of equal points
// are neighbours in launch order, so that x is found in the second-level cache.
struct Tile {
  int64_t image, group, row, point, block;

  __device__ Tile(const PointwiseParams& p, int tile_rows) {
    const int64_t row_tiles = ceil_div(p.outputs, tile_rows), point_tiles = ceil_div(p.points, kTilePoints);
    int64_t index = blockIdx.x;
    row = index % row_tiles * tile_rows;
    index /= row_tiles;
    group = index % p.groups;
    index /= p.groups;
    block = index;
    point = index % point_tiles * kTilePoints;
    image = index / point_tiles;
  }
};

// The next slice on its way to shared memory.
template <int kRows, class In>
class Slice {
  using S = Shape<kRows>;
  static constexpr int kRowPacks = kTilePoints / kPack, kInputStep = kThreads / kRowPacks, kPacks = kDepth / kInputStep;
  static constexpr int kWeights = kDepth * S::kTileRows / kThreads;

 public:
  // Threads run along whatever is contiguous in the weight.
  __device__ Slice(const PointwiseParams& p, const Tile& tile, bool wide)
      : points_(p.points),
        inputs_(int(p.inputs)),
        rows_left_(int(p.outputs - tile.row)),
        wide_(wide),
        input_(int(threadIdx.x) / kRowPacks),
        column_(int(threadIdx.x) % kRowPacks * kPack),
        weight_input_(int(threadIdx.x) / (p.transposed ? S::kTileRows : 1) % kDepth),
        weight_row_(int(threadIdx.x) / (p.transposed ? 1 : kDepth) % S::kTileRows),
        input_step_(p.transposed ? kThreads / S::kTileRows : 0),
        row_step_(p.transposed ? 0 : kThreads / kDepth),
        input_stride_(p.transposed ? p.outputs : 1),
        row_stride_(p.transposed ? 1 : p.inputs) {
    valid_ = p.points - tile.point - column_ < kPack ? int(p.points - tile.point) - column_ : kPack;
    x_ = static_cast<const In*>(p.x) + ((tile.image * p.groups + tile.group) * p.inputs + input_) * p.points + tile.point + column_;
    weight_ = static_cast<const float*>(p.weight) + tile.group * p.outputs * p.inputs + weight_input_ * input_stride_ +
              (tile.row + weight_row_) * row_stride_;
  }

  // Loads the slice that starts at input `first`; called for every slice in turn.
  __device__ void fetch(int first) {
    FASTSEG_UNROLL
    for (int i = 0; i < kPacks; ++i)
      x_packs_[i] = load_valid<kPack>(x_ + i * kInputStep * points_, first + input_ + i * kInputStep < inputs_ ? valid_ : 0, wide_);
    FASTSEG_UNROLL
    for (int i = 0; i < kWeights; ++i) {
      const bool exists = first + weight_input_ + i * input_step_ < inputs_ && weight_row_ + i * row_step_ < rows_left_;
      weights_[i] = exists ? weight_[i * (input_step_ * input_stride_ + row_step_ * row_stride_)] : 0.0f;
    }
    x_ += kDepth * points_;
    weight_ += kDepth * input_stride_;
  }

  __device__ void put(float* x, float* weight) const {
    FASTSEG_UNROLL
    for (int i = 0; i < kPacks; ++i) {
      Four values;
      FASTSEG_UNROLL
      for (int v = 0; v < kPack; ++v) values.at[v] = to_compute(x_packs_[i].at[v]);
      store_pack(x + (input_ + i * kInputStep) * kTilePoints + column_, values);
    }
    FASTSEG_UNROLL
    for (int i = 0; i < kWeights; ++i)
      weight[(weight_input_ + i * input_step_) * S::kWeightStride + weight_row_ + i * row_step_] = weights_[i];
  }

 private:
  int64_t points_;
  int inputs_, rows_left_, valid_;
  bool wide_;
  int input_, column_;             // of the thread's first pack of x
  int weight_input_, weight_row_;  // of its first weight
  int input_step_, row_step_;      // from one of its weights to the next
  int64_t input_stride_, row_stride_;
  const In* x_;
  const float* weight_;
  Pack<In, kPack> x_packs_[kPacks];
  float weights_[kWeights];
};

template <int kRows>
using Sums = float[kRows][kHalves][kPack];

template <int kRows>
__device__ inline void multiply(const float* x, const float* weight, Sums<kRows>& z) {
  const int lane = int(threadIdx.x) % kPointLanes, row_lane = int(threadIdx.x) / kPointLanes;
  FASTSEG_UNROLL
  for (int k = 0; k < kDepth; ++k) {
    Four columns[kHalves], rows[kRows / kPack];
    FASTSEG_UNROLL
    for (int h = 0; h < kHalves; ++h) columns[h] = load_pack<kPack>(x + k * kTilePoints + h * kHalfPoints + lane * kPack);
    FASTSEG_UNROLL
    for (int r = 0; r < kRows / kPack; ++r)
      rows[r] = load_pack<kPack>(weight + k * Shape<kRows>::kWeightStride + row_lane * kRows + r * kPack);
    FASTSEG_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTSEG_UNROLL
      for (int h = 0; h < kHalves; ++h) {
        FASTSEG_UNROLL
        for (int v = 0; v < kPack; ++v) z[r][h][v] += rows[r / kPack].at[r % kPack] * columns[h].at[v];
      }
    }
  }
}

__device__ inline float relu(float y) { return y < 0 ? 0.0f : y; }  // NaN stays NaN
__device__ inline float normal_cdf(float z) { return 0.5f * erfcf(z * -0.70710678118654752f); }
__device__ inline float normal_density(float z) { return 0.39894228040143268f * expf(-0.5f * z * z); }

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
      if constexpr (epilogue == Epilogue::kGelu) z[v] *= normal_cdf(z[v]);
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

// The epilogue is chosen here, not by the kernel's type: one product serves them all.
template <int kRows, class In, class Out>
__device__ inline void finish_as_asked(const PointwiseParams& p, const Tile& tile, bool wide, Sums<kRows>& z) {
  switch (p.epilogue) {
    case Epilogue::kNone:
      return finish<Epilogue::kNone, kRows, In, Out>(p, tile, wide, z);
    case Epilogue::kGelu:
      return finish<Epilogue::kGelu, kRows, In, Out>(p, tile, wide, z);
    case Epilogue::kGeluGradient:
      return finish<Epilogue::kGeluGradient, kRows, In, Out>(p, tile, wide, z);
    case Epilogue::kAffineRelu:
      return finish<Epilogue::kAffineRelu, kRows, In, Out>(p, tile, wide, z);
    case Epilogue::kMoments:
      return finish<Epilogue::kMoments, kRows, In, Out>(p, tile, wide, z);
  }
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
  throw Error("pointwise: no CUDA kernel for these dtypes");
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
  if (p.epilogue == Epilogue::kGeluGradient && p.factor_dtype != p.in_dtype) throw Error("pointwise: the factor has not the dtype of x");
  if (p.in_dtype == DType::kFloat64) throw Error("pointwise: no CUDA kernel for float64");
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
