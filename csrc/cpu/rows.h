// The truncated transform along the last axis, whose samples lie side by side: mirrored samples are loaded and stored backwards.
#pragma once

#include "tiles.h"
#include "vector/fold.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class T>
inline Vector<T> load_mirrored(const T* last) {
  return reverse<T>(load(last - kLanes<T> + 1), Lanes<T>{});
}
template <class T>
inline void store_mirrored(T* last, Vector<T> v) {
  store(last - kLanes<T> + 1, reverse<T>(v, Lanes<T>{}));
}

// Calls wide(n) for vectors of samples in [begin, end), the last of which does some again, or single(n) where there is no whole one.
template <class T, class Wide, class Single>
inline void for_samples(int64_t begin, int64_t end, Wide&& wide, Single&& single) {
  const int64_t last = end - kLanes<T>;
  if (last < begin)
    for (int64_t n = begin; n < end; ++n) single(n);
  else
    for (int64_t n = begin; n < end; n += kLanes<T>) wide(n < last ? n : last);
}

// A row of odd size: e[n] ← x[n] + x[N−n], o[n−1] ← x[n] − x[N−n].
template <class T>
inline void fold_halves(const T* x, int64_t size, T* e, T* o) {
  e[0] = x[0];
  auto wide = [&](int64_t n) {
    Vector<T> both[2] = {load(x + n), load_mirrored(x + size - n)};
    fold(both);
    store(e + n, both[0]), store(o + n - 1, both[1]);
  };
  auto single = [&](int64_t n) {
    T both[2] = {x[n], x[size - n]};
    fold(both);
    e[n] = both[0], o[n - 1] = both[1];
  };
  for_samples<T>(1, size / 2 + 1, wide, single);
}

// A row of even size: e[2n], e[2n+1] ← what meets the cosines of even, odd k; o[2(n−1)], o[2n−1] ← what meets the sines.
template <class T>
inline void fold_quarters(const T* x, int64_t size, T* e, T* o) {
  const int64_t half = size / 2, n_middle = half / 2;
  e[0] = x[0] + x[half], e[1] = x[0] - x[half];
  auto wide = [&](int64_t n) {
    Vector<T> all[4] = {load(x + n), load_mirrored(x + size - n), load_mirrored(x + half - n), load(x + half + n)};
    fold(all);
    store_interleaved<T>(e + 2 * n, all[0], all[1], Lanes<T>{});
    store_interleaved<T>(o + 2 * (n - 1), all[2], all[3], Lanes<T>{});
  };
  auto single = [&](int64_t n) {
    T all[4] = {x[n], x[size - n], x[half - n], x[half + n]};
    fold(all);
    e[2 * n] = all[0], e[2 * n + 1] = all[1], o[2 * (n - 1)] = all[2], o[2 * n - 1] = all[3];
  };
  for_samples<T>(1, (half + 1) / 2, wide, single);
  if (half % 2) return;
  e[half] = x[n_middle] + x[size - n_middle], e[half + 1] = 0;
  o[half - 2] = 0, o[half - 1] = x[n_middle] - x[size - n_middle];
}

// out[row][k] = Σ_n folded[row][n][k mod kPeriod] · table[n][k]
template <int kPeriod, class T>
void multiply_rows(const T* folded, int64_t count, int64_t samples, const T* table, const Axis& axis, T* out) {
  const int64_t padded = axis.padded, pitch = kPeriod * samples;
  for_panels<T>(axis.kept(), [&](auto vectors, int64_t c) {
    for_row_tiles<kTileRows>(count, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value, kVectors = decltype(vectors)::value;
      Vector<T> acc[kRows][kVectors] = {};
      multiply_add<kRows, kVectors, kPeriod>(samples, folded + first * pitch, pitch, kPeriod, table + c, padded, acc);
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < kVectors; ++v) store(out + (first + i) * 2 * padded + c + v * kLanes<T>, acc[i][v]);
      }
    });
  });
}

// Rows [count][N] → parts [count][2][padded] (real, imaginary).
template <class T>
void analyse_rows(const T* rows, int64_t row_stride, int64_t count, const Axis& axis, T* parts, Scratch<T> scratch) {
  const int64_t period = parities(axis), n_even = cosines(axis, 0).samples, n_odd = sines(axis, period - 1).samples;
  T* even = scratch.take(count * period * n_even);
  T* odd = scratch.take(count * period * n_odd);
  for (int64_t r = 0; r < count; ++r) {
    const auto fold_row = period == 1 ? fold_halves<T> : fold_quarters<T>;
    fold_row(rows + r * row_stride, axis.size, even + r * period * n_even, odd + r * period * n_odd);
  }
  const auto multiply = period == 1 ? multiply_rows<1, T> : multiply_rows<2, T>;
  multiply(even, count, n_even, static_cast<const T*>(axis.cos), axis, parts);
  multiply(odd, count, n_odd, static_cast<const T*>(axis.sin), axis, parts + axis.padded);
}

