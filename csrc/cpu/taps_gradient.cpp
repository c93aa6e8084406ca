// The gradient of the taps on one axis: correlations of x with a gradient, lag by lag.
#include "../parallel.h"
#include "filter.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kLags = 16;  // that one task takes

// A filter without taps: what `gather` and `extend` need to know of one.
template <class T>
Filter<T> margins(int64_t size, int64_t radius, Padding padding) {
  return {size, radius, nullptr, padding, false, false};
}

// D or H of an image as panels. body(x, gradient, columns): rows of a cache line each, x behind its margin.
template <class T, class S, class Body>
void for_columns(const TapsGradientParams& p, const S* x, const S* gradient, Body&& body) {
  const int64_t plane = p.h * p.w, size = p.axis == 0 ? p.d : p.h, stride = p.axis == 0 ? plane : p.w;
  const int64_t blocks = p.axis == 0 ? 1 : p.d, columns = p.axis == 0 ? plane : p.w, rows = panel_rows(size, p.radius);
  T* panel = static_cast<T*>(thread_scratch(size_t(2 * rows * kLine<T>) * sizeof(T)));
  const Panels<T> samples{panel, rows}, gradients{panel + rows * kLine<T>, rows};
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t c = 0; c < columns; c += kLine<T>) {
      const int64_t width = least(columns - c, kLine<T>), at = block * plane + c;
      gather(x + at, stride, width, margins<T>(size, p.radius, p.padding), 0, size, samples);
      gather(gradient + at, stride, width, margins<T>(size, 0, p.padding), 0, size, gradients);
      body(std::integral_constant<int, kLineVectors>{}, samples.line(p.radius, 0), gradients.data, width);
    }
}

// W of an image: blocks of rows, transposed.
template <class T, class S, class Body>
void for_rows(const TapsGradientParams& p, const S* x, const S* gradient, Body&& body) {
  const int64_t rows = p.d * p.h, wide = round_up(p.w, kLine<T>), length = panel_rows(wide, p.radius) * kLanes<T>;
  const Panels<T> block{static_cast<T*>(thread_scratch(size_t((kLanes<T> + kTile) * wide + 2 * length) * sizeof(T))), kLanes<T> + kTile};
  T *samples = block.data + block.rows * wide + p.radius * kLanes<T>, *gradients = block.data + block.rows * wide + length;
  for (int64_t row = 0; row < rows; row += kLanes<T>) {
    const int64_t count = least(rows - row, kLanes<T>);
    gather(x + row * p.w, p.w, p.w, margins<T>(count, 0, p.padding), 0, count, block);
    transpose_in(block, 0, p.w, samples);
    extend<1>(margins<T>(p.w, p.radius, p.padding), samples);
    gather(gradient + row * p.w, p.w, p.w, margins<T>(count, 0, p.padding), 0, count, block);
    transpose_in(block, 0, p.w, gradients);
    body(std::integral_constant<int, 1>{}, samples, gradients, count);
  }
}

// Sums of one panel are taken in T, over at most one axis; those of panels in double.
template <class T, class S>
void taps_gradient(const TapsGradientParams& p, int64_t image, int64_t first, int64_t count, T* out) {
  const int64_t voxels = p.d * p.h * p.w, size = p.axis == 0 ? p.d : p.axis == 1 ? p.h : p.w;
  double sums[kLags] = {};
  auto body = [&](auto vectors, const T* samples, const T* gradients, int64_t columns) {
    constexpr int64_t width = decltype(vectors)::value * kLanes<T>;
    for (int64_t lag = first; lag < first + count; lag += kTile)
      for (int64_t v = 0; v < width; v += kLanes<T>) {
        Vector<T> acc[kTile] = {};
        correlate_tile(samples + (lag - p.radius) * width + v, width, gradients + v, width, size, acc);
        for (int i = 0; i < kTile && lag + i < first + count; ++i)
          for (int c = 0; c < kLanes<T> && v + c < columns; ++c) sums[lag - first + i] += double(acc[i][c]);
      }
  };
  const S *x = static_cast<const S*>(p.x) + image * voxels, *gradient = static_cast<const S*>(p.gradient) + image * voxels;
  p.axis == 2 ? for_rows<T>(p, x, gradient, body) : for_columns<T>(p, x, gradient, body);
  for (int64_t i = 0; i < count; ++i) out[first + i] = T(sums[i]);
}

template <class T, class S>
void taps_gradient(const TapsGradientParams& p) {
  const int64_t lags = 2 * p.radius + 1, groups = ceil_div(lags, kLags);
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / groups, first = task % groups * kLags;
      taps_gradient<T, S>(p, image, first, least(lags - first, kLags), static_cast<T*>(p.out) + image * lags);
    }
  };
  parallel_for(p.images * groups, 1, useful_threads(p.images * p.d * p.h * p.w * lags, p.lane.threads), body);
}

}  // namespace

void taps_gradient(const TapsGradientParams& p) {
  by_dtype(p.dtype, [&](auto t) { taps_gradient<typename decltype(t)::Compute, typename decltype(t)::Storage>(p); });
}

}  // namespace fastseg::FASTSEG_ISA
