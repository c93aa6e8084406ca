// What a thread of the fused block makes: two rows n and their mirrors N−n, four columns wide, of four output channels. First the synthesis
// along H in sums over even and odd parts, then, on the rows themselves, the product with the skip's weights.
#pragma once

#include "../intrinsics.h"
#include "block.h"

namespace fastseg::cuda {

constexpr int kBlockPack = 4;  // columns of a thread
constexpr int kBlockWarps = 4, kBlockThreads = kBlockWarps * kWarp;
constexpr int kBlockChannels = 4, kBlockOutputs = kBlockWarps * kBlockChannels;  // output channels of a warp, of a block
constexpr int kBlockInputs = 4;                                                  // of a slice: every thread loads four packs
constexpr int kBlockQuads = 4;                                                   // packs of columns a warp covers, and
constexpr int kRowLanes = kWarp / kBlockQuads;
constexpr int kBlockWidth = kBlockQuads * kBlockPack, kBlockRows = 2 * kRowLanes;  // columns, and rows n, of a block
constexpr int kSidePacks = 2 * kWarp, kSidePoints = kSidePacks * kBlockPack;       // of rows n, or of their mirrors
constexpr int kBlockPoints = 2 * kSidePoints;
constexpr int kSkipStride = kBlockOutputs + 4;  // neighbouring inputs fall on different banks
constexpr int kBlockSlice = kBlockInputs * (kBlockPoints + kSkipStride);
constexpr int kTableSamples = 8;  // of a tile of the H table

using Quad = Pack<float, kBlockPack>;

// Which part of the result a block makes. Channels vary fastest, then columns: neighbours read the same x, then the same lines of memory.
struct BlockTile {
  int image, group, depth;
  int channel, column, row;  // the first ones

  __device__ explicit BlockTile(const BlockParams& p) {
    int index = int(blockIdx.x);  // a grid has no more than 2³¹ blocks, and divisions of 64 bits are long
    const auto next = [&](int64_t count) {
      const int at = index % int(count);
      index /= int(count);
      return at;
    };
    channel = next(ceil_div(p.outputs, kBlockOutputs)) * kBlockOutputs;
    column = next(ceil_div(p.width, kBlockWidth)) * kBlockWidth;
    row = next(ceil_div(p.h.even(), kBlockRows)) * kBlockRows;
    depth = next(p.depth);
    group = next(p.groups);
    image = index;
  }
};

// Where a lane is: its first column, and whether that exists, which all four then do; the rows of its two pairs.
struct BlockLane {
  int column, row;
  bool inside;

  __device__ BlockLane(const BlockParams& p, const BlockTile& tile, int lane)
      : column(tile.column + lane % kBlockQuads * kBlockPack), row(tile.row + lane / kBlockQuads), inside(column < p.width) {}
  __device__ int n(int pair) const { return row + pair * kRowLanes; }
  __device__ bool exists(const Axis& h, int pair, int side) const {
    const int64_t twice = 2 * n(pair);
    return inside && (side == 0 ? twice <= h.size : twice > 0 && twice < h.size);
  }
  __device__ int64_t place(const BlockParams& p, int pair, int side) const {  // in a plane
    return (side == 0 ? n(pair) : p.h.size - n(pair)) * p.width + column;
  }
};

// A thread's part of a result: z[pair][side][channel], before they are rows their even and odd parts.
struct BlockSums {
  Quad z[2][2][kBlockChannels] = {};

  // Σ P·cos and Σ Q·sin over the frequencies; rows: of the thread's first channel, at its column, the others `step` apart as far as there
  // are any; table: [frequency][row lane] cosine and sine of the first pair, then of the second.
  __device__ void synthesise(const BlockParams& p, const float* rows, int64_t step, int channels, const float* table) {
    const int64_t sines = (p.h.distinct() - 1) * p.width;
    const auto channel_step = [&](int c) { return c + 1 < channels ? step : 0; };
    const float* at = rows;
    FASTSEG_UNROLL
    for (int c = 0; c < kBlockChannels; at += channel_step(c), ++c) z[0][0][c] = z[1][0][c] = load_pack<kBlockPack>(at);
    FASTSEG_UNROLL_BY(1)
    for (int k = int(p.h.distinct()) - 1; k > 0; --k, table += kRowLanes * kBlockPack) {
      const Quad t = load_pack<kBlockPack>(table);
      at = rows += p.width;
      FASTSEG_UNROLL
      for (int c = 0; c < kBlockChannels; at += channel_step(c), ++c) {
        const Quad even = load_pack<kBlockPack>(at), odd = load_pack<kBlockPack>(at + sines);
        FASTSEG_UNROLL
        for (int i = 0; i < 2 * kBlockPack; ++i) {
          const int pair = i / kBlockPack, v = i % kBlockPack;
          z[pair][0][c].at[v] += t.at[2 * pair] * even.at[v];
          z[pair][1][c].at[v] += t.at[2 * pair + 1] * odd.at[v];
        }
      }
    }
  }

