// The product of a 1×1 convolution, for one block: slices of x and of the weight pass through two buffers in shared memory, the next one on
// its way from device memory while a thread multiplies 4 or 8 rows by 8 points in registers.
#pragma once

#include "../ops.h"
#include "intrinsics.h"
#include "launch.h"

namespace fastseg::cuda {

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
  constexpr int kUnrolled = kRows == 4 ? 4 : 2;  // more is more code, and more registers than there are
  FASTSEG_UNROLL_BY(kUnrolled)
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

}  // namespace fastseg::cuda
