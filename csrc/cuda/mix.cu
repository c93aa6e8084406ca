// Per-mode complex matrix products: out[p, q, m] = Σ_r op(a[p, r, m]) · op(b[r, q, m]), m contiguous, op = identity or conjugate.
// A thread makes a tile of p × q at one mode, so that neighbouring threads read neighbouring modes; the warps of a block take neighbouring
// tiles of q at the same modes and find each other's `a` in the first-level cache. Where that makes few threads, parts of a block share a
// tile's sum over r, and add up in shared memory. Order of the sum: fixed.
#include "../ops.h"
#include "intrinsics.h"
#include "launch.h"

namespace fastseg::cuda {
namespace {

constexpr int kManyParts = 4;       // of a sum
constexpr int64_t kLeastTerms = 2;  // of a part

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

// A block's, of each part. Small ones spread evenly over the multiprocessors, and what they share of `a` lies in the second-level cache
// too; tiles of 16 ask so little of it that the first level is the better place, if no parts share it already.
constexpr int mix_threads(int results, int parts) { return results == 16 && parts == 1 ? 256 : 64; }

// Where a thread's tile lies.
struct MixTile {
  int64_t group, p, q, mode;
  int p_count, q_count;  // of its rows and columns that exist
  bool exists;

  __device__ MixTile(const MixParams& m, int64_t index, int rows, int columns) {
    const int64_t tiles_q = ceil_div(m.q, columns), tiles_p = ceil_div(m.p, rows);
    exists = index < m.groups * tiles_p * tiles_q * m.modes;
    // a warp of modes at a time, then the tiles of q: what is left of a row of modes is shorter
    const int64_t block_modes = min(m.modes, int64_t{kWarp}), full = m.modes / block_modes * block_modes, in_full = full * tiles_q;
    const int64_t row = index / (m.modes * tiles_q), place = index % (m.modes * tiles_q);
    const int64_t width = place < in_full ? block_modes : m.modes - full, local = place < in_full ? place : place - in_full;
    mode = (place < in_full ? local / (width * tiles_q) * width : full) + local % width;
    q = local / width % tiles_q * columns, p = row % tiles_p * rows, group = row / tiles_p;
    p_count = int(min(m.p - p, int64_t{rows})), q_count = int(min(m.q - q, int64_t{columns}));
  }
};

// Strides, in floats, of what a thread reads: copies, since through a reference the compiler keeps what it need not.
struct MixReads {
  int64_t a_p, b_q, a_r, b_r;
  bool conj_a, conj_b;
};

template <int kP, int kQ>
struct MixSums {
  float re[kP][kQ] = {}, im[kP][kQ] = {};

  struct Term {
    Pack<float, 2> x[kP], y[kQ];
    __device__ Term(const float* a, const float* b, const MixReads& by, int p_count, int q_count) {
      load_modes(a, by.a_p, p_count, by.conj_a, x);
      load_modes(b, by.b_q, q_count, by.conj_b, y);
    }
  };
  __device__ void add(const Term& term) {
    FASTSEG_UNROLL
    for (int i = 0; i < kP; ++i) {
      FASTSEG_UNROLL
      for (int j = 0; j < kQ; ++j) {
        const auto &x = term.x[i], &y = term.y[j];
        re[i][j] += x.at[0] * y.at[0];
        re[i][j] -= x.at[1] * y.at[1];
        im[i][j] += x.at[0] * y.at[1];
        im[i][j] += x.at[1] * y.at[0];
      }
    }
  }
  // Two terms are on their way before the first is used, where registers hold them.
  __device__ void add_products(const float* a, const float* b, MixReads by, int p_count, int q_count, int64_t terms) {
    if constexpr (kP * kQ <= 16) {
      FASTSEG_UNROLL_BY(1)
      for (; terms >= 2; terms -= 2, a += 2 * by.a_r, b += 2 * by.b_r) {
        const Term one(a, b, by, p_count, q_count), next(a + by.a_r, b + by.b_r, by, p_count, q_count);
        add(one);
        add(next);
      }
      if (terms > 0) add(Term(a, b, by, p_count, q_count));
    } else {
      FASTSEG_UNROLL_BY(2)
      for (int64_t r = 0; r < terms; ++r, a += by.a_r, b += by.b_r) add(Term(a, b, by, p_count, q_count));
    }
  }

  // The terms from `first` on, so many of them as there are.
  __device__ void add_terms(const MixParams& m, const MixTile& at, int64_t first, int64_t terms) {
    const float* a = static_cast<const float*>(m.a) + 2 * (at.group * m.a_group + at.p * m.a_p + first * m.a_r + at.mode);
    const float* b = static_cast<const float*>(m.b) + 2 * (at.group * m.b_group + at.q * m.b_q + first * m.b_r + at.mode);
    const MixReads by = {m.a_p, m.b_q, 2 * m.a_r, 2 * m.b_r, m.conj_a, m.conj_b};
    add_products(a, b, by, at.p_count, at.q_count, terms);
  }