  // Even and odd parts → rows n and N−n.
  __device__ void unfold(const float* bias, int channels) {
    FASTSEG_UNROLL
    for (int c = 0; c < kBlockChannels; ++c) {
      const float shift = bias && c < channels ? bias[c] : 0.f;
      FASTSEG_UNROLL
      for (int i = 0; i < 2 * kBlockPack; ++i) {
        float &low = z[i / kBlockPack][0][c].at[i % kBlockPack], &high = z[i / kBlockPack][1][c].at[i % kBlockPack];
        const float even = low + shift, odd = high;
        low = even + odd, high = even - odd;
      }
    }
  }

  // A slice of inputs; x: [input][side][pair][lane] packs, skip: [input][output], from the warp's first one.
  __device__ void multiply(const float* x, const float* skip) {
    FASTSEG_UNROLL_BY(1)  // a second input at a time would not fit the registers
    for (int i = 0; i < kBlockInputs; ++i) {
      const Quad weights = load_pack<kBlockPack>(skip + i * kSkipStride);
      FASTSEG_UNROLL
      for (int part = 0; part < 4; ++part) {
        const Quad points = load_pack<kBlockPack>(x + i * kBlockPoints + (part * kWarp + threadIdx.x % kWarp) * kBlockPack);
        FASTSEG_UNROLL
        for (int c = 0; c < kBlockChannels; ++c) {
          FASTSEG_UNROLL
          for (int v = 0; v < kBlockPack; ++v) z[part % 2][part / 2][c].at[v] += weights.at[c] * points.at[v];
        }
      }
    }
  }
};

// A slice of inputs on its way to shared memory: four packs of x, and a weight, a thread.
template <class S>
class BlockSlice {
  static constexpr int kInputPacks = kBlockPoints / kBlockPack, kStep = kBlockThreads / kInputPacks, kPacks = kBlockInputs / kStep;

 public:
  __device__ BlockSlice(const BlockParams& p, const BlockTile& tile, int first)
      : input_(first + int(threadIdx.x) / kInputPacks), weight_input_(first + int(threadIdx.x) % kBlockInputs) {
    const int pack = int(threadIdx.x) % kInputPacks, side = pack / kSidePacks, pair = pack / kWarp % 2;
    const BlockLane at(p, tile, pack % kWarp);
    const int64_t channel = (int64_t{tile.image} * p.groups + tile.group) * p.inputs + input_;
    x_ = static_cast<const S*>(p.x) + (channel * p.depth + tile.depth) * p.h.size * p.width + at.place(p, pair, side);
    const int output = tile.channel + int(threadIdx.x) / kBlockInputs;
    skip_ = p.skip + (tile.group * p.outputs + output) * p.inputs + weight_input_;
    if (!at.exists(p.h, pair, side)) input_ = kNone;
    if (int(threadIdx.x) >= kBlockInputs * kBlockOutputs || output >= p.outputs) weight_input_ = kNone;
  }

  // Loads a slice; called for every one in turn.
  __device__ void fetch(const BlockParams& p) {
    const int64_t plane = p.depth * p.h.size * p.width;
    FASTSEG_UNROLL
    for (int i = 0; i < kPacks; ++i) {
      packs_[i] = {};
      if (input_ + i * kStep < p.inputs) packs_[i] = load_raw<kBlockPack>(x_ + i * kStep * plane);
    }
    weight_ = weight_input_ < p.inputs ? *skip_ : 0.f;
    x_ += kBlockInputs * plane, skip_ += kBlockInputs, input_ += kBlockInputs, weight_input_ += kBlockInputs;
  }

  __device__ void put(float* x, float* skip) const {
    FASTSEG_UNROLL
    for (int i = 0; i < kPacks; ++i) {
      Quad values;
      FASTSEG_UNROLL
      for (int v = 0; v < kBlockPack; ++v) values.at[v] = raw_at<S>(packs_[i], v);
      store_pack(x + i * kStep * kBlockPoints + threadIdx.x * kBlockPack, values);
    }
    const int output = int(threadIdx.x) / kBlockInputs;
    if (output < kBlockOutputs) skip[threadIdx.x % kBlockInputs * kSkipStride + output] = weight_;
  }

 private:
  static constexpr int kNone = 1 << 30;  // of a pack, or a weight, that does not exist

  int input_, weight_input_;
  const S* x_;
  const float* skip_;
  RawPack<kBlockPack, S> packs_[kPacks];
  float weight_;
};

}  // namespace fastseg::cuda
