// Whole spectra of planes, or of small volumes, as many at once as a vector has lanes. A tile holds their rows as complex numbers, the
// last axis's M = W/2 packed pairs of samples or its M + 1 bins, in rows of M + 1.
#pragma once

#include "tiles.h"
#include "vector/fft.h"
#include "vector/lanes.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kFftColumns = 4;  // transforms side by side: their passes stay in L1

template <class T>
struct Tile {
  const Transform& t;
  T* data;
  T* work;

  int64_t depth = 1;  // of a volume

  static int64_t row(const Transform& t) { return t.w.size / 2 + 1; }
  static int64_t longest(const Transform& t, int64_t depth) {
    const int64_t plane = t.h.size > row(t) ? t.h.size : row(t);
    return plane > depth ? plane : depth;
  }
  static int64_t numbers(const Transform& t, int64_t depth = 1) { return depth * t.h.size * row(t) * kPair<T>; }
  static int64_t scratch(const Transform& t, int64_t depth = 1) { return 3 * longest(t, depth) * kFftColumns * kPair<T>; }
  int64_t row() const { return row(t); }
  int64_t rows() const { return depth * t.h.size; }
  int64_t bins() const { return rows() * row(); }
  int64_t samples() const { return rows() * t.w.size; }
};

template <class T>
Roots<T> roots_of(const Axis& axis, int64_t size) {
  return {static_cast<const T*>(axis.roots), size, axis.size / size};
}

// Calls body(first, count) for blocks of kFftColumns columns.
template <class Body>
inline void for_columns(int64_t columns, Body&& body) {
  for (int64_t c = 0; c < columns; c += kFftColumns) body(c, columns - c < kFftColumns ? columns - c : kFftColumns);
}

// The tile ← rows of `count` planes or volumes, x[n] and x[n+1] being one complex number; and back.
template <class T, class S>
void gather_samples(const Tile<T>& tile, const S* x, int64_t count) {
  for (int64_t r = 0; r < tile.rows(); ++r)
    gather(Lines<const S>{x + r * tile.t.w.size, tile.samples(), kLanes<T>, count}, tile.t.w.size, tile.data + r * tile.row() * kPair<T>,
           kLanes<T>);
}
template <class T, class S>
void scatter_samples(const Tile<T>& tile, S* y, int64_t count) {
  for (int64_t r = 0; r < tile.rows(); ++r)
    scatter(tile.data + r * tile.row() * kPair<T>, kLanes<T>, tile.t.w.size,
            Lines<S>{y + r * tile.t.w.size, tile.samples(), kLanes<T>, count});
}

// The bins of a real row from the transform Z of its packed pairs: with E = Z[k] + conj Z[M−k], O = −i(Z[k] − conj Z[M−k]),
// 2X[k] = E + w^k·O, 2X[M−k] = conj(E − w^k·O).   z: `columns` apart; x: next to each other; first, inner: factors of X.
template <class T>
void unpack_row(const Roots<T>& w, const T* z, int64_t columns, T first, T inner, T* x) {
  const int64_t m = w.size / 2;
  const Pair<T> zero = load_pair(z);
  store_pair(x, Pair<T>{first * (zero.re + zero.im), Vector<T>{}});
  store_pair(x + m * kPair<T>, Pair<T>{first * (zero.re - zero.im), Vector<T>{}});
  for (int64_t k = 1; 2 * k <= m; ++k) {
    const Pair<T> a = load_pair(z + k * columns * kPair<T>), b = conj(load_pair(z + (m - k) * columns * kPair<T>));
    const Pair<T> turn{broadcast(w.data[2 * k]), broadcast(w.data[2 * k + 1])};
    const Pair<T> e = a + b, o = turn * minus_i(a - b);
    store_pair(x + k * kPair<T>, T(0.5) * inner * (e + o));
    store_pair(x + (m - k) * kPair<T>, T(0.5) * inner * conj(e - o));
  }
}

