// A gain on every bin of two-dimensional spectra in one launch: a block takes some channels of an image, or of some images whose gain they
// share, from their samples to those of the result. The gain's gradient is summed over those images on the way, in shared memory.
#include "plan.h"
#include "rows.h"

namespace fastseg::cuda {
namespace {

using namespace whole;

constexpr int kFilterThreads = 256;  // at most
constexpr int kStackThreads = 128;   // of small planes that share a block

template <class S>
struct Filter {
  const S *x, *seen;
  S* y;
  const float* gain;
  float* sums;
  int batch, channels, chunk, groups, parts;
  int64_t gain_batch, gain_channel;
  float scale, turn;  // turn: of the gain's imaginary part, −1 where it is conjugated
};

// Row `row` of a gain, read as one of complex numbers.
struct GainRow {
  const float* row;
  int parts;
  float turn;
  __device__ Bin at(int k) const { return {row[k * parts], parts == 2 ? turn * row[k * 2 + 1] : 0.f}; }
};

template <class Ends>
__device__ void multiply_by_gain(Ends& ends, const GainRow& a, const GainRow& b, float scale) {
  const int m = ends.t.row.size;
  FASTSEG_UNROLL
  for (int f = 0; f < Ends::kNumbers; ++f) {
    const int k = ends.frequency(f);
    Bin first = a.at(k), second = conj(b.at(m - k));
    if (f == 0 && k == 0)  // what would make the result complex is dropped
      first = 0.5f * (first + conj(b.at(0))), second = 0.5f * (second + a.at(m));
    ends.a[f] = scale * first * ends.a[f], ends.b[f] = scale * second * ends.b[f];
  }
}

// sums += conj(seen) · gradient
template <class Ends>
__device__ void add_products(const Ends& gradient, const Bin* seen, Bin* sums) {
  FASTSEG_UNROLL
  for (int f = 0; f < Ends::kNumbers; ++f) {
    const int a = gradient.r.a + gradient.first + f, b = gradient.mirrored(f);
    sums[a] = sums[a] + conj(seen[a]) * gradient.a[f];
    if (gradient.has_mirrored(f)) sums[b] = sums[b] + conj(seen[b]) * gradient.b[f];
  }
}

// The channels of a block, and its images.
struct Share {
  int channel, here, begin, end;
};

template <class S>
__device__ void filter_images(const Filter<S>& p, const Tile& t, const Positions& at, const Share& share, Bin* cells) {
  Bin *seen = cells + t.cells, *sums = seen + t.cells;
  for (int image = share.begin; image < share.end; ++image) {
    const int64_t plane = int64_t(image) * p.channels + share.channel;
    for (int tile = p.seen ? 1 : 0; tile >= 0; --tile) {
      forward_columns(t, InMemory<const S>(t, tile ? p.seen : p.x, plane), cells + tile * t.cells, share.here);
      forward_rows(t, at, cells + tile * t.cells, share.here);
    }
    if (p.seen) for_ends(t, at, seen, share.here, [](auto& ends, int) { ends.load(), ends.to_bins(), ends.store_bins(); });
    for_ends(t, at, cells, share.here, [&](auto& ends, int channel) {
      ends.load(), ends.to_bins();
      if (p.seen) add_products(ends, seen, sums);
      if (!p.y) return;
      const float* gain = p.gain + image * p.gain_batch + (share.channel + channel) * p.gain_channel;
      const int row = t.bins() * p.parts;
      multiply_by_gain(ends, GainRow{gain + ends.r.outer * row, p.parts, p.turn},
                       GainRow{gain + ends.r.opposite_outer * row, p.parts, p.turn}, p.scale);
      ends.from_bins(), ends.store();
    });
    __syncthreads();
    if (!p.y) continue;
    inverse_rows(t, at, cells, share.here);
    inverse_columns(t, cells, InMemory<S>(t, p.y, plane), share.here);
    __syncthreads();
  }
}

// The columns between the first and the last one stand for two bins of the whole spectrum; a tile has bins twice as large as they are.
template <class S>
__device__ void store_sums(const Filter<S>& p, const Tile& t, const Positions& at, const Share& share, int chunk, const Bin* sums) {
  for_bins(t, at, share.here, t.by_bins, [&](int channel, int row, int k, const RowPair& r) {
    const Bin z = (k == 0 || k == t.row.size ? 0.5f : 1.f) * p.scale * bin_of(t, at, sums, r, k);
    float* out = p.sums + (((int64_t(chunk) * p.channels + share.channel + channel) * t.rows() + row) * t.bins() + k) * p.parts;
    out[0] = z.re;
    if (p.parts == 2) out[1] = z.im;
  });
}

template <class S>
__global__ void __launch_bounds__(kFilterThreads) filter_planes(const __grid_constant__ Filter<S> p, const __grid_constant__ Tile t) {
  Bin* cells = shared_memory<Bin>();
  const Positions at(t, cells + (p.seen ? 3 : 1) * t.cells);
  const int chunk = int(blockIdx.x) / p.groups, channel = (int(blockIdx.x) - chunk * p.groups) * t.images;
  const Share share = {channel, min(t.images, p.channels - channel), chunk * p.chunk, min((chunk + 1) * p.chunk, p.batch)};
  at.fill(t);
  Bin* sums = cells + 2 * t.cells;
  for (int i = threadIdx.x; p.seen && i < t.cells; i += blockDim.x) sums[i] = {};
  filter_images(p, t, at, share, cells);
  if (p.seen) store_sums(p, t, at, share, chunk, sums);
}

template <class S>
void filter(const FilterParams& p) {
  const int tiles = p.seen ? 3 : 1;
  const int64_t chunk = p.seen ? p.chunk : 1, chunks = ceil_div(p.batch, chunk);
  Tile t;
  if (p.t.d.size > 1 || !make_tile(p.t, t) || !fill_tile(t, p.channels, chunks, kStackThreads, device().block_shared_bytes, tiles))
    throw Error("spectral_filter: want planes that the FFT serves");
  for (const void* samples : {p.x, p.seen, static_cast<const void*>(p.y)}) check_pairs(samples, p.dtype);
  const int64_t groups = ceil_div(p.channels, t.images);
  const Filter<S> of = {static_cast<const S*>(p.x),
                        static_cast<const S*>(p.seen),
                        static_cast<S*>(p.y),
                        static_cast<const float*>(p.gain),
                        static_cast<float*>(p.sums),
                        int(p.batch),
                        int(p.channels),
                        int(chunk),
                        int(groups),
                        p.parts,
                        p.gain_batch,
                        p.gain_channel,
                        float(0.5 / double(p.t.h.size * p.t.w.size)),
                        p.conjugate ? -1.f : 1.f};
  launch(filter_planes<S>, grid_of(groups * chunks), dim3(threads_of(t, kFilterThreads)), t.bytes(tiles), p.lane.stream, of, t);
}

}  // namespace

void spectral_filter(const FilterParams& p) {
  if (p.batch * p.channels == 0) return;
  if (p.dtype == DType::kFloat16) return filter<Half>(p);
  if (p.dtype == DType::kBFloat16) return filter<BFloat16>(p);
  if (p.dtype != DType::kFloat32) throw Error("spectral_filter: dtype code " + std::to_string(int(p.dtype)) + " has no CUDA kernel");
  filter<float>(p);
}

}  // namespace fastseg::cuda
