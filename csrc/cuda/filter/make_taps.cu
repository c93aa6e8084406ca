// The taps of Gaussians whose standard deviations are on the device, in float64 until they are stored: a block makes so many taps of one
// axis of one image. The meaning is that of fastseg/ops/taps.py.
#include <cmath>
#include <cstdlib>

#include "../../ops.h"
#include "../intrinsics.h"
#include "../launch.h"

namespace fastseg::cuda {
namespace {

constexpr int kThreads = 128;   // of a block, as many taps, and bins of a response at a time
constexpr double kNothing = 9;  // standard deviations of a response beyond which 3e-18 are left
constexpr double kTwoPi = 6.283185307179586476925;

__device__ double number_at(const ImageNumbers& numbers, int64_t batch, int64_t channel, int axis) {
  const int64_t at = batch * numbers.batch + channel * numbers.channel + axis * numbers.axis;
  if (numbers.dtype == DType::kFloat64) return static_cast<const double*>(numbers.data)[at];
  if (numbers.dtype == DType::kFloat32) return static_cast<const float*>(numbers.data)[at];
  if (numbers.dtype == DType::kFloat16) return to_compute(static_cast<const Half*>(numbers.data)[at]);
  return to_compute(static_cast<const BFloat16*>(numbers.data)[at]);
}

// One axis of one image; its taps from −own to own are not zero, unless they wrap.
struct Row {
  double sigma, offset;
  int size, reach, own, span;  // span: what the spatial kernel would reach on an endless axis
  const double* roots;

  __device__ Row(const MakeTapsParams& p, int64_t image, int axis) : size(p.sizes[axis]), roots(p.roots[axis]) {
    const int64_t batch = image / p.channels, channel = image % p.channels;
    sigma = number_at(p.sigma, batch, channel, axis - p.first_axis);
    offset = p.offset.data ? number_at(p.offset, batch, channel, axis - p.first_axis) : 0;
    const int whole = p.padding == Padding::kCircular ? size / 2 : size - 1;
    reach = p.radius < whole ? p.radius : whole;
    span = p.kind == TapsKind::kExact ? reach : p.radius;
    double wanted = span;
    if (p.kind == TapsKind::kExact)
      wanted = sigma < p.compact_sigma ? size / 2 : floor(p.tail * sigma + fabs(offset) + 0.5);
    else if (p.truncate >= 0)
      wanted = floor(p.truncate * sigma + 0.5);
    own = wanted < span ? int(wanted) : span;
  }
  __device__ bool is_identity() const { return !(sigma > 0); }
  __device__ bool wraps(const MakeTapsParams& p) const { return p.padding == Padding::kCircular && span > reach; }
};

// The inverse DFT of the response, tap r of every thread.
__device__ double exact_tap(const MakeTapsParams& p, const Row& row, int r, double* staged) {
  const double most = kNothing * row.size / (kTwoPi * row.sigma) + 1;
  const int half = row.size / 2 + 1, bins = most < half ? int(most) : half, step = r < 0 ? r + row.size : r;
  double sum = 0;
  int64_t at = 0;
  for (int first = 0; first < bins; first += kThreads) {
    const int k = first + int(threadIdx.x), count = bins - first < kThreads ? bins - first : kThreads;
    const double turns = double(k) / row.size, deviations = kTwoPi * row.sigma * turns;
    const double share = (k == 0 || 2 * k == row.size ? 1.0 : 2.0) / row.size * exp(-0.5 * deviations * deviations);
    __syncthreads();
    cos_sin_turns(row.offset * turns, staged[2 * threadIdx.x], staged[2 * threadIdx.x + 1]);
    staged[2 * threadIdx.x] *= share, staged[2 * threadIdx.x + 1] *= share;
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      sum += staged[2 * i] * row.roots[2 * at];
      if (p.offset.data) sum -= staged[2 * i + 1] * row.roots[2 * at + 1];  // of e^(−iω)
      at += step;
      if (at >= row.size) at -= row.size;
    }
  }
  return 2 * row.reach == row.size && 2 * abs(r) == row.size ? sum / 2 : sum;  // both ends are the same sample
}

// Of a sampled Gaussian, relative to the largest tap.
__device__ inline double sample(const Row& row, int r) {
  const double nearest = rint(row.offset), peak = nearest < -row.own ? -row.own : nearest > row.own ? row.own : nearest;
  const double scale = sqrt(2.0) * row.sigma, distance = (r - row.offset) / scale, least = (peak - row.offset) / scale;
  return exp(least * least - distance * distance);
}

// Σ sample(r), in an order that is always the same; all threads take part.
__device__ double sum_of_samples(const Row& row, double* staged) {
  double sum = 0;
  for (int r = int(threadIdx.x) - row.own; r <= row.own; r += kThreads) sum += sample(row, r);
  staged[threadIdx.x] = sum;
  for (int left = kThreads / 2; left > 0; left /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < left) staged[threadIdx.x] += staged[threadIdx.x + left];
  }
  __syncthreads();
  return staged[0];
}

