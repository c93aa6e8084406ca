// The verbs of the truncated transform along one axis: fold, multiply, unfold; pair the frequencies ±k.
#pragma once

#include <type_traits>

#include "../ops.h"
#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {  // internal linkage: single callers are inlined, which the tiles need

constexpr int kTileRows = 6;
constexpr int64_t kFoldColumns = 64;           // columns folded at a time: four cache lines of a row, both halves stay in L2
constexpr int64_t kNarrow = 2 * kFoldColumns;  // up to here a row is folded whole
constexpr int64_t kWhole = 1 << 20;            // planes up to here stay in L2, or near it, while the next one comes in
constexpr int64_t kUnfoldBytes = 20 << 10;     // coefficient rows of a column block stay in L1

template <class T>
constexpr int64_t kPanel = 2 * kLanes<T>;

// A bump allocator over the thread's scratch: sizes first, then pointers.
template <class T>
struct Scratch {
  T* next;
  explicit Scratch(int64_t total) : next(static_cast<T*>(thread_scratch(size_t(total) * sizeof(T)))) {}
  T* take(int64_t count) {
    T* taken = next;
    next += round_up(count, 16);
    return taken;
  }
};

template <int kRows>
struct Rows {
  static constexpr int value = kRows;
};

// Calls body(Rows<r>{}, first) for tiles of at most `kMax` rows, as equal as possible: few rows starve the multiply-add pipes.
template <int kMax, class Body>
inline void for_row_tiles(int64_t rows, Body&& body) {
  const int64_t tiles = ceil_div(rows, kMax);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles, count = rows * (t + 1) / tiles - first;
    if constexpr (kMax > 3) {
      if (count == 6) {
        body(Rows<6>{}, first);
        continue;
      }
      if (count == 5) {
        body(Rows<5>{}, first);
        continue;
      }
      if (count == 4) {
        body(Rows<4>{}, first);
        continue;
      }
    }
    if (count == 3)
      body(Rows<3>{}, first);
    else if (count == 2)
      body(Rows<2>{}, first);
    else
      body(Rows<1>{}, first);
  }
}

// Calls body(Rows<vectors>{}, column) over panels of two vectors, the last one of one vector where that is enough.
template <class T, class Body>
inline void for_panels(int64_t columns, Body&& body) {
  for (int64_t c = 0; c < columns; c += kPanel<T>) {
    if (columns - c > kLanes<T>)
      body(Rows<2>{}, c);
    else
      body(Rows<1>{}, c);
  }
}

// Where the panel that covers column c starts: the last one moves left and does some columns again rather than hang over the edge.
template <class T>
inline int64_t panel_start(int64_t c, int64_t columns) {
  return c + kPanel<T> <= columns || columns < kPanel<T> ? c : columns - kPanel<T>;
}

// A row whose columns [first, last) can be loaded as whole panels of T: itself, or a converted copy, padded with zeros.
template <class T, class S>
inline const T* loadable_row(const S* row, int64_t first, int64_t last, T* copy) {
  if constexpr (std::is_same_v<T, S>) {
    if (last - first >= kPanel<T>) return row;
  }
  read_row(row + first, copy, last - first);
  for (int64_t c = last - first; c < kPanel<T>; ++c) copy[c] = 0;
  return copy - first;
}

// Fetches what is wanted next, some lines at a time between the products of this: more of them asked for at once than the core can
// wait for would hold up the loads that are needed now.
template <class S>
struct Ahead {
  static constexpr int64_t kLine = 64 / sizeof(S), kPortion = 8 * kLine;
  const S* row;
  int64_t rows, columns, stride;
  int64_t pace;  // products between two portions: all of it is fetched in the course of `products`
  int64_t column = 0;

  Ahead(const S* first, int64_t row_count, int64_t row_columns, int64_t row_stride, int64_t products)
      : row(first), rows(row_count), columns(row_columns), stride(row_stride), pace(products / (rows * ceil_div(columns, kPortion))) {
    if (pace < 1) pace = 1;
  }
  void fetch() {
    if (rows <= 0) return;
    for (int64_t end = column + kPortion; column < end && column < columns; column += kLine) __builtin_prefetch(row + column, 0, 2);
    if (column >= columns) column = 0, row += stride, --rows;
  }
};

