// Tiles of rows and panels of columns: what the products of every axis and of the 1x1 convolutions share.
#pragma once

#include <type_traits>

#include "../parallel.h"
#include "vector/stored.h"

namespace fastseg::FASTSEG_ISA {
namespace {  // internal linkage: single callers are inlined, which the tiles need

constexpr int kTileRows = 6;  // times a panel of two vectors: 12 sums, two of the panel and one broadcast in the 16 registers of AVX2

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

// body(Rows<count>{}), count in 1 … kMost
template <int kMost, class Body>
inline __attribute__((always_inline)) void with_rows(int64_t count, Body&& body) {
  if constexpr (kMost > 1) {
    if (count < kMost) return with_rows<kMost - 1>(count, body);
  }
  body(Rows<kMost>{});
}

// Calls body(Rows<r>{}, first) for tiles of at most `kMax` rows, as equal as possible: few rows starve the multiply-add pipes.
template <int kMax, class Body>
inline void for_row_tiles(int64_t rows, Body&& body) {
  const int64_t tiles = ceil_div(rows, kMax);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles, count = rows * (t + 1) / tiles - first;
    with_rows<kMax>(count, [&](auto tile) __attribute__((always_inline)) { body(tile, first); });
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
struct Ahead {
  static constexpr int64_t kLine = 64, kPortion = 8 * kLine;
  const char* row;
  int64_t rows, length, stride;  // bytes
  int64_t pace;                  // products between two portions: all of it is fetched in the course of `products`
  int64_t at = 0;

  Ahead(const Source& first, int64_t row_count, int64_t columns, int64_t row_stride, int64_t products)
      : row(first.data),
        rows(row_count),
        length(columns * first.bytes),
        stride(row_stride * first.bytes),
        pace(products / (rows * ceil_div(length, kPortion))) {
    if (pace < 1) pace = 1;
  }
  void fetch() {
    if (rows <= 0) return;
    for (int64_t end = at + kPortion; at < end && at < length; at += kLine) __builtin_prefetch(row + at, 0, 2);
    if (at >= length) at = 0, row += stride, --rows;
  }
};

// `columns` of a panel, or all of it where that is less; streamed: past the caches, to aligned rows.
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

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
