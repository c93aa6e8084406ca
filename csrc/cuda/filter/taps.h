// What the passes of a separable filter share: taps, laid out for a thread that makes four neighbouring samples along an axis, and how
// results are written.
#pragma once

#include "../../ops.h"
#include "../intrinsics.h"

namespace fastseg::cuda::filter {

constexpr int kOutputs = 4;  // neighbours along the filtered axis, of one thread: each sample that it reads meets four taps
constexpr int kPack = 4;     // neighbours along W, which move together
constexpr int kMaxWarps = 8;
constexpr int kMaxThreads = kMaxWarps * kWarp;
// Blocks of a multiprocessor at a time: what the registers allow without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kResident = 2;
#else
constexpr int kResident = 3;
#endif

struct Taps {
  const float* data;     // [tap_images, 3, 2·radius + 1]
  const int32_t* radii;  // [tap_images, 3]
  int64_t per_image;     // 0 where all images share them
  int radius;
  Padding padding;
  bool adjoint;

  __device__ const float* centre(int64_t image, int axis) const {
    return data + (image * per_image * 3 + axis) * (2 * radius + 1) + radius;
  }
  __device__ int reach(int64_t image, int axis) const { return radii[image * per_image * 3 + axis]; }
  // The wider one of the last two axes'.
  __device__ int plane_reach(int64_t image) const {
    const int h = reach(image, 1), w = reach(image, 2);
    return h > w ? h : w;
  }
  // An adjoint reflection is a filter of what zeros extend, and gifts.
  __device__ bool folds_back() const { return adjoint && padding == Padding::kReflect; }
  __device__ Padding extension() const { return folds_back() ? Padding::kZeros : padding; }
};

// The sample that extends a line to `index`; −1: zero. No tap reaches beyond one period or reflection.
__device__ inline int source_of(int index, int size, Padding padding) {
  const auto exists = [&](int i) { return unsigned(i) < unsigned(size); };
  if (exists(index)) return index;
  if (padding == Padding::kZeros) return -1;
  const int once = padding == Padding::kCircular ? (index < 0 ? index + size : index - size) : index < 0 ? -index : 2 * (size - 1) - index;
  return exists(once) ? once : -1;
}

// Where results go. Of what is not wanted the pointer is null.
template <class Out>
struct Result {
  const Out* x;
  Out *low, *high;
  int unit_axes;  // a bit for every axis of one sample, where a filter is a factor
};

// Groups of four samples that four outputs need, the first of which starts `lead` samples before the first output.
constexpr int steps_of(int lead, int reach) { return (lead + reach + 2 * kOutputs - 1) / kOutputs; }

// padded[j] = the weight of the sample that is j − 4 − lead from an output's own, or the `first`th and further of these.
__device__ inline void pad_taps(const Taps& taps, int64_t image, int axis, int lead, int first, int count, float* padded) {
  const float* centre = taps.centre(image, axis);
  const int reach = taps.reach(image, axis);
  for (int j = int(threadIdx.y) * kWarp + int(threadIdx.x); j < count; j += int(blockDim.y) * kWarp) {
    const int r = first + j - kOutputs - lead;
    padded[j] = r >= -reach && r <= reach ? centre[taps.adjoint ? -r : r] : 0.0f;
  }
}

// The next four taps of a window of eight.
__device__ inline void advance(float (&window)[2 * kOutputs], const float* padded) {
  const auto four = load_pack<kOutputs>(padded);
  FASTSEG_UNROLL
  for (int i = 0; i < kOutputs; ++i) window[i] = window[i + kOutputs], window[i + kOutputs] = four.at[i];
}

// sums[s] += Σ_i weight of sample i in output s · samples[i], four samples of n lines.
template <int n>
__device__ inline void accumulate(const float (&window)[2 * kOutputs], const Pack<float, n> (&samples)[kOutputs],
                                  float (&sums)[kOutputs][n]) {
  FASTSEG_UNROLL
  for (int i = 0; i < kOutputs; ++i) {
    FASTSEG_UNROLL
    for (int s = 0; s < kOutputs; ++s) {
      FASTSEG_UNROLL
      for (int v = 0; v < n; ++v) sums[s][v] += window[kOutputs + i - s] * samples[i].at[v];
    }
  }
}

// The product of the filters along axes of one sample, which sees itself in every extension but zeros.
__device__ inline float unit_gain(const Taps& taps, int64_t image, int unit_axes) {
  float gain = 1;
  for (int axis = 0; axis < 3; ++axis) {
    if (!(unit_axes >> axis & 1)) continue;
    const float* centre = taps.centre(image, axis);
    const int reach = taps.padding == Padding::kCircular ? taps.reach(image, axis) : 0;
    float sum = 0;
    FASTSEG_UNROLL_BY(1)
    for (int r = -reach; r <= reach; ++r) sum += centre[r];
    gain *= sum;
  }
  return gain;
}

// What sample m of a line gave through the reflections, beside what it gave directly; read(n) is sample n, never further than `reach` away.
template <class Read>
__device__ inline float reflected_gifts(const Taps& taps, int64_t image, int axis, int size, int m, Read&& read) {
  const float* centre = taps.centre(image, axis);
  const int reach = taps.reach(image, axis), mirrored = 2 * (size - 1) - m;
  float sum = 0;
  const int last = m >= 1 ? reach - m : -1, first = mirrored >= size ? mirrored - reach : size;
  FASTSEG_UNROLL_BY(1)
  for (int n = 0; n <= last && n < size; ++n) sum += centre[-m - n] * read(n);
  FASTSEG_UNROLL_BY(1)
  for (int n = first > 0 ? first : 0; n < size; ++n) sum += centre[mirrored - n] * read(n);
  return sum;
}

// sums[a][b] += gift(a, b), one after the other: few threads have any.
template <int n, int outputs, class Gift>
__device__ inline void add_gifts(float (&sums)[outputs][n], Gift&& gift) {
  FASTSEG_UNROLL_BY(1)
  for (int given = 0; given < outputs * n; ++given) {
    const float value = gift(given / n, given % n);
    FASTSEG_UNROLL
    for (int i = 0; i < outputs * n; ++i) sums[i / n][i % n] += i == given ? value : 0.0f;
  }
}

// Four samples of n lines, `pitch` apart, of which `samples` and `lines` exist.
template <int n, int outputs, class Out>
__device__ inline void write(const Result<Out>& to, int64_t offset, int64_t pitch, const float (&sums)[outputs][n], float gain, int samples,
                             int lines, bool wide) {
  Pack<Out, n> x[outputs];
  if (to.high) {
    FASTSEG_UNROLL
    for (int s = 0; s < outputs; ++s)
      if (s < samples) x[s] = load_valid<n>(to.x + offset + s * pitch, lines, wide);
  }
  FASTSEG_UNROLL
  for (int s = 0; s < outputs; ++s) {
    if (s >= samples) return;
    float low[n], high[n];
    FASTSEG_UNROLL
    for (int v = 0; v < n; ++v) low[v] = gain * sums[s][v];
    if (to.low) store_valid<n>(to.low + offset + s * pitch, low, lines, wide);
    if (!to.high) continue;
    FASTSEG_UNROLL
    for (int v = 0; v < n; ++v) high[v] = to_compute(x[s].at[v]) - low[v];
    store_valid<n>(to.high + offset + s * pitch, high, lines, wide);
  }
}

}  // namespace fastseg::cuda::filter
