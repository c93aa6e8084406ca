// The truncated transform along an outer axis: rows of memory are its samples, and columns, the lanes of a vector, do not meet.
#pragma once

#include "tiles.h"
#include "vector/fold.h"
#include "vector/stored.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kFoldColumns = 64;           // columns folded at a time: four cache lines of a row, all parts stay in L2
constexpr int64_t kNarrow = 2 * kFoldColumns;  // up to here a row is folded whole
constexpr int64_t kWhole = 1 << 20;            // planes up to here stay in L2, or near it, while the next one comes in
constexpr int kUnfoldPairs = 3;                // samples whose sums are in registers, or near them, when they are unfolded
constexpr int kUnfoldQuads = 4;
constexpr int64_t kUnfoldBytes = 20 << 10;  // coefficient rows of a column block stay in L1

// Columns [begin, end) of rows that are `columns` long, end − begin ≤ kNarrow.
struct Span {
  int64_t begin, end, columns;
};

// Folded samples: [panel][sample][kPanel].
template <class T>
struct Folded {
  T* data;
  int64_t samples;

  Folded from(int64_t sample) const { return {data + sample * kPanel<T>, samples}; }
};

template <int kRows, class T>
inline void fold_panels(const T* const (&rows)[kRows], const Span& span, const Folded<T> (&out)[kRows]) {
  for (int64_t c = span.begin, panel = 0; c < span.end; c += kPanel<T>, ++panel) {
    const int64_t start = panel_start<T>(c, span.columns);
    for (int v = 0; v < 2; ++v) {
      Vector<T> x[kRows];
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) x[i] = load(rows[i] + start + v * kLanes<T>);
      fold(x);
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) store(out[i].data + panel * out[i].samples * kPanel<T> + v * kLanes<T>, x[i]);
    }
  }
}

// cosine, sine[parity] ← the folded columns of src
template <class T, class S>
FASTSEG_APART void fold_columns(const S* src, int64_t stride, const Span& span, const Axis& axis, const Folded<T> (&cosine)[2],
                                const Folded<T> (&sine)[2]) {
  T copies[4][kNarrow + kPanel<T>];
  const int64_t size = axis.size, half = size / 2, first = panel_start<T>(span.begin, span.columns);
  auto row = [&](int64_t n, int copy) { return loadable_row(src + n * stride, first, span.end, copies[copy]); };
  if (size % 2) {
    fold_panels<1, T>({row(0, 0)}, span, {cosine[0]});
    for (int64_t n = 1; n <= half; ++n) fold_panels<2, T>({row(n, 0), row(size - n, 1)}, span, {cosine[0].from(n), sine[0].from(n - 1)});
    return;
  }
  fold_panels<2, T>({row(0, 0), row(half, 1)}, span, {cosine[0], cosine[1]});
  for (int64_t n = 1; 2 * n < half; ++n)
    fold_panels<4, T>({row(n, 0), row(size - n, 1), row(half - n, 2), row(half + n, 3)}, span,
                      {cosine[0].from(n), cosine[1].from(n), sine[0].from(n - 1), sine[1].from(n - 1)});
  if (half % 2 == 0) {
    const int64_t n = half / 2;
    fold_panels<2, T>({row(n, 0), row(size - n, 1)}, span, {cosine[0].from(n), sine[1].from(n - 1)});
  }
}

// Rows `row`, row + step, … of a matrix.
template <class T>
struct RowsOf {
  T* data;
  int64_t stride, step;

  T* at(int64_t i) const { return data + i * step * stride; }
};

// out[i][column] = Σ_n table[n][first + i·step] · folded[panel][n][column]; fetches ahead on the way
template <int kStep, class T>
void multiply_folded(const T* table, int64_t frequencies, const Part& part, const Folded<T>& folded, const Span& span, const RowsOf<T>& out,
                     Ahead& ahead) {
  const T* panel = folded.data;
  for (int64_t c = span.begin; c < span.end; c += kPanel<T>, panel += part.samples * kPanel<T>) {
    const int64_t start = panel_start<T>(c, span.columns);
    for_row_tiles<kTileRows>(part.count, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value;
      Vector<T> acc[kRows][2] = {};
      for (int64_t n = 0, pace = ahead.pace; n < part.samples; n += pace) {
        ahead.fetch();
        multiply_add<kRows, 2>(part.samples - n < pace ? part.samples - n : pace, table + n * frequencies + first * kStep, kStep,
                               frequencies, panel + n * kPanel<T>, kPanel<T>, acc);
      }
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < 2; ++v) store(out.at(first + i) + start + v * kLanes<T>, acc[i][v]);
      }
    });
  }
}

