// Analysis and synthesis of spectra with every bin: a block transforms a volume, or some planes, in shared memory.
#include "plan.h"
#include "rows.h"
#include "whole.h"

namespace fastseg::cuda {
namespace {

using namespace whole;

constexpr int kWholeThreads = 512;  // at most
constexpr int kStackThreads = 128;  // of small planes that share a block

// Factors of the first and last column, and of those between.
struct Factors {
  float ends, inner;
};

template <class S>
__global__ void __launch_bounds__(kWholeThreads)
    analyse_tiles(const S* x, Spectrum out, const __grid_constant__ Tile t, int64_t images, Factors factors) {
  Bin* cells = shared_memory<Bin>();
  const Positions at(t, cells + t.cells);
  const int64_t first = int64_t{blockIdx.x} * t.images;
  const int here = int(min(int64_t{t.images}, images - first));
  at.fill(t);
  forward_columns(t, InMemory<const S>(t, x, first), cells, here);
  forward_rows(t, at, cells, here);
  for_ends(t, at, cells, here, [](auto& ends, int) { ends.load(), ends.to_bins(), ends.store_bins(); });
  __syncthreads();
  for_bins(t, at, here, t.by_bins, [&](int image, int row, int k, const RowPair& r) {
    const float factor = k == 0 || k == t.row.size ? factors.ends : factors.inner;
    const Bin z = factor * bin_of(t, at, cells, r, k);
    store_complex(out, first + image, row * t.bins() + k, {z.re, z.im});
  });
}

// A number of the spectrum, the imaginary parts of what must be real dropped: the mean of bins k of row `a` and, conjugated, of row `b`.
__device__ Bin real_mean(const Spectrum& in, int64_t image, int a, int b, float factor) {
  const Complex x = load_complex(in, image, a), y = load_complex(in, image, b);
  return 0.5f * factor * Bin{x.re + y.re, x.im - y.im};
}

__device__ void load_tile(const Spectrum& in, const Tile& t, const Positions& at, int64_t first, int here, const Factors& factors,
                          Bin* cells) {
  const int m = t.row.size;
  for_bins(t, at, here, t.by_row, [&](int image, int row, int k, const RowPair& r) {
    const int a = row * t.bins(), b = (r.opposite_outer * t.line[1].size + r.opposite_inner) * t.bins();
    const bool leading = leads(r);
    if (k == 0) {
      if (!leading) return;
      cells[r.a] = real_mean(in, first + image, a, b, factors.ends);
      cells[r.a + m] = real_mean(in, first + image, a + m, b + m, factors.ends);
      return;
    }
    const auto scaled = [&](int bin) {
      const Complex z = load_complex(in, first + image, bin);
      return factors.inner * Bin{z.re, z.im};
    };
    cells[r.a + at.row[k]] = leading ? scaled(a + k) : conj(scaled(a + m - k));
    if (r.a == r.b && r.kept != r.a) cells[r.kept + at.row[k]] = conj(scaled(a + m - k));
  });
}

template <class S>
__global__ void __launch_bounds__(kWholeThreads)
    synthesise_tiles(Spectrum in, S* y, Bias bias, const __grid_constant__ Tile t, int64_t images, Factors factors) {
  Bin* cells = shared_memory<Bin>();
  const Positions at(t, cells + t.cells);
  const int64_t first = int64_t{blockIdx.x} * t.images;
  const int here = int(min(int64_t{t.images}, images - first));
  at.fill(t);
  __syncthreads();
  load_tile(in, t, at, first, here, factors, cells);
  __syncthreads();
  for_ends(t, at, cells, here, [](auto& ends, int) { ends.load_bins(), ends.from_bins(), ends.store(); });
  __syncthreads();
  inverse_rows(t, at, cells, here);
  inverse_columns(t, cells, InMemory<S>(t, y, first, bias), here);
}

bool plan(const Transform& transform, int64_t images, Tile& t) {
  return make_tile(transform, t) && fill_tile(t, images, 1, kStackThreads, device().block_shared_bytes, 1);
}

template <class Run>
void launch_tiles(const Transform& transform, int64_t images, const void* samples, DType dtype, Run&& run) {
  Tile t;
  if (!plan(transform, images, t)) throw Error("transform: a spectrum that the FFT does not serve");
  check_pairs(samples, dtype);
  const auto start = [&](auto storage) {
    run(storage, t, grid_of(ceil_div(images, t.images)), dim3(threads_of(t, kWholeThreads)), t.bytes(1));
  };
  if (dtype == DType::kFloat16) return start(Half{});
  if (dtype == DType::kBFloat16) return start(BFloat16{});
  start(float{});
}

}  // namespace

bool whole_serves(const Transform& transform) {
  Tile t;
  return plan(transform, 1, t);
}

void analyse_whole(const void* x, DType dtype, const Spectrum& out, const Transform& t, int64_t images, void* stream) {
  const Factors factors = {float(0.5 * t.scale), float((t.weighted ? 1 : 0.5) * t.scale)};  // a tile has bins twice as large
  launch_tiles(t, images, x, dtype, [&](auto storage, const Tile& tile, dim3 grid, dim3 block, size_t bytes) {
    using S = decltype(storage);
    launch(analyse_tiles<S>, grid, block, bytes, stream, static_cast<const S*>(x), out, tile, images, factors);
  });
}

void synthesise_whole(const Spectrum& in, void* y, DType dtype, const Bias& bias, const Transform& t, int64_t images, void* stream) {
  const Factors factors = {float(t.scale), float((t.weighted ? 1 : 0.5) * t.scale)};
  launch_tiles(t, images, y, dtype, [&](auto storage, const Tile& tile, dim3 grid, dim3 block, size_t bytes) {
    using S = decltype(storage);
    launch(synthesise_tiles<S>, grid, block, bytes, stream, in, static_cast<S*>(y), bias, tile, images, factors);
  });
}

}  // namespace fastseg::cuda