// Columns [begin, end) of rows that are `columns` long, end − begin ≤ kNarrow.
struct Span {
  int64_t begin, end, columns;
};

// even[panel][n], odd[panel][n−1] ← rows n and N−n of src
template <class T, class S>
void fold_rows(const S* src, int64_t stride, const Span& span, const Axis& axis, T* even, T* odd) {
  T low_copy[kNarrow + kPanel<T>], high_copy[kNarrow + kPanel<T>];
  const int64_t n_even = axis.even(), n_odd = axis.odd(), begin = span.begin, end = span.end, columns = span.columns;
  const int64_t first = panel_start<T>(begin, columns);
  for (int64_t n = 0; n < n_even; ++n) {
    const T* low = loadable_row(src + n * stride, first, end, low_copy);
    const bool paired = n >= 1 && n <= n_odd;
    const T* high = paired ? loadable_row(src + (axis.size - n) * stride, first, end, high_copy) : nullptr;
    T* e = even + n * kPanel<T>;
    T* o = odd + (n - 1) * kPanel<T>;
    for (int64_t c = begin; c < end; c += kPanel<T>, e += n_even * kPanel<T>, o += n_odd * kPanel<T>) {
      const int64_t start = panel_start<T>(c, columns);
      for (int v = 0; v < 2; ++v) {
        const Vector<T> a = load(low + start + v * kLanes<T>);
        if (paired) {
          const Vector<T> b = load(high + start + v * kLanes<T>);
          store(e + v * kLanes<T>, a + b);
          store(o + v * kLanes<T>, a - b);
        } else {
          store(e + v * kLanes<T>, a);
        }
      }
    }
  }
}

// out[row][column] = Σ_n table[n][row] · folded[panel][n][column]; fetches ahead on the way
template <class T, class S>
void multiply_folded(const T* table, int64_t rows, int64_t depth, const T* folded, const Span& span, T* out, int64_t out_stride,
                     Ahead<S>& ahead) {
  for (int64_t c = span.begin; c < span.end; c += kPanel<T>, folded += depth * kPanel<T>) {
    T* column = out + panel_start<T>(c, span.columns);
    for_row_tiles<kTileRows>(rows, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value;
      Vector<T> acc[kRows][2] = {};
      for (int64_t n = 0, pace = ahead.pace; n < depth; n += pace) {
        ahead.fetch();
        multiply_add<kRows, 2>(depth - n < pace ? depth - n : pace, table + n * rows + first, 1, rows, folded + n * kPanel<T>, kPanel<T>,
                               acc);
      }
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < 2; ++v) store(column + (first + i) * out_stride + v * kLanes<T>, acc[i][v]);
      }
    });
  }
}

template <class T>
int64_t fold_scratch(const Axis& axis) {
  return (axis.even() + axis.odd()) * kNarrow + 32;
}

// Outer-axis analysis of `columns` columns: out rows 0…K−1 are the cosine sums A, rows K…2K−2 the sine sums B. The columns that follow
// start at `next`.
template <class T, class S>
void analyse_columns(const S* src, int64_t stride, int64_t columns, const S* next, const Axis& axis, T* out, int64_t out_stride,
                     Scratch<T> scratch) {
  T* even = scratch.take(axis.even() * kNarrow);
  T* odd = scratch.take(axis.odd() * kNarrow);
  const int64_t k = axis.distinct(), block = columns <= kNarrow ? columns : kFoldColumns;
  const int64_t tiles = ceil_div(k, kTileRows) + ceil_div(k - 1, kTileRows), products = tiles * axis.size / 2;
  // the next plane in the order of memory where the caches hold both, else the next columns
  const bool whole = columns == stride && axis.size * stride * int64_t(sizeof(S)) <= kWhole;
  Ahead<S> ahead(next, 1, axis.size * stride, 0, products * ceil_div(columns, kPanel<T>));
  for (int64_t c = 0; c < columns; c += block) {
    const bool last = c + block >= columns;
    const Span span{c, last ? columns : c + block, columns};
    if (!whole) ahead = {last ? next : src + c + block, axis.size, block, stride, products * ceil_div(block, kPanel<T>)};
    fold_rows(src, stride, span, axis, even, odd);
    multiply_folded(static_cast<const T*>(axis.cos), k, axis.even(), even, span, out, out_stride, ahead);
    multiply_folded(static_cast<const T*>(axis.sin), k - 1, axis.odd(), odd, span, out + k * out_stride, out_stride, ahead);
  }
}