template <class T>
int64_t fold_scratch(const Axis& axis) {
  return axis.size * kNarrow + 64;
}

// Multiply-adds of a column that multiply_folded issues one after the other.
inline int64_t products_of(const Axis& axis) {
  int64_t products = 0;
  for (int64_t parity = 0; parity < parities(axis); ++parity)
    for (const Part& part : {cosines(axis, parity), sines(axis, parity)}) products += ceil_div(part.count, kTileRows) * part.samples;
  return products;
}

// Outer-axis analysis of `columns` columns: out rows 0…K−1 are the cosine sums A, rows K…2K−2 the sine sums B. The columns that follow
// start at `next`.
template <class T>
void analyse_columns(const Source& src, int64_t stride, int64_t columns, const Source& next, const Axis& axis, T* out, int64_t out_stride,
                     Scratch<T> scratch) {
  Folded<T> cosine[2], sine[2];
  for (int64_t parity = 0; parity < parities(axis); ++parity) {
    cosine[parity] = {scratch.take(cosines(axis, parity).samples * kNarrow), cosines(axis, parity).samples};
    sine[parity] = {scratch.take(sines(axis, parity).samples * kNarrow), sines(axis, parity).samples};
  }
  const int64_t k = axis.distinct(), block = columns <= kNarrow ? columns : kFoldColumns, products = products_of(axis);
  const T *cos_table = static_cast<const T*>(axis.cos), *sin_table = static_cast<const T*>(axis.sin);
  // the next plane in the order of memory where the caches hold both, else the next columns
  const bool whole = columns == stride && axis.size * stride * src.bytes <= kWhole;
  Ahead ahead(next, 1, axis.size * stride, 0, products * ceil_div(columns, kPanel<T>));
  for (int64_t c = 0; c < columns; c += block) {
    const bool last = c + block >= columns;
    const Span span{c, last ? columns : c + block, columns};
    if (!whole) ahead = {last ? next : src + c + block, axis.size, block, stride, products * ceil_div(block, kPanel<T>)};
    with_storage<T>(src.dtype, [&](auto storage) {
      fold_columns(src.template as<typename decltype(storage)::type>(), stride, span, axis, cosine, sine);
    });
    for (int64_t parity = 0; parity < parities(axis); ++parity) {
      const Part cos = cosines(axis, parity), sin = sines(axis, parity);
      const auto multiply = parities(axis) == 1 ? multiply_folded<1, T> : multiply_folded<2, T>;
      multiply(cos_table + cos.first, k, cos, cosine[parity], span, {out + cos.first * out_stride, out_stride, cos.step}, ahead);
      if (!sin.count) continue;
      multiply(sin_table + sin.first - 1, k - 1, sin, sine[parity], span, {out + (k + sin.first - 1) * out_stride, out_stride, sin.step},
               ahead);
    }
  }
}

// A part of the coefficients: those of frequency i in rows.at(i), and of its table, in which frequencies are `apart`, the columns of
// samples from `first` on. A part of nothing has no table.
template <class T>
struct Terms {
  RowsOf<const T> rows;
  const T* table;
  int64_t apart, count, first;

  const T* at(int64_t sample) const { return count ? table + (sample - first) : nullptr; }
};

// `rows` holds cosine coefficients P (K rows), then sine coefficients Q (K−1).
template <class T>
inline Terms<T> cosine_terms(const Axis& axis, const T* rows, int64_t stride, int64_t parity) {
  const Part cos = cosines(axis, parity);
  const T* table = static_cast<const T*>(axis.cos) + cos.first * axis.even();
  return {{rows + cos.first * stride, stride, cos.step}, table, cos.step * axis.even(), cos.count, 0};
}
template <class T>
inline Terms<T> sine_terms(const Axis& axis, const T* rows, int64_t stride, int64_t parity) {
  const Part sin = sines(axis, parity);
  const T* table = sin.count ? static_cast<const T*>(axis.sin) + (sin.first - 1) * axis.odd() : nullptr;
  return {{rows + (axis.distinct() + sin.first - 1) * stride, stride, sin.step}, table, sin.step * axis.odd(), sin.count, 1};
}

// Row n of a synthesis for n = start + sign · i, i the sample of the tables.
struct Order {
  int64_t start, sign;
};

// Parts whose sums meet, and the rows they make.
template <class T, int kParts>
struct Parts {
  Terms<T> terms[kParts];
  Order orders[kParts];
};

