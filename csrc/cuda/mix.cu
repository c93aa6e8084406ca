// Per-mode complex matrix products: out[p, q, m] = Σ_r op(a[p, r, m]) · op(b[r, q, m]), m contiguous, op = identity or conjugate.
// A thread makes a tile of p × q at one mode, so that neighbouring threads read neighbouring modes; the warps of a block take neighbouring
// tiles of q at the same modes and find each other's `a` in the first-level cache. Order of the sum over r: fixed.
#include "../ops.h"
#include "intrinsics.h"
#include "launch.h"

namespace fastseg::cuda {
namespace {

constexpr int64_t kEnoughThreads = 1 << 15;  // to fill a device: below, smaller tiles

__device__ inline Pack<float, 2> load_mode(const float* z, bool conjugate) {
  auto value = load_pack<2>(z);
  if (conjugate) value.at[1] = -value.at[1];
  return value;
}

// kRows numbers `stride` complex numbers apart, the last one again past `count`.
template <int kRows>
__device__ inline void load_modes(const float* z, int64_t stride, int count, bool conjugate, Pack<float, 2> (&values)[kRows]) {
  FASTSEG_UNROLL
  for (int i = 0; i < kRows; ++i) values[i] = load_mode(z + 2 * (i < count ? i : count - 1) * stride, conjugate);
}

// Of a block. Small ones spread evenly over the multiprocessors, and what they share of `a` lies in the second-level cache too; tiles of 16
// ask so little of it that the first level is the better place.
constexpr int mix_threads(int results) { return results == 16 ? 256 : 64; }

template <int kP, int kQ>
__global__ void __launch_bounds__(mix_threads(kP* kQ)) mix_modes(MixParams m) {
  const int64_t index = int64_t{blockIdx.x} * mix_threads(kP * kQ) + threadIdx.x, tiles_q = ceil_div(m.q, kQ), tiles_p = ceil_div(m.p, kP);
  if (index >= m.groups * tiles_p * tiles_q * m.modes) return;
  // a warp of modes at a time, then the tiles of q: what is left of a row of modes is shorter
  const int64_t block_modes = min(m.modes, int64_t{kWarp}), full = m.modes / block_modes * block_modes, in_full = full * tiles_q;
  const int64_t row = index / (m.modes * tiles_q), place = index % (m.modes * tiles_q);
  const int64_t width = place < in_full ? block_modes : m.modes - full, local = place < in_full ? place : place - in_full;
  const int64_t mode = (place < in_full ? local / (width * tiles_q) * width : full) + local % width;
  const int64_t q = local / width % tiles_q * kQ, p = row % tiles_p * kP, group = row / tiles_p;
  const int p_count = int(min(m.p - p, int64_t{kP})), q_count = int(min(m.q - q, int64_t{kQ}));

  const float* a = static_cast<const float*>(m.a) + 2 * (group * m.a_group + p * m.a_p + mode);
  const float* b = static_cast<const float*>(m.b) + 2 * (group * m.b_group + q * m.b_q + mode);
  float re[kP][kQ] = {}, im[kP][kQ] = {};
  FASTSEG_UNROLL_BY(2)
  for (int64_t r = 0; r < m.r; ++r, a += 2 * m.a_r, b += 2 * m.b_r) {
    Pack<float, 2> x[kP], y[kQ];
    load_modes(a, m.a_p, p_count, m.conj_a, x);
    load_modes(b, m.b_q, q_count, m.conj_b, y);
    FASTSEG_UNROLL
    for (int i = 0; i < kP; ++i) {
      FASTSEG_UNROLL
      for (int j = 0; j < kQ; ++j) {
        re[i][j] += x[i].at[0] * y[j].at[0];
        re[i][j] -= x[i].at[1] * y[j].at[1];
        im[i][j] += x[i].at[0] * y[j].at[1];
        im[i][j] += x[i].at[1] * y[j].at[0];
      }
    }
  }
  float* out = static_cast<float*>(m.out) + 2 * (group * m.out_group + p * m.out_p + q * m.out_q + mode);
  FASTSEG_UNROLL
  for (int i = 0; i < kP; ++i) {
    FASTSEG_UNROLL
    for (int j = 0; j < kQ; ++j)
      if (i < p_count && j < q_count) store_pack(out + 2 * (i * m.out_p + j * m.out_q), Pack<float, 2>{{re[i][j], im[i][j]}});
  }
}

template <int kP, int kQ>
int64_t tiled_threads(const MixParams& m) {
  return m.groups * ceil_div(m.p, kP) * ceil_div(m.q, kQ) * m.modes;
}

template <int kP, int kQ>
void launch_mix(const MixParams& m) {
  constexpr int kThreads = mix_threads(kP * kQ);
  launch(mix_modes<kP, kQ>, grid_of(ceil_div(tiled_threads<kP, kQ>(m), kThreads)), dim3(kThreads), 0, m.lane.stream, m);
}

// Whether tiles of kP × kQ are neither mostly padding nor too few.
template <int kP, int kQ>
bool suits(const MixParams& m) {
  return m.p > kP / 2 && m.q > kQ / 2 && tiled_threads<kP, kQ>(m) >= kEnoughThreads;
}

}  // namespace

void mix(const MixParams& m) {
  if (m.is_double) throw Error("mix: float64 has no CUDA kernel");
  if (m.groups * m.p * m.q * m.modes == 0) return;
  if (suits<8, 4>(m)) return launch_mix<8, 4>(m);
  if (suits<4, 4>(m)) return launch_mix<4, 4>(m);
  if (suits<1, 4>(m) && m.p == 1) return launch_mix<1, 4>(m);
  if (suits<2, 2>(m)) return launch_mix<2, 2>(m);
  launch_mix<1, 1>(m);
}

}  // namespace fastseg::cuda