__device__ inline double spatial_tap(const MakeTapsParams& p, const Row& row, int64_t r, double total) {
  if (r < -row.own || r > row.own) return 0;
  if (p.kind == TapsKind::kSampled) return sample(row, int(r)) / total;
  const double scale = sqrt(2.0) * row.sigma, distance = double(r) - row.offset;
  return (erf((distance + 0.5) / scale) - erf((distance - 0.5) / scale)) / 2;
}

// Tap r of a spatial kernel, those a period further included where it is wider than its axis.
__device__ double fitted_tap(const MakeTapsParams& p, const Row& row, int r, double total) {
  if (!row.wraps(p)) return spatial_tap(p, row, r, total);
  double sum = 0;
  for (int64_t at = r - int64_t((row.own + r) / row.size) * row.size; at <= row.own; at += row.size) sum += spatial_tap(p, row, at, total);
  return 2 * abs(r) == row.size ? sum / 2 : sum;
}

__device__ double tap_of(const MakeTapsParams& p, const Row& row, int r, double* staged) {
  if (row.is_identity()) return r == 0;
  if (p.kind == TapsKind::kExact) {
    const double tap = exact_tap(p, row, r, staged);
    return abs(r) <= row.own ? tap : 0;
  }
  const double total = p.kind == TapsKind::kSampled ? sum_of_samples(row, staged) : 1;
  return abs(r) <= row.reach ? fitted_tap(p, row, r, total) : 0;
}

__global__ void __launch_bounds__(kThreads) make_taps_of(MakeTapsParams p) {
  double* staged = shared_memory<double>();  // [2·kThreads]
  const int width = 2 * p.widest + 1, tiles = int(ceil_div(width, kThreads));
  const int axis = int(blockIdx.x / tiles % 3), first = int(blockIdx.x % tiles) * kThreads - p.widest, r = first + int(threadIdx.x);
  const int64_t image = blockIdx.x / tiles / 3;
  double tap = r == 0;
  int radius = 0;
  if (axis >= p.first_axis) {
    const Row row(p, image, axis);
    radius = row.is_identity() ? 0 : row.own < row.reach ? row.own : row.reach;
    const bool empty = first > radius || first + kThreads <= -radius;
    tap = empty ? 0 : tap_of(p, row, r < -row.reach ? -row.reach : r > row.reach ? row.reach : r, staged);
    if (abs(r) > radius) tap = 0;
  }
  if (r <= p.widest) p.taps[(image * 3 + axis) * width + r + p.widest] = float(tap);
  if (r == 0) p.radii[image * 3 + axis] = radius;
}

}  // namespace
}  // namespace fastseg::cuda

void fastseg::cuda_make_taps(const MakeTapsParams& p) {
  using namespace cuda;
  const int64_t images = p.batch * p.channels, tiles = ceil_div(2 * p.widest + 1, kThreads);
  if (images == 0) return;
  launch(make_taps_of, grid_of(images * 3 * tiles), dim3(kThreads), 2 * kThreads * sizeof(double), p.lane.stream, p);
}