template <class T>
int64_t row_scratch(const Axis& axis, int64_t count) {
  return count * (axis.size + 4) + 32;
}

// A row of odd size: y[n] ← c[n] + s[n], y[N−n] ← c[n] − s[n].
template <class T>
inline void unfold_halves(const T* const (&sums)[4], int64_t size, T* y) {
  const T *c = sums[0], *s = sums[2];
  y[0] = c[0];
  auto wide = [&](int64_t n) {
    Vector<T> both[2] = {load(c + n), load(s + n)};
    unfold(both);
    store(y + n, both[0]), store_mirrored(y + size - n, both[1]);
  };
  auto single = [&](int64_t n) { y[n] = c[n] + s[n], y[size - n] = c[n] - s[n]; };
  for_samples<T>(1, size / 2 + 1, wide, single);
}

// A row of even size from the sums of cosines of even, odd k and of sines of even, odd k.
template <class T>
inline void unfold_quarters(const T* const (&sums)[4], int64_t size, T* y) {
  const int64_t half = size / 2, n_middle = half / 2;
  y[0] = sums[0][0] + sums[1][0], y[half] = sums[0][0] - sums[1][0];
  auto wide = [&](int64_t n) {
    Vector<T> all[4] = {load(sums[0] + n), load(sums[1] + n), load(sums[2] + n), load(sums[3] + n)};
    unfold(all);
    store(y + n, all[0]), store_mirrored(y + size - n, all[1]), store_mirrored(y + half - n, all[2]), store(y + half + n, all[3]);
  };
  auto single = [&](int64_t n) {
    T all[4] = {sums[0][n], sums[1][n], sums[2][n], sums[3][n]};
    unfold(all);
    y[n] = all[0], y[size - n] = all[1], y[half - n] = all[2], y[half + n] = all[3];
  };
  for_samples<T>(1, (half + 1) / 2, wide, single);
  if (half % 2) return;
  y[n_middle] = sums[0][n_middle] + sums[3][n_middle], y[size - n_middle] = sums[0][n_middle] - sums[3][n_middle];
}

// out[row][n] = Σ_k coefficients[row][k] · table[k][n], k = part.first, part.first + part.step, …; rows of coefficients are 2K apart
template <int kRows, class T>
inline void sum_waves(const T* coefficients, const Part& part, const T* table, const Axis& axis, T* out) {
  const int64_t padded = axis.padded;
  for_panels<T>(cosines(axis, 0).samples, [&](auto vectors, int64_t c) {
    constexpr int kVectors = decltype(vectors)::value;
    Vector<T> acc[kRows][kVectors] = {};
    multiply_add<kRows, kVectors>(part.count, coefficients + part.first, 2 * axis.kept(), part.step, table + part.first * padded + c,
                                  part.step * padded, acc);
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTSEG_UNROLL
      for (int v = 0; v < kVectors; ++v) store(out + i * padded + c + v * kLanes<T>, acc[i][v]);
    }
  });
}

// Parts [count][2][K] → rows [count][N].
template <class T>
void synthesise_rows(const T* parts, int64_t count, const Axis& axis, T* rows, int64_t row_stride, Scratch<T> scratch) {
  const int64_t k = axis.kept(), padded = axis.padded;
  T* sums[4];
  for (T*& sum : sums) sum = scratch.take(kTileRows * padded);
  for_row_tiles<kTileRows>(count, [&](auto tile, int64_t first) {
    constexpr int kRows = decltype(tile)::value;
    const T* a = parts + first * 2 * k;
    for (int64_t parity = 0; parity < parities(axis); ++parity) {
      sum_waves<kRows>(a, cosines(axis, parity), static_cast<const T*>(axis.cos), axis, sums[parity]);
      sum_waves<kRows>(a + k, sines(axis, parity), static_cast<const T*>(axis.sin), axis, sums[2 + parity]);
    }
    const auto unfold_row = parities(axis) == 1 ? unfold_halves<T> : unfold_quarters<T>;
    for (int i = 0; i < kRows; ++i)
      unfold_row({sums[0] + i * padded, sums[1] + i * padded, sums[2] + i * padded, sums[3] + i * padded}, axis.size,
                 rows + (first + i) * row_stride);
  });
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