// Where a synthesis puts its rows.
template <class S>
struct Output {
  S* data;
  int64_t stride;
  bool streamed;  // rows start on cache lines and the result is too large to be kept
};

template <bool kStreamed, class T, class S>
inline void store_panel(S* dst, const Vector<T> (&values)[2], int64_t columns) {
  if constexpr (std::is_same_v<T, S>) {
    if (columns >= kPanel<T>) {
      FASTSEG_UNROLL
      for (int v = 0; v < 2; ++v) {
        if constexpr (kStreamed)
          stream(dst + v * kLanes<T>, values[v]);
        else
          store(dst + v * kLanes<T>, values[v]);
      }
      return;
    }
  }
  T row[kPanel<T>];
  FASTSEG_UNROLL
  for (int v = 0; v < 2; ++v) store(row + v * kLanes<T>, values[v]);
  write_row(row, dst, columns < kPanel<T> ? columns : kPanel<T>);
}

// Rows `first`…`first`+kPairs−1 and their mirrors N−n: y[n] = C + S, y[N−n] = C − S; without sines the rows stand alone.
template <int kPairs, bool kSines, bool kStreamed, class T, class S>
inline void unfold_tile(const T* rows, int64_t row_stride, const Axis& axis, int64_t first, T bias, S* dst, int64_t stride,
                        int64_t columns) {
  const int64_t k = axis.distinct();
  Vector<T> c[kPairs][2], s[kPairs][2] = {};
  FASTSEG_UNROLL
  for (int i = 0; i < kPairs; ++i) {
    FASTSEG_UNROLL
    for (int v = 0; v < 2; ++v) c[i][v] = broadcast(bias);
  }
  multiply_add<kPairs, 2>(k, static_cast<const T*>(axis.cos) + first, 1, axis.even(), rows, row_stride, c);
  if constexpr (kSines)
    multiply_add<kPairs, 2>(k - 1, static_cast<const T*>(axis.sin) + first - 1, 1, axis.odd(), rows + k * row_stride, row_stride, s);
  FASTSEG_UNROLL
  for (int i = 0; i < kPairs; ++i) {
    Vector<T> low[2], high[2];
    FASTSEG_UNROLL
    for (int v = 0; v < 2; ++v) low[v] = c[i][v] + s[i][v], high[v] = c[i][v] - s[i][v];
    store_panel<kStreamed, T>(dst + (first + i) * stride, low, columns);
    if constexpr (kSines) store_panel<kStreamed, T>(dst + (axis.size - first - i) * stride, high, columns);
  }
}

// Outer-axis synthesis: the mirror of analyse_columns. `rows` holds cosine coefficients P (K rows), then sine coefficients Q (K−1).
template <bool kStreamed, class T, class S>
void synthesise_columns(const T* rows, int64_t row_stride, const Axis& axis, T bias, int64_t columns, const Output<S>& out) {
  const int64_t fit = kUnfoldBytes / int64_t(sizeof(T)) / (2 * axis.distinct() - 1) / kPanel<T> * kPanel<T>;
  const int64_t block = fit < kPanel<T> ? kPanel<T> : fit, stride = out.stride;
  S* dst = out.data;
  for (int64_t begin = 0; begin < columns; begin += block) {
    const int64_t end = columns - begin < block ? columns : begin + block;
    auto tile_of = [&](auto tile, auto sines, int64_t first) {
      for (int64_t panel = begin; panel < end; panel += kPanel<T>) {
        const int64_t c = panel_start<T>(panel, columns);
        unfold_tile<decltype(tile)::value, decltype(sines)::value == 1, kStreamed>(rows + c, row_stride, axis, first, bias, dst + c, stride,
                                                                                   columns - c);
      }
    };
    tile_of(Rows<1>{}, Rows<0>{}, 0);
    for_row_tiles<kTileRows / 2>(axis.odd(), [&](auto tile, int64_t first) { tile_of(tile, Rows<1>{}, first + 1); });
    if (axis.size % 2 == 0) tile_of(Rows<1>{}, Rows<0>{}, axis.size / 2);
  }
}