  // What the other parts of a block have becomes the first one's.
  template <int kParts>
  __device__ void gather() {
    constexpr int kNumbers = kP * kQ, kThreads = mix_threads(kNumbers, kParts);
    Pack<float, 2>* room = shared_memory<Pack<float, 2>>() + threadIdx.x;  // [kParts − 1][kNumbers][kThreads]
    if (threadIdx.y > 0) {
      FASTSEG_UNROLL
      for (int n = 0; n < kNumbers; ++n) room[((threadIdx.y - 1) * kNumbers + n) * kThreads] = {{re[n / kQ][n % kQ], im[n / kQ][n % kQ]}};
    }
    __syncthreads();
    if (threadIdx.y > 0) return;
    FASTSEG_UNROLL
    for (int part = 0; part < kParts - 1; ++part) {
      FASTSEG_UNROLL
      for (int n = 0; n < kNumbers; ++n) {
        const auto other = room[(part * kNumbers + n) * kThreads];
        re[n / kQ][n % kQ] += other.at[0], im[n / kQ][n % kQ] += other.at[1];
      }
    }
  }

  __device__ void write(const MixParams& m, const MixTile& at) const {
    float* out = static_cast<float*>(m.out) + 2 * (at.group * m.out_group + at.p * m.out_p + at.q * m.out_q + at.mode);
    FASTSEG_UNROLL
    for (int i = 0; i < kP; ++i) {
      FASTSEG_UNROLL
      for (int j = 0; j < kQ; ++j)
        if (i < at.p_count && j < at.q_count) store_pack(out + 2 * (i * m.out_p + j * m.out_q), Pack<float, 2>{{re[i][j], im[i][j]}});
    }
  }
};

template <int kP, int kQ, int kParts>
__global__ void __launch_bounds__(mix_threads(kP* kQ, kParts) * kParts) mix_modes(MixParams m) {
  const MixTile at(m, int64_t{blockIdx.x} * mix_threads(kP * kQ, kParts) + threadIdx.x, kP, kQ);
  MixSums<kP, kQ> sums;
  if constexpr (kParts == 1) {
    if (!at.exists) return;
    sums.add_terms(m, at, 0, m.r);
    return sums.write(m, at);
  } else {
    const int64_t terms = ceil_div(m.r, kParts), first = threadIdx.y * terms;
    if (at.exists) sums.add_terms(m, at, first, min(terms, m.r - first));
    sums.template gather<kParts>();
    if (at.exists && threadIdx.y == 0) sums.write(m, at);
  }
}

template <int kP, int kQ>
int64_t tiled_threads(const MixParams& m) {
  return m.groups * ceil_div(m.p, kP) * ceil_div(m.q, kQ) * m.modes;
}

template <int kP, int kQ, int kParts = 1>
void launch_mix(const MixParams& m) {
  constexpr int kThreads = mix_threads(kP * kQ, kParts);
  launch(mix_modes<kP, kQ, kParts>, grid_of(ceil_div(tiled_threads<kP, kQ>(m), kThreads)), dim3(kThreads, kParts),
         (kParts - 1) * kP * kQ * kThreads * 2 * sizeof(float), m.lane.stream, m);
}

// Whether tiles of kP × kQ are neither mostly padding nor too few: below, smaller ones.
template <int kP, int kQ>
bool suits(const MixParams& m, int parts = 1) {
  return m.p > kP / 2 && m.q > kQ / 2 && tiled_threads<kP, kQ>(m) * parts >= kEnoughThreads;
}

}  // namespace

void mix(const MixParams& m) {
  if (m.is_double) throw Error("mix: float64 has no CUDA kernel");
  if (m.groups * m.p * m.q * m.modes == 0) return;
  if (suits<8, 4>(m)) return launch_mix<8, 4>(m);
  if (suits<4, 4>(m)) return launch_mix<4, 4>(m);
  if (suits<1, 4>(m) && m.p == 1) return launch_mix<1, 4>(m);
  const bool divides = m.r >= kManyParts * kLeastTerms;
  if (divides && m.p % 4 == 0 && m.q % 4 == 0 && suits<4, 4>(m, kManyParts)) return launch_mix<4, 4, kManyParts>(m);
  if (suits<2, 2>(m)) return launch_mix<2, 2>(m);
  if (divides && m.q > 2) return m.p == 1 ? launch_mix<1, 4, kManyParts>(m) : launch_mix<2, 2, kManyParts>(m);
  launch_mix<1, 1>(m);
}

}  // namespace fastseg::cuda
