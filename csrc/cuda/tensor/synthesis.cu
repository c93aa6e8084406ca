// Synthesis of planes by tensor cores. A block takes a slab of a plane, columns and their mirror images: along W it makes the rows of
// coefficients over those in shared memory, along H all samples.
#include "../launch.h"
#include "synthesis_columns.h"
#include "transform.h"

namespace fastseg::cuda::tensor {
namespace {

constexpr int kMaxWarps = 4, kBlocks = 4;  // small blocks: while some wait for the spectrum or at a barrier, others store
constexpr int64_t kFewBlocks = 512;        // they would leave multiprocessors idle
constexpr int64_t kLeastWidth = 16;        // samples w of a table's tile
constexpr int64_t kSmallPlane = 80 * 80;   // many smaller ones gain on some devices only: a block starts and waits for too long
constexpr int64_t kManyPlanes = 512;

// A grid has no more than 2³¹ blocks, and divisions of 64 bits are long.
__device__ inline float shift_of(const Bias& bias, int plane) {
  return bias.values ? bias.values[plane / int(bias.depth) % int(bias.channels)] : 0.f;
}

template <class S, int kProducts, bool kPacks>
__global__ void __launch_bounds__(kMaxWarps* kWarp, kBlocks)
    synthesise_slabs(Spectrum in, S* y, Bias bias, Axis h, Axis w, SlabTiling tiling) {
  if constexpr (kHasTensorCores) {
    float* rows = shared_memory<float>();
    const int warp = __shfl_sync(kAllLanes, int(threadIdx.y + blockDim.y * threadIdx.z), 0);  // the same in all lanes: the compiler sees it
    const int plane = int(blockIdx.x) / tiling.slabs;
    const Slab slab(tiling, int(blockIdx.x) - plane * tiling.slabs, int(w.size));
    synthesise_rows<kProducts>(in, plane, h, w, slab, warp, tiling.stride, rows);
    __syncthreads();
    synthesise_columns<kProducts, kPacks>(rows, tiling, h, slab, warp, int(w.size), shift_of(bias, plane), y + plane * h.size * w.size);
  }
}

int64_t slab_length(const Transform& t, int64_t width) { return 2 * width < t.w.size ? 2 * width : t.w.size; }

// Four rows of a fragment lie on different banks.
int64_t row_stride(int64_t length) { return round_up(length, 16) + 8; }

size_t shared_bytes(const Transform& t, int64_t width) {
  return size_t((2 * t.h.distinct() - 1) * row_stride(slab_length(t, width))) * sizeof(float);
}

// Slabs as wide as a block's warps and its shared memory allow, and narrower ones of few planes.
SlabTiling tiling_of(const Transform& t, int64_t planes, int pack) {
  const int64_t half = ceil_div(t.w.size, 2);
  int64_t count = ceil_div(t.w.size, kMaxWarps * kWarpColumns), width;
  do {
    width = round_up(ceil_div(half, count++), kLeastWidth);
  } while (width > kLeastWidth && (shared_bytes(t, width) > shared_limit() || planes * ceil_div(half, width) < kFewBlocks));
  count = half > width ? ceil_div(half, width) : 1;
  if (count == 1) width = half + 1;  // all of them
  return {int(count), int(width), int(row_stride(slab_length(t, width))), pack};
}

template <int kProducts, bool kPacks, class S>
void launch_slabs_of(const TransformParams& p, const Spectrum& in, S* y, int pack) {
  const Transform& t = p.t;
  const int64_t planes = p.images * t.d.size;
  const SlabTiling tiling = tiling_of(t, planes, pack);
  const int64_t columns = ceil_div(slab_length(t, tiling.width), kWarpColumns), tiles = ceil_div(t.h.even(), kTileRows);
  const int64_t groups = tiles < kMaxWarps / columns ? tiles : kMaxWarps / columns;
  const Bias bias = {static_cast<const float*>(p.bias), p.channels, t.d.size};
  launch(synthesise_slabs<S, kProducts, kPacks>, grid_of(planes * tiling.slabs), dim3(kWarp, unsigned(columns), unsigned(groups)),
         shared_bytes(t, tiling.width), p.lane.stream, in, y, bias, t.h, t.w, tiling);
}

template <int kProducts, class S>
void launch_slabs(const TransformParams& p, const Spectrum& in) {
  S* y = static_cast<S*>(p.real);
  if (!packs_align<4>(y, p.t.w.size)) return launch_slabs_of<kProducts, false>(p, in, y, 1);
  const bool eights = sizeof(S) == 2 && reinterpret_cast<uintptr_t>(y) % 16 == 0 && p.t.w.size % 8 == 0;
  launch_slabs_of<kProducts, true>(p, in, y, eights ? 8 : 4);
}

}  // namespace

bool serves_synthesis(const Transform& t, int64_t planes) {
  const bool small = t.h.size * t.w.size < kSmallPlane && planes >= kManyPlanes;
  return t.h.fragments && t.w.fragments && t.h.distinct() > 1 && !small && shared_bytes(t, kLeastWidth) <= shared_limit();
}

// bfloat16 has fewer digits than TF32: one product is enough.
void synthesise_planes(const TransformParams& p, const Spectrum& in) {
  if (p.dtype == DType::kBFloat16) return launch_slabs<1, BFloat16>(p, in);
  if (p.dtype == DType::kFloat16) return launch_slabs<3, Half>(p, in);
  if (p.t.tf32) return launch_slabs<1, float>(p, in);
  launch_slabs<3, float>(p, in);
}

}  // namespace fastseg::cuda::tensor
