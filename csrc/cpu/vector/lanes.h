// Rows of memory to lanes of vectors and back: vector i holds number i of as many rows as it has lanes.
#pragma once

#include <type_traits>
#include <utility>

#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Exchanges the blocks of kSize lanes beside the diagonal.
template <int kSize, class T, int... i>
inline void exchange(Vector<T>& a, Vector<T>& b, std::integer_sequence<int, i...>) {
  constexpr int lanes = kLanes<T>;
  const Vector<T> low = __builtin_shufflevector(a, b, (i & kSize ? lanes + i - kSize : i)...);
  b = __builtin_shufflevector(a, b, (i & kSize ? lanes + i : i + kSize)...);
  a = low;
}

template <class T, int kSize = kLanes<T> / 2>
inline void transpose(Vector<T> (&rows)[kLanes<T>]) {
  FASTSEG_UNROLL
  for (int i = 0; i < kLanes<T>; ++i)
    if (!(i & kSize)) exchange<kSize, T>(rows[i], rows[i + kSize], std::make_integer_sequence<int, kLanes<T>>{});
  if constexpr (kSize > 1) transpose<T, kSize / 2>(rows);
}

// Rows `apart` from each other, in which blocks of as many numbers as a vector has lanes lie `step` apart.
template <class S>
struct Lines {
  S* data;
  int64_t apart, step, count;  // of rows, at most as many as lanes
};

template <class T, class S>
inline Vector<T> load_block(const S* p, int64_t valid) {
  if constexpr (std::is_same_v<T, S>) {
    if (valid >= kLanes<T>) return load(p);
  }
  T row[kLanes<T>] = {};
  read_row(p, row, valid < kLanes<T> ? valid : kLanes<T>);
  return load(row);
}

template <class T, class S>
inline void store_block(S* p, Vector<T> v, int64_t valid) {
  if constexpr (std::is_same_v<T, S>) {
    if (valid >= kLanes<T>) return store(p, v);
  }
  T row[kLanes<T>];
  store(row, v);
  write_row(row, p, valid < kLanes<T> ? valid : kLanes<T>);
}

// out[i], `step` numbers apart, ← number i of every row, i < length; zeros in lanes without a row.
template <class T, class S>
void gather(const Lines<const S>& x, int64_t length, T* out, int64_t step) {
  for (int64_t first = 0; first < length; first += kLanes<T>) {
    const S* block = x.data + first / kLanes<T> * x.step;
    Vector<T> v[kLanes<T>];
    if (x.count == kLanes<T>) {
      for (int l = 0; l < kLanes<T>; ++l) v[l] = load_block<T>(block + l * x.apart, length - first);
    } else {
      for (int l = 0; l < kLanes<T>; ++l) v[l] = l < x.count ? load_block<T>(block + l * x.apart, length - first) : Vector<T>{};
    }
    transpose<T>(v);
    for (int i = 0; i < kLanes<T> && first + i < length; ++i) store(out + (first + i) * step, v[i]);
  }
}

// The way back.
template <class T, class S>
void scatter(const T* x, int64_t step, int64_t length, const Lines<S>& out) {
  for (int64_t first = 0; first < length; first += kLanes<T>) {
    S* block = out.data + first / kLanes<T> * out.step;
    Vector<T> v[kLanes<T>] = {};
    for (int i = 0; i < kLanes<T> && first + i < length; ++i) v[i] = load(x + (first + i) * step);
    transpose<T>(v);
    for (int l = 0; l < out.count; ++l) store_block<T>(block + l * out.apart, v[l], length - first);
  }
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