// The last axis: rows [count][N] → parts [count][2][padded] (real, imaginary).
template <class T>
void analyse_rows(const T* rows, int64_t row_stride, int64_t count, const Axis& axis, T* parts, Scratch<T> scratch) {
  const int64_t n_even = axis.even(), n_odd = axis.odd(), padded = axis.padded;
  T* even = scratch.take(count * n_even);
  T* odd = scratch.take(count * n_odd);
  for (int64_t r = 0; r < count; ++r) {
    const T* __restrict x = rows + r * row_stride;
    T* __restrict e = even + r * n_even;
    T* __restrict o = odd + r * n_odd;
    e[0] = x[0];
    if (axis.size % 2 == 0) e[n_even - 1] = x[n_even - 1];
    for (int64_t n = 1; n <= n_odd; ++n) {
      e[n] = x[n] + x[axis.size - n];
      o[n - 1] = x[n] - x[axis.size - n];
    }
  }
  auto multiply = [&](const T* folded, int64_t depth, const void* table, T* out) {
    for_panels<T>(padded, [&](auto vectors, int64_t c) {
      for_row_tiles<kTileRows>(count, [&](auto tile, int64_t first) {
        constexpr int kRows = decltype(tile)::value, kVectors = decltype(vectors)::value;
        Vector<T> acc[kRows][kVectors] = {};
        multiply_add<kRows, kVectors>(depth, folded + first * depth, depth, 1, static_cast<const T*>(table) + c, padded, acc);
        FASTSEG_UNROLL
        for (int i = 0; i < kRows; ++i) {
          FASTSEG_UNROLL
          for (int v = 0; v < kVectors; ++v) store(out + (first + i) * 2 * padded + c + v * kLanes<T>, acc[i][v]);
        }
      });
    });
  };
  multiply(even, n_even, axis.cos, parts);
  multiply(odd, n_odd, axis.sin, parts + padded);
}

// The last axis back: parts [count][2][K] → rows [count][N].
template <class T>
void synthesise_rows(const T* parts, int64_t count, const Axis& axis, T* rows, int64_t row_stride, Scratch<T> scratch) {
  const int64_t k = axis.distinct(), padded = axis.padded;
  T* cosines = scratch.take(kTileRows * padded);
  T* sines = scratch.take(kTileRows * padded);
  for_row_tiles<kTileRows>(count, [&](auto tile, int64_t first) {
    constexpr int kRows = decltype(tile)::value;
    for_panels<T>(padded, [&](auto vectors, int64_t c) {
      constexpr int kVectors = decltype(vectors)::value;
      const T* a = parts + first * 2 * k;
      Vector<T> cos_sum[kRows][kVectors] = {}, sin_sum[kRows][kVectors] = {};
      multiply_add<kRows, kVectors>(k, a, 2 * k, 1, static_cast<const T*>(axis.cos) + c, padded, cos_sum);
      multiply_add<kRows, kVectors>(k, a + k, 2 * k, 1, static_cast<const T*>(axis.sin) + c, padded, sin_sum);
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          store(cosines + i * padded + c + v * kLanes<T>, cos_sum[i][v]);
          store(sines + i * padded + c + v * kLanes<T>, sin_sum[i][v]);
        }
      }
    });
    for (int i = 0; i < kRows; ++i) {
      const T* __restrict c = cosines + i * padded;
      const T* __restrict s = sines + i * padded;
      T* __restrict y = rows + (first + i) * row_stride;
      for (int64_t n = 0; n < axis.even(); ++n) y[n] = c[n] + s[n];
      for (int64_t n = 1; n <= axis.odd(); ++n) y[axis.size - n] = c[n] - s[n];
    }
  });
}

// How a row of complex numbers lies: kStep apart, imaginary parts `im` behind the real ones. Interleaved: kStep 2, im 1; planar: kStep 1.
template <int kStep>
struct Pairs {
  static constexpr int step = kStep;
  int64_t im;
};

