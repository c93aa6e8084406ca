// One axis of a separable filter on panels in cache: rows of samples a few vectors wide, extended by the padding, filtered in place.
#pragma once

#include <type_traits>
#include <utility>

#include "../ops.h"
#include "vector/simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Outputs at a time: their window of samples stays in registers and every sample is loaded once a tile. A multiply-add, an addition and
// a load are an instruction each to the front end, so the widest tile whose two windows fit is the best one.
constexpr int kTile = FASTSEG_VECTOR_BYTES == 64 ? 8 : 5;
constexpr int kLineVectors = 64 / FASTSEG_VECTOR_BYTES;

template <class T>
constexpr int64_t kLine = 64 / int64_t(sizeof(T));

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// One axis of a filter. `folded` is the adjoint of reflection: it runs into the margins, which are then added back mirrored.
template <class T>
struct Filter {
  int64_t size, radius;
  const T* taps;  // [2·radius + 1][lanes]
  Padding padding;
  bool folded, symmetric;

  // Rows that a panel of this filter has on either side of its samples.
  int64_t margin() const { return folded ? 2 * radius : radius; }
  // The row of a filtered panel that holds its first output.
  int64_t first() const { return folded ? radius : 0; }
  // The sample that stands at n ∈ [−margin, size + margin), −1: zero.
  int64_t source(int64_t n) const {
    if (n >= 0 && n < size) return n;
    if (folded || padding == Padding::kZeros) return -1;
    if (padding == Padding::kReflect) return n < 0 ? -n : 2 * (size - 1) - n;
    return n < 0 ? n + size : n - size;
  }
};

// The last tile of a panel reads and writes rows behind it.
constexpr int64_t panel_rows(int64_t samples, int64_t margin) { return samples + 2 * margin + kTile; }

template <int kVectors, class T>
inline void copy_row(const T* from, T* to) {
  for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<T>, load(from + v * kLanes<T>));
}
template <int kVectors, class T>
inline void zero_row(T* to) {
  for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<T>, Vector<T>{});
}
template <int kVectors, class T>
inline void add_row(const T* from, T* to) {
  for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<T>, load(to + v * kLanes<T>) + load(from + v * kLanes<T>));
}

// Fills the margins around rows 0 … size−1.
template <int kVectors, class T>
void extend(const Filter<T>& f, T* rows) {
  constexpr int64_t width = kVectors * kLanes<T>;
  auto fill = [&](int64_t n) {
    const int64_t source = f.source(n);
    source < 0 ? zero_row<kVectors>(rows + n * width) : copy_row<kVectors>(rows + source * width, rows + n * width);
  };
  for (int64_t n = -f.margin(); n < 0; ++n) fill(n);
  for (int64_t n = f.size; n < f.size + f.margin(); ++n) fill(n);
  for (int64_t n = f.size + f.margin(); n < f.size + f.margin() + kTile; ++n) zero_row<kVectors>(rows + n * width);
}

// rows[i] ← Σ_r taps[r] · rows[i + r], r = 0 … 2·radius, i = 0 … kTile−1. Row j of the window below and above lives in slot j mod kTile.
template <class T>
inline __attribute__((always_inline)) void filter_tile_symmetric(T* rows, int64_t stride, const T* taps, int64_t radius) {
  const T* centre = rows + radius * stride;
  const T* tap = taps + radius * kLanes<T>;
  Vector<T> acc[kTile], below[kTile], above[kTile];
  const Vector<T> first = load(tap);
  FASTSEG_UNROLL
  for (int i = 0; i < kTile; ++i) {
    below[i] = above[i] = load(centre + i * stride);
    acc[i] = first * below[i];
  }
  auto step = [&](int u, int64_t r) __attribute__((always_inline)) {
    below[kTile - 1 - u] = load(centre - r * stride);
    above[u] = load(centre + (kTile - 1 + r) * stride);
    const Vector<T> weight = load(tap + r * kLanes<T>);
    FASTSEG_UNROLL
    for (int i = 0; i < kTile; ++i) acc[i] += weight * (below[(i + 2 * kTile - 1 - u) % kTile] + above[(i + 1 + u) % kTile]);
  };
  int64_t r = 1;
  for (; r + kTile - 1 <= radius; r += kTile) {
    FASTSEG_UNROLL
    for (int u = 0; u < kTile; ++u) step(u, r + u);
  }
  FASTSEG_UNROLL
  for (int u = 0; u < kTile - 1; ++u) {
    if (r + u > radius) break;
    step(u, r + u);
  }
  FASTSEG_UNROLL
  for (int i = 0; i < kTile; ++i) store(rows + i * stride, acc[i]);
}

// acc[i] += Σ_s weights[s] · rows[i + s], s = 0 … count−1: the filter without folding, and the gradient of kTile taps.
template <class T>
inline __attribute__((always_inline)) void correlate_tile(const T* rows, int64_t stride, const T* weights, int64_t weight_stride,
                                                          int64_t count, Vector<T> (&acc)[kTile]) {
  Vector<T> window[kTile];
  FASTSEG_UNROLL
  for (int i = 0; i < kTile - 1; ++i) window[i] = load(rows + i * stride);
  auto step = [&](int u, int64_t s) __attribute__((always_inline)) {
    window[(u + kTile - 1) % kTile] = load(rows + (s + kTile - 1) * stride);
    const Vector<T> weight = load(weights + s * weight_stride);
    FASTSEG_UNROLL
    for (int i = 0; i < kTile; ++i) acc[i] += weight * window[(i + u) % kTile];
  };
  int64_t s = 0;
  for (; s + kTile <= count; s += kTile) {
    FASTSEG_UNROLL
    for (int u = 0; u < kTile; ++u) step(u, s + u);
  }
  FASTSEG_UNROLL
  for (int u = 0; u < kTile - 1; ++u) {
    if (s + u >= count) break;
    step(u, s + u);
  }
}