// Samples first…first+kRows−1 of the parts, a panel of columns wide, unfolded into the rows they make.
template <int kRows, bool kStreamed, int kParts, class T>
inline __attribute__((always_inline)) void unfold_tile(const Parts<T, kParts>& parts, int64_t first, T bias, int64_t column, T* dst,
                                                       int64_t stride, int64_t columns) {
  Vector<T> sums[kParts][kRows][2];
  FASTSEG_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const Terms<T>& t = parts.terms[part];
    Vector<T> acc[kRows][2];
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) acc[i][0] = acc[i][1] = broadcast(part == 0 ? bias : T(0));
    multiply_add<kRows, 2>(t.count, t.at(first), 1, t.apart, t.rows.data + column, t.rows.step * t.rows.stride, acc);
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) sums[part][i][0] = acc[i][0], sums[part][i][1] = acc[i][1];
  }
  T* rows[kParts];
  FASTSEG_UNROLL
  for (int part = 0; part < kParts; ++part)
    rows[part] = dst + (parts.orders[part].start + parts.orders[part].sign * first) * stride + column;
  FASTSEG_UNROLL
  for (int i = 0; i < kRows; ++i) {
    Vector<T> panels[kParts][2];
    FASTSEG_UNROLL
    for (int v = 0; v < 2; ++v) {
      Vector<T> x[kParts];
      FASTSEG_UNROLL
      for (int part = 0; part < kParts; ++part) x[part] = sums[part][i][v];
      unfold(x);
      FASTSEG_UNROLL
      for (int part = 0; part < kParts; ++part) panels[part][v] = x[part];
    }
    FASTSEG_UNROLL
    for (int part = 0; part < kParts; ++part) {
      store_panel<kStreamed, T>(rows[part], panels[part], columns);
      rows[part] += parts.orders[part].sign * stride;
    }
  }
}

// The panels of columns [begin, end), each a tile.
template <int kRows, bool kStreamed, int kParts, class T>
FASTSEG_APART void unfold_tiles(const Parts<T, kParts>& parts, int64_t first, T bias, int64_t begin, int64_t end, T* dst, int64_t stride,
                                int64_t columns) {
  for (int64_t panel = begin; panel < end; panel += kPanel<T>) {
    const int64_t column = panel_start<T>(panel, columns);
    unfold_tile<kRows, kStreamed>(parts, first, bias, column, dst, stride, columns - column);
  }
}

// Outer-axis synthesis: the mirror of analyse_columns; streamed: rows of `out` start on cache lines and the result is too large to be kept.
template <bool kStreamed, class T>
void synthesise_columns(const T* rows, int64_t row_stride, const Axis& axis, T bias, int64_t columns, T* out, int64_t out_stride) {
  const int64_t fit = kUnfoldBytes / int64_t(sizeof(T)) / (2 * axis.distinct() - 1) / kPanel<T> * kPanel<T>;
  const int64_t block = fit < kPanel<T> ? kPanel<T> : fit, size = axis.size, half = size / 2;
  const Order low{0, 1}, high{size, -1}, below{half, -1}, above{half, 1};
  const Terms<T> cos = cosine_terms(axis, rows, row_stride, 0), sin = sine_terms(axis, rows, row_stride, parities(axis) - 1);
  auto for_blocks = [&](auto&& body) {
    for (int64_t begin = 0; begin < columns; begin += block) {
      const int64_t end = columns - begin < block ? columns : begin + block;
      body([&](auto tile, int64_t first, const auto& parts) {
        unfold_tiles<decltype(tile)::value, kStreamed>(parts, first, bias, begin, end, out, out_stride, columns);
      });
    }
  };
  if (size % 2) {
    const Parts<T, 1> single{{cos}, {low}};
    const Parts<T, 2> pair{{cos, sin}, {low, high}};
    return for_blocks([&](auto&& unfold) {
      unfold(Rows<1>{}, 0, single);
      for_row_tiles<kUnfoldPairs>(half, [&](auto tile, int64_t first) { unfold(tile, first + 1, pair); });
    });
  }
  const Terms<T> odd_cos = cosine_terms(axis, rows, row_stride, 1), even_sin = sine_terms(axis, rows, row_stride, 0);
  const Parts<T, 2> ends{{cos, odd_cos}, {low, above}}, middle{{cos, sin}, {low, high}};
  const Parts<T, 4> quad{{cos, odd_cos, even_sin, sin}, {low, high, below, above}};
  for_blocks([&](auto&& unfold) {
    unfold(Rows<1>{}, 0, ends);
    for_row_tiles<kUnfoldQuads>((half - 1) / 2, [&](auto tile, int64_t first) { unfold(tile, first + 1, quad); });
    if (half % 2 == 0) unfold(Rows<1>{}, half / 2, middle);
  });
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