// body(Pairs) of a spectrum whose planes, if it is planar, have `modes` numbers.
template <class Body>
inline void with_pairs(bool planar, int64_t modes, Body&& body) {
  if (planar)
    body(Pairs<1>{modes});
  else
    body(Pairs<2>{1});
}

template <int kFrom, int kTo, class T>
inline void copy_pairs(const T* __restrict x, Pairs<kFrom> from, Pairs<kTo> to, int64_t modes, T* __restrict out) {
  for (int64_t i = 0; i < modes; ++i) out[kTo * i] = x[kFrom * i], out[kTo * i + to.im] = x[kFrom * i + from.im];
}

// out = a − i·sign·b
template <int kFrom, int kTo, class T>
inline void subtract_i(const T* __restrict a, const T* __restrict b, Pairs<kFrom> from, T sign, Pairs<kTo> to, int64_t modes,
                       T* __restrict out) {
  for (int64_t i = 0; i < modes; ++i) {
    out[kTo * i] = a[kFrom * i] + sign * b[kFrom * i + from.im];
    out[kTo * i + to.im] = a[kFrom * i + from.im] - sign * b[kFrom * i];
  }
}

// Spectrum rows ±k from the sums A (cosines) and B (sines): X[k] = A − iB, X[−k] = A + iB.
template <class T, class From, class To, class Sum, class Row>
inline void combine(const Axis& axis, int64_t modes, From from, To to, Sum&& sum, Row&& row) {
  const int64_t k_count = axis.distinct();
  copy_pairs(static_cast<const T*>(sum(0)), from, to, modes, row(0));
  for (int64_t k = 1; k < k_count; ++k) {
    const T* a = sum(k);
    const T* b = sum(k_count + k - 1);
    if (k < axis.positive) subtract_i(a, b, from, T(1), to, modes, row(k));
    if (k <= axis.negative) subtract_i(a, b, from, T(-1), to, modes, row(axis.kept() - k));
  }
}

// p = x, q = i·sign·x
template <int kFrom, int kTo, class T>
inline void split_one(const T* __restrict x, T sign, Pairs<kFrom> from, Pairs<kTo> to, int64_t modes, T* __restrict p, T* __restrict q) {
  for (int64_t i = 0; i < modes; ++i) {
    p[kTo * i] = x[kFrom * i], p[kTo * i + to.im] = x[kFrom * i + from.im];
    q[kTo * i] = -sign * x[kFrom * i + from.im], q[kTo * i + to.im] = sign * x[kFrom * i];
  }
}

template <int kFrom, int kTo, class T>
inline void split_pair(const T* __restrict x, const T* __restrict y, Pairs<kFrom> from, Pairs<kTo> to, int64_t modes, T* __restrict p,
                       T* __restrict q) {
  for (int64_t i = 0; i < modes; ++i) {
    const T x_im = x[kFrom * i + from.im], y_im = y[kFrom * i + from.im];
    p[kTo * i] = x[kFrom * i] + y[kFrom * i], p[kTo * i + to.im] = x_im + y_im;
    q[kTo * i] = y_im - x_im, q[kTo * i + to.im] = x[kFrom * i] - y[kFrom * i];
  }
}

// The coefficients of cosines and sines from spectrum rows ±k: P = X[k] + X[−k], Q = i(X[k] − X[−k]).
template <class T, class From, class To, class Row, class Part>
inline void separate(const Axis& axis, int64_t modes, From from, To to, Row&& row, Part&& part) {
  const int64_t k_count = axis.distinct();
  copy_pairs(static_cast<const T*>(row(0)), from, to, modes, part(0));
  for (int64_t k = 1; k < k_count; ++k) {
    T* p = part(k);
    T* q = part(k_count + k - 1);
    if (k >= axis.positive)
      split_one(row(axis.kept() - k), T(-1), from, to, modes, p, q);
    else if (k > axis.negative)
      split_one(row(k), T(1), from, to, modes, p, q);
    else
      split_pair(row(k), row(axis.kept() - k), from, to, modes, p, q);
  }
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