// The mirror: Z[k] = E + iO, E = X[k] + conj X[M−k], O = conj(w^k)·(X[k] − conj X[M−k]). The imaginary parts of X[0] and X[M] are ignored.
template <class T>
void pack_row(const Roots<T>& w, const T* x, int64_t columns, T first, T inner, Vector<T> bias, T* z) {
  const int64_t m = w.size / 2;
  const Vector<T> low = first * load(x) + bias, high = first * load(x + m * kPair<T>);
  store_pair(z, Pair<T>{low + high, low - high});
  for (int64_t k = 1; 2 * k <= m; ++k) {
    const Pair<T> a = inner * load_pair(x + k * kPair<T>), b = inner * conj(load_pair(x + (m - k) * kPair<T>));
    const Pair<T> turn{broadcast(w.data[2 * k]), -broadcast(w.data[2 * k + 1])};
    const Pair<T> e = a + b, o = turn * minus_i(a - b);  // −i times what the text calls O
    store_pair(z + k * columns * kPair<T>, e - o);
    store_pair(z + (m - k) * columns * kPair<T>, conj(e + o));
  }
}

// Columns of one axis, whose numbers are `row` complex ones apart.
template <int kRe, class T>
void transform_columns(const Tile<T>& tile, const Axis& axis, T* data, int64_t row) {
  for_columns(row, [&](int64_t first, int64_t count) {
    const Grid<T> columns{data + first * kPair<T>, row, 1};
    fft<kRe, T>(roots_of<T>(axis, axis.size), count, {columns.data, columns.row, columns.column}, columns, tile.work);
  });
}
// H of every plane, then D; the inverse in the other order, as larger volumes have it: results are the same to the bit.
template <int kRe, class T>
void transform_outer(const Tile<T>& tile) {
  const int64_t plane = tile.t.h.size * tile.row();
  auto depth = [&] {
    if (tile.depth > 1) transform_columns<kRe>(tile, tile.t.d, tile.data, plane);
  };
  if (kRe) depth();
  for (int64_t d = 0; tile.t.h.size > 1 && d < tile.depth; ++d)
    transform_columns<kRe>(tile, tile.t.h, tile.data + d * plane * kPair<T>, tile.row());
  if (!kRe) depth();
}

// Samples → bins, times `first`, on the inner columns of the last axis `inner`.
template <class T>
void analyse_tile(const Tile<T>& tile, T first, T inner) {
  const Roots<T> w = roots_of<T>(tile.t.w, tile.t.w.size), packed = roots_of<T>(tile.t.w, tile.t.w.size / 2);
  T* z = tile.work + fft_scratch<T>(tile.longest(tile.t, tile.depth), kFftColumns);
  for_columns(tile.rows(), [&](int64_t row, int64_t count) {
    T* rows = tile.data + row * tile.row() * kPair<T>;
    fft<0, T>(packed, count, {rows, 1, tile.row()}, {z, count, 1}, tile.work);
    for (int64_t c = 0; c < count; ++c) unpack_row(w, z + c * kPair<T>, count, first, inner, rows + c * tile.row() * kPair<T>);
  });
  transform_outer<0>(tile);
}

// Bins → samples, with the factors of analyse_tile; `bias` is added.
template <class T>
void synthesise_tile(const Tile<T>& tile, T first, T inner, Vector<T> bias) {
  const Roots<T> w = roots_of<T>(tile.t.w, tile.t.w.size), packed = roots_of<T>(tile.t.w, tile.t.w.size / 2);
  T* z = tile.work + fft_scratch<T>(tile.longest(tile.t, tile.depth), kFftColumns);
  transform_outer<1>(tile);
  for_columns(tile.rows(), [&](int64_t row, int64_t count) {
    T* rows = tile.data + row * tile.row() * kPair<T>;
    for (int64_t c = 0; c < count; ++c) pack_row(w, rows + c * tile.row() * kPair<T>, count, first, inner, bias, z + c * kPair<T>);
    fft<1, T>(packed, count, {z, count, 1}, {rows, 1, tile.row()}, tile.work);
  });
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