// Filters rows in place: output i takes the place of the first row it read.
template <int kVectors, class T>
void filter_rows(T* rows, int64_t count, const Filter<T>& f) {
  constexpr int64_t width = kVectors * kLanes<T>;
  for (int64_t n = 0; n < count; n += kTile)
    for (int v = 0; v < kVectors; ++v) {
      T* tile = rows + n * width + v * kLanes<T>;
      if (f.symmetric) {
        filter_tile_symmetric(tile, width, f.taps, f.radius);
      } else {
        Vector<T> acc[kTile] = {};
        correlate_tile(tile, width, f.taps, kLanes<T>, 2 * f.radius + 1, acc);
        FASTSEG_UNROLL
        for (int i = 0; i < kTile; ++i) store(tile + i * width, acc[i]);
      }
    }
}

// Filters a panel of `count` samples between their margins, all f.size of them where the filter is folded. Returns its outputs.
template <int kVectors, class T>
T* filter_panel(T* panel, int64_t count, const Filter<T>& f) {
  constexpr int64_t width = kVectors * kLanes<T>;
  filter_rows<kVectors>(panel, count + 2 * f.first(), f);
  T* rows = panel + f.first() * width;
  T* last = rows + (count - 1) * width;
  for (int64_t i = 1; i <= f.first(); ++i) {
    add_row<kVectors>(rows - i * width, rows + i * width);
    add_row<kVectors>(last + i * width, last - i * width);
  }
  return rows;
}

// Columns of an array as panels side by side, a cache line wide each.
template <class T>
struct Panels {
  T* data;
  int64_t rows;  // of a panel

  T* line(int64_t row, int64_t column) const { return data + (column / kLine<T> * rows + row) * kLine<T> + column % kLine<T>; }
};

template <class T, class S>
inline void read_line(const S* from, int64_t width, T* line) {
  if (width >= kLine<T>) {
    if constexpr (std::is_same_v<T, S>) return copy_row<kLineVectors>(from, line);
    return read_row(from, line, kLine<T>);
  }
  zero_row<kLineVectors>(line);
  read_row(from, line, width);
}

// Rows [begin, end) of `width` numbers with the margins that a filter along the rows' axis needs. Zeros fill up the last panel.
template <class T, class S>
void gather(const S* from, int64_t stride, int64_t width, const Filter<T>& f, int64_t begin, int64_t end, const Panels<T>& panels) {
  const int64_t margin = f.margin(), rows = panel_rows(end - begin, margin);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t source = row < rows - kTile ? f.source(begin - margin + row) : -1;
    for (int64_t c = 0; c < width; c += kLine<T>) {
      T* line = panels.line(row, c);
      source < 0 ? zero_row<kLineVectors>(line) : read_line(from + source * stride + c, width - c, line);
    }
  }
}

// Swaps the blocks of kStep numbers off the diagonal, then smaller ones: rows become columns.
template <int kStep, class T, int... i>
inline void swap_blocks(Vector<T> (&v)[kLanes<T>], std::integer_sequence<int, i...> order) {
  FASTSEG_UNROLL
  for (int row = 0; row < kLanes<T>; ++row) {
    if (row & kStep) continue;
    const Vector<T> a = v[row], b = v[row + kStep];
    v[row] = __builtin_shufflevector(a, b, (i & kStep ? kLanes<T> + i - kStep : i)...);
    v[row + kStep] = __builtin_shufflevector(a, b, (i & kStep ? kLanes<T> + i : i + kStep)...);
  }
  if constexpr (kStep > 1) swap_blocks<kStep / 2, T>(v, order);
}
template <class T>
inline void transpose(Vector<T> (&v)[kLanes<T>]) {
  swap_blocks<kLanes<T> / 2, T>(v, std::make_integer_sequence<int, kLanes<T>>{});
}

// columns[n][lane] ← number n of row `row` + lane, n < width.
template <class T>
void transpose_in(const Panels<T>& panels, int64_t row, int64_t width, T* columns) {
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    Vector<T> v[kLanes<T>];
    FASTSEG_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) v[i] = load(panels.line(row, c) + i * kLine<T>);
    transpose<T>(v);
    FASTSEG_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) store(columns + (c + i) * kLanes<T>, v[i]);
  }
}

// sink.put(row + lane, n, …) of columns[n][lane], n < width, lane < count, a cache line of a row at a time.
template <class T, class Sink>
void transpose_out(const T* columns, int64_t width, int64_t row, int64_t count, const Sink& sink) {
  alignas(64) T lines[kLanes<T> * kLine<T>];
  for (int64_t c = 0; c < width; c += kLine<T>) {
    for (int64_t part = 0; part < kLine<T>; part += kLanes<T>) {
      Vector<T> v[kLanes<T>];
      FASTSEG_UNROLL
      for (int i = 0; i < kLanes<T>; ++i) v[i] = load(columns + (c + part + i) * kLanes<T>);
      transpose<T>(v);
      FASTSEG_UNROLL
      for (int i = 0; i < kLanes<T>; ++i) store(lines + i * kLine<T> + part, v[i]);
    }
    for (int64_t i = 0; i < count; ++i) sink.put(row + i, c, lines + i * kLine<T>, least(width - c, kLine<T>));
  }
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
