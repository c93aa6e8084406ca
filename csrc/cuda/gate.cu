// The spatial gate of an anchor, one pass over its inputs in either direction. A block takes 128 points of an image, four to a lane; its
// warps share out the channels, first those of the condition, whose weighted maximum becomes the gate, then those of the features.
#include <initializer_list>

#include "../ops.h"
#include "intrinsics.h"
#include "launch.h"
#include "sums.h"

namespace fastseg::cuda {
namespace {

constexpr int kPack = 4, kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kPoints = kWarp * kPack;
static_assert(kPoints == kMomentPoints, "one partial sum a block");

using Four = Pack<float, kPack>;

template <class S>
__device__ inline Four load_four(const S* p, int64_t valid, bool wide) {
  const auto stored = load_valid<kPack>(p, valid, wide);
  Four values;
  FASTSEG_UNROLL
  for (int v = 0; v < kPack; ++v) values.at[v] = to_compute(stored.at[v]);
  return values;
}

// A lane's four points.
struct Place {
  int64_t image, block, point, valid;

  __device__ explicit Place(int64_t points) {
    const int64_t blocks = ceil_div(points, kPoints);
    block = blockIdx.x, image = block / blocks;
    point = block % blocks * kPoints + threadIdx.x * kPack;
    valid = points - point;
  }
};

// Adds up what the warps hold for a lane's points; `sums` is [kWarps][kPoints], free again after the next barrier.
__device__ inline Four over_warps(const Four& own, float* sums) {
  store_pack(sums + threadIdx.y * kPoints + threadIdx.x * kPack, own);
  __syncthreads();
  Four total = {};
  FASTSEG_UNROLL
  for (int warp = 0; warp < kWarps; ++warp) {
    const Four other = load_pack<kPack>(sums + warp * kPoints + threadIdx.x * kPack);
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) total.at[v] += other.at[v];
  }
  return total;
}

// As torch.maximum: NaN wins.
__device__ inline float maximum(float a, float b) { return a > b || a != a ? a : b; }
__device__ inline float sigmoid(float a) { return 1.0f / (1.0f + expf(-a)); }

template <class S>
__global__ void __launch_bounds__(kThreads, 4) gate_points(GateParams p, bool wide) {
  const Place at(p.points);
  Four logits = {};
  for (int64_t c = threadIdx.y; c < p.cond_channels; c += kWarps) {
    const int64_t offset = (at.image * p.cond_channels + c) * p.points + at.point;
    const Four low = load_four(static_cast<const S*>(p.low) + offset, at.valid, wide);
    const Four cond = load_four(static_cast<const S*>(p.cond) + offset, at.valid, wide);
    const float weight = static_cast<const float*>(p.weight)[c];
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) logits.at[v] += weight * maximum(low.at[v], cond.at[v]);
  }
  logits = over_warps(logits, shared_memory<float>());
  float gain[kPack];
  FASTSEG_UNROLL
  for (int v = 0; v < kPack; ++v) {
    logits.at[v] += *static_cast<const float*>(p.bias);
    gain[v] = 1 + sigmoid(logits.at[v]);
  }
  if (threadIdx.y == 0) store_valid(static_cast<float*>(p.logits) + at.image * p.points + at.point, logits.at, at.valid, wide);
  for (int64_t f = threadIdx.y; f < p.channels; f += kWarps) {
    const int64_t offset = (at.image * p.channels + f) * p.points + at.point;
    Four feat = load_four(static_cast<const S*>(p.feat) + offset, at.valid, wide);
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) feat.at[v] *= gain[v];
    store_valid(static_cast<S*>(p.out) + offset, feat.at, at.valid, wide);
  }
}

// dfeat, and this warp's share of Σ_f gradient · feat.
template <class S>
__device__ inline Four feature_gradients(const GateBackwardParams& p, const Place& at, const Four& gate, bool wide) {
  Four products = {};
  for (int64_t f = threadIdx.y; f < p.forward.channels; f += kWarps) {
    const int64_t offset = (at.image * p.forward.channels + f) * p.forward.points + at.point;
    const Four gradient = load_four(static_cast<const S*>(p.gradient) + offset, at.valid, wide);
    const Four feat = load_four(static_cast<const S*>(p.forward.feat) + offset, at.valid, wide);
    float dfeat[kPack];
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) {
      dfeat[v] = gradient.at[v] * (1 + gate.at[v]);
      products.at[v] += gradient.at[v] * feat.at[v];
    }
    store_valid(static_cast<S*>(p.dfeat) + offset, dfeat, at.valid, wide);
  }
  return products;
}

