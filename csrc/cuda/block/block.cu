// y = gelu(synthesis along H + skip · x + bias) for a tile of 512 points and 16 output channels, all of it in registers: the rows
// over W that the synthesis reads are far fewer than those of y and come from the caches, x passes through shared memory once.
#include "../gelu.h"
#include "../launch.h"
#include "block.h"
#include "tile.h"

namespace fastseg::cuda {
namespace {

// The H table of a tile's rows: [frequency][row lane] cosine and sine of n, then of the lane's other row.
__device__ void stage_table(const Axis& h, int row, float* staged) {
  for (int i = threadIdx.x; i < (h.distinct() - 1) * kRowLanes * kBlockPack; i += blockDim.x) {
    const int sine = i % 2, pair = i / 2 % 2, lane = i / kBlockPack % kRowLanes, k = i / (kBlockPack * kRowLanes);
    const int n = row + lane + pair * kRowLanes, at = (n / kTableSamples * 2 + sine) * kTableSamples + n % kTableSamples;
    staged[i] = n < h.even() ? static_cast<const float*>(h.cos)[k * h.padded + at] : 0.f;
  }
}

// A warp's channels: the first one, and how many there are.
struct WarpChannels {
  int64_t first;  // of all groups
  int count;

  __device__ WarpChannels(const BlockParams& p, const BlockTile& tile) {
    const int own = tile.channel + int(threadIdx.x) / kWarp * kBlockChannels;
    first = tile.group * p.outputs + own, count = int(p.outputs) - own;
  }
  __device__ int64_t plane(const BlockParams& p, const BlockTile& tile) const {  // of the first one
    return (int64_t{tile.image} * p.groups * p.outputs + first) * p.depth + tile.depth;
  }
};

__device__ void synthesise(const BlockParams& p, const BlockTile& tile, const float* table, BlockSums& sums) {
  const WarpChannels channels(p, tile);
  if (channels.count <= 0) return;
  const BlockLane lane(p, tile, int(threadIdx.x) % kWarp);
  const int64_t plane = (2 * p.h.distinct() - 1) * p.width;
  const float* rows = p.rows + channels.plane(p, tile) * plane + (lane.inside ? lane.column : 0);
  sums.synthesise(p, rows, p.depth * plane, channels.count, table + threadIdx.x % kWarp / kBlockQuads * kBlockPack);
  sums.unfold(p.bias ? p.bias + channels.first : nullptr, channels.count);
}

template <class S>
__device__ void finish(const BlockParams& p, const BlockTile& tile, BlockSums& sums) {
  const WarpChannels channels(p, tile);
  const BlockLane lane(p, tile, int(threadIdx.x) % kWarp);
  const int64_t step = p.depth * p.h.size * p.width;
  S* y = static_cast<S*>(p.y) + channels.plane(p, tile) * p.h.size * p.width;
  FASTSEG_UNROLL
  for (int c = 0; c < kBlockChannels; ++c, y += step) {
    FASTSEG_UNROLL
    for (int part = 0; part < 4; ++part) {
      const int pair = part % 2, side = part / 2;
      if (c >= channels.count || !lane.exists(p.h, pair, side)) continue;
      Quad& z = sums.z[pair][side][c];
      FASTSEG_UNROLL
      for (int v = 0; v < kBlockPack; ++v) z.at[v] = gelu(z.at[v]);
      store_valid(y + lane.place(p, pair, side), z.at, kBlockPack, true);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kBlockThreads, 4) block_tile(BlockParams p) {
  float *now = shared_memory<float>(), *later = now + kBlockSlice;  // x [kBlockInputs][kBlockPoints], skip [kBlockInputs][kSkipStride]
  constexpr int kSkip = kBlockInputs * kBlockPoints;
  const BlockTile tile(p);
  const int warp_output = int(threadIdx.x) / kWarp * kBlockChannels;
  BlockSums sums;
  {
    BlockSlice<S> slice(p, tile, 0);
    slice.fetch(p);
    stage_table(p.h, tile.row, later);
    slice.put(now, now + kSkip);
  }
  __syncthreads();
  synthesise(p, tile, later, sums);
  __syncthreads();  // the second slice goes where the table is
  BlockSlice<S> slice(p, tile, kBlockInputs);
  for (int left = int(p.inputs);; left -= kBlockInputs) {
    const bool more = left > kBlockInputs;
    if (more) slice.fetch(p);
    if (tile.channel + warp_output < p.outputs) sums.multiply(now, now + kSkip + warp_output);
    if (!more) break;
    slice.put(later, later + kSkip);
    __syncthreads();
    float* const read = now;
    now = later, later = read;
  }
  finish<S>(p, tile, sums);
}

template <class S>
void run(const BlockParams& p) {
  const auto packs = [&](auto* data) { return packs_align<kBlockPack>(data, p.width); };
  if (!packs(static_cast<const S*>(p.x)) || !packs(static_cast<const S*>(p.y)) || !packs(p.rows))
    throw Error("block: x, y and the rows of a synthesis must start at whole packs");
  const int64_t tiles = ceil_div(p.outputs, kBlockOutputs) * ceil_div(p.width, kBlockWidth) * ceil_div(p.h.even(), kBlockRows);
  launch(block_tile<S>, grid_of(p.batch * p.groups * p.depth * tiles), kBlockThreads, 2 * kBlockSlice * sizeof(float), p.stream, p);
}

}  // namespace

// Where rows are whole packs, the H table fits where a slice will be, tiles do not cover half as much again as there is, and one tile has
// all channels: of A2's 32 (192², 16 columns) two kernels make less of the floating-point units' time than this one (model).
bool block_fuses(const Transform& synthesis, int64_t outputs) {
  const Axis& h = synthesis.h;
  const int64_t width = synthesis.w.size, covered = round_up(h.even(), kBlockRows) * round_up(width, kBlockWidth);
  const int64_t table = (h.distinct() - 1) * kRowLanes * kBlockPack;
  return width % kBlockPack == 0 && table <= kBlockSlice && 2 * covered <= 3 * h.even() * width && outputs <= kBlockOutputs;
}

void block(const BlockParams& p) {
  if (p.batch * p.groups * p.outputs * p.depth * p.h.size * p.width == 0) return;
  if (p.dtype == DType::kFloat32) return run<float>(p);
  if (p.dtype == DType::kFloat16) return run<Half>(p);
  if (p.dtype == DType::kBFloat16) return run<BFloat16>(p);
  throw Error("block: no CUDA kernel for float64");
}

}  // namespace fastseg::cuda