// dlow, dcond and the block's share of dweight.
template <class S>
__device__ inline void condition_gradients(const GateBackwardParams& p, const Place& at, const Four& dlogits, float* partial, bool wide) {
  for (int64_t c = threadIdx.y; c < p.forward.cond_channels; c += kWarps) {
    const int64_t offset = (at.image * p.forward.cond_channels + c) * p.forward.points + at.point;
    const Four low = load_four(static_cast<const S*>(p.forward.low) + offset, at.valid, wide);
    const Four cond = load_four(static_cast<const S*>(p.forward.cond) + offset, at.valid, wide);
    const float weight = static_cast<const float*>(p.forward.weight)[c];
    float dlow[kPack], dcond[kPack], sum = 0;
    FASTSEG_UNROLL
    for (int v = 0; v < kPack; ++v) {
      const float both = weight * dlogits.at[v], tie = low.at[v] == cond.at[v] ? 0.5f : 0.0f;
      dlow[v] = both * (low.at[v] > cond.at[v] ? 1.0f : tie);
      dcond[v] = both * (cond.at[v] > low.at[v] ? 1.0f : tie);
      sum += dlogits.at[v] * maximum(low.at[v], cond.at[v]);
    }
    store_valid(static_cast<S*>(p.dlow) + offset, dlow, at.valid, wide);
    store_valid(static_cast<S*>(p.dcond) + offset, dcond, at.valid, wide);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) partial[c] = sum;
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 4) gate_points_backward(GateBackwardParams p, bool wide) {
  const Place at(p.forward.points);
  const int64_t offset = at.image * p.forward.points + at.point;
  Four gate = load_valid<kPack>(static_cast<const float*>(p.forward.logits) + offset, at.valid, wide);
  FASTSEG_UNROLL
  for (int v = 0; v < kPack; ++v) gate.at[v] = sigmoid(gate.at[v]);
  Four dlogits = over_warps(feature_gradients<S>(p, at, gate, wide), shared_memory<float>());
  float sum = 0;
  FASTSEG_UNROLL
  for (int v = 0; v < kPack; ++v) {
    dlogits.at[v] *= gate.at[v] * (1 - gate.at[v]);
    sum += dlogits.at[v];
  }
  float* partial = static_cast<float*>(p.partial) + at.block * (p.forward.cond_channels + 1);
  if (threadIdx.y == 0) {
    store_valid(static_cast<float*>(p.dlogits) + offset, dlogits.at, at.valid, wide);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) partial[p.forward.cond_channels] = sum;
  }
  condition_gradients<S>(p, at, dlogits, partial, wide);
}

template <class S>
bool packs_align_all(int64_t points, std::initializer_list<const void*> stored, std::initializer_list<const void*> computed) {
  bool aligned = true;
  for (const void* pointer : stored) aligned = aligned && packs_align<kPack>(static_cast<const S*>(pointer), points);
  for (const void* pointer : computed) aligned = aligned && packs_align<kPack>(static_cast<const float*>(pointer), points);
  return aligned;
}

template <class S>
void run(const GateParams& p) {
  const bool wide = packs_align_all<S>(p.points, {p.low, p.cond, p.feat, p.out}, {p.logits});
  launch(gate_points<S>, grid_of(moment_blocks(p.batch, p.points)), dim3(kWarp, kWarps), kWarps * kPoints * sizeof(float), p.lane.stream, p,
         wide);
}

template <class S>
void run_backward(const GateBackwardParams& p) {
  const GateParams& f = p.forward;
  const bool wide = packs_align_all<S>(f.points, {f.low, f.cond, f.feat, p.gradient, p.dlow, p.dcond, p.dfeat}, {f.logits, p.dlogits});
  launch(gate_points_backward<S>, grid_of(moment_blocks(f.batch, f.points)), dim3(kWarp, kWarps), kWarps * kPoints * sizeof(float),
         f.lane.stream, p, wide);
}

}  // namespace

void gate(const GateParams& p) {
  if (p.batch * p.points == 0) return;
  if (p.dtype == DType::kFloat32) return run<float>(p);
  if (p.dtype == DType::kFloat16) return run<Half>(p);
  if (p.dtype == DType::kBFloat16) return run<BFloat16>(p);
  throw Error("gate: no CUDA kernel for float64");
}

void gate_backward(const GateBackwardParams& p) {
  const GateParams& f = p.forward;
  if (f.dtype == DType::kFloat64) throw Error("gate_backward: no CUDA kernel for float64");
  if (f.batch * f.points > 0) {
    if (f.dtype == DType::kFloat32) run_backward<float>(p);
    if (f.dtype == DType::kFloat16) run_backward<Half>(p);
    if (f.dtype == DType::kBFloat16) run_backward<BFloat16>(p);
  }
  const float* partial = static_cast<const float*>(p.partial);
  const int64_t blocks = moment_blocks(f.batch, f.points), columns = f.cond_channels + 1;
  launch_sum_rows({partial, 1, blocks, columns, f.cond_channels}, p.dweight, f.lane.stream);
  launch_sum_rows({partial + f.cond_channels, 1, blocks, columns, 1}, p.dbias, f.lane.stream);
}

}  // namespace fastseg::cuda
