// The verbs of an axis other than the last. A thread owns neighbouring columns, or columns a fixed distance apart where rows have no whole
// packs; in an analysis rows come straight from device memory and are folded in registers, and the sums are rows over the columns in shared
// memory. The table of an axis is read through the first-level cache, where all threads of a warp ask for the same 16 bytes.
//
// For even N rows are folded twice. With e[n] = x[n] + x[N−n] and o[n] = x[n] − x[N−n], rows n and N/2−n, the *twins*, meet the same
// cosine or sine up to a sign: even k meets e[n] + e[N/2−n] and o[n] − o[N/2−n], odd k meets e[n] − e[N/2−n] and o[n] + o[N/2−n]. So a
// quarter of the rows' sines and cosines is read, and half of the multiplications remain.
#pragma once

#include "../ops.h"
#include "intrinsics.h"

namespace fastseg::cuda {

constexpr int kSumColumns = 2;  // a thread sums: fewer sums leave registers for more threads, and those for more loads in flight
constexpr int kSpread = 16;     // from a column of a thread to its next, without packs: half a warp reads neighbours
// Frequencies ±k a thread can sum at a time: columns that lie apart take registers too. Whole multiples of it stay within the rows of the
// tables, which are padded to a multiple of 16.
constexpr int max_pairs(int64_t all, bool wide) { return wide ? 16 : all > 12 ? 8 : 12; }

// Sums of rows 0 … K−1 (cosines), then of rows K … 2K−2 (sines).
constexpr int stage_rows(const Axis& axis) { return int(2 * axis.distinct() - 1); }
constexpr int frequency_pairs(const Axis& axis) { return int(axis.distinct() - 1); }

// How many rows n = 0 … stand for all of an axis, by their mirrors and twins.
constexpr int folded_rows(int64_t size) { return int(size % 2 ? size / 2 + 1 : size / 4 + 1); }

// Which of the rows n, N−n, N/2−n and N/2+n there are; n = 0 and n = N/4 stand for two each.
struct RowGroup {
  int lows, highs, twins;  // n below these have one; n = 0 has no high row, nor a high twin
  __device__ explicit RowGroup(int size) : lows(folded_rows(size)), highs((size + 1) / 2), twins(size % 2 ? 0 : (size + 3) / 4) {}
  __device__ bool low(int n) const { return n < lows; }
  __device__ bool high(int n) const { return n > 0 && n < highs && n < lows; }
  __device__ bool twin_low(int n) const { return n < twins; }
  __device__ bool twin_high(int n) const { return n > 0 && n < twins; }
};

// `count` columns of a thread, from the `lane`-th on: neighbours where packs fit, else kSpread apart.
template <int count, bool kWide>
struct ColumnPlace {
  int first;

  __host__ __device__ static int64_t lanes(int64_t columns) {
    return kWide ? ceil_div(columns, count) : ceil_div(columns, count * kSpread) * kSpread;
  }
  __device__ explicit ColumnPlace(int lane) : first(kWide ? lane * count : lane / kSpread * (count * kSpread) + lane % kSpread) {}
};

// A thread's columns of one row, as they lie in memory.
template <class S, bool kWide>
class LoadedRow {
  static constexpr int kPack = kWide ? kSumColumns : 1;
  RawPack<kPack, S> packs_[kSumColumns / kPack] = {};

 public:
  __device__ void load(const S* row, bool exists, int valid) {
    FASTSEG_UNROLL
    for (int i = 0; i < kSumColumns / kPack; ++i)
      if (exists && (kWide || i * kSpread < valid)) packs_[i] = load_raw<kPack>(row + i * kSpread);
  }
  __device__ float at(int i) const { return raw_at<S>(packs_[i / kPack], i % kPack); }
};

// Rows n and N−n, N/2−n and N/2+n; what is not there is zero.
template <class S, bool kWide>
struct LoadedRows {
  LoadedRow<S, kWide> low, high, twin_low, twin_high;
};

// A thread's columns of an image, from the first one's address on; `valid` columns are left from there.
template <class S, bool kWide>
struct ColumnSource {
  const S* data;
  int stride, size, valid;

  __device__ LoadedRows<S, kWide> load(int n, const RowGroup& exists) const {
    LoadedRows<S, kWide> rows;
    rows.low.load(row(n), exists.low(n), valid);
    rows.high.load(row(size - n), exists.high(n), valid);
    rows.twin_low.load(row(size / 2 - n), exists.twin_low(n), valid);
    rows.twin_high.load(row(size / 2 + n), exists.twin_high(n), valid);
    return rows;
  }

 private:
  __device__ const S* row(int n) const { return data + int64_t{n} * stride; }
};

// Σ x[n]·cos and Σ x[n]·sin of the DC row and kPairs frequencies, the first of them odd.
template <int kPairs>
struct ColumnSums {
  float dc[kSumColumns] = {}, cos[kPairs][kSumColumns] = {}, sin[kPairs][kSumColumns] = {};

  // table: for each four frequencies their cosines, then their sines, at one n
  template <class S, bool kWide>
  __device__ void add(const LoadedRows<S, kWide>& rows, const float* table) {
    float even[2][kSumColumns], odd[2][kSumColumns];  // for even k, for odd k
    FASTSEG_UNROLL
    for (int v = 0; v < kSumColumns; ++v) {
      const float e = rows.low.at(v) + rows.high.at(v), o = rows.low.at(v) - rows.high.at(v);
      const float twin_e = rows.twin_low.at(v) + rows.twin_high.at(v), twin_o = rows.twin_low.at(v) - rows.twin_high.at(v);
      even[0][v] = e + twin_e, even[1][v] = e - twin_e;
      odd[0][v] = o - twin_o, odd[1][v] = o + twin_o;  // the sines of rows without a mirror are zero
      dc[v] += even[0][v];
    }
    FASTSEG_UNROLL
    for (int k = 0; k < kPairs; k += 4) {
      const auto c = load_pack<4>(table + 2 * k), s = load_pack<4>(table + 2 * k + 4);
      FASTSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < kSumColumns; ++v) {
          cos[k + i][v] += c.at[i] * even[(i + 1) % 2][v];
          sin[k + i][v] += s.at[i] * odd[(i + 1) % 2][v];
        }
      }
    }
  }

  // Rows n = first, first + step … of those that stand for all; the next ones are on their way while these are multiplied.
  template <class S, bool kWide>
  __device__ void add_rows(const ColumnSource<S, kWide>& x, const float* table, int table_stride, int first, int step) {
    const RowGroup exists(x.size);
    auto ahead = x.load(first, exists);
    FASTSEG_UNROLL_BY(1)
    for (int n = first; n < exists.lows; n += step) {
      const auto rows = ahead;
      ahead = x.load(n + step, exists);
      add(rows, table + n * table_stride);
    }
  }

  // Writes (fresh) or adds up to `pairs` frequencies' rows, and the DC row where there is one. Pointers are to a thread's first column.
  template <bool kWide>
  __device__ void deposit(float* dc_row, float* cos_rows, float* sin_rows, int stride, int pairs, int valid, bool fresh) const {
    if (dc_row) deposit_row<kWide>(dc, dc_row, valid, fresh);
    FASTSEG_UNROLL
    for (int k = 0; k < kPairs; ++k)
      if (k < pairs) {
        deposit_row<kWide>(cos[k], cos_rows + k * stride, valid, fresh);
        deposit_row<kWide>(sin[k], sin_rows + k * stride, valid, fresh);
      }
  }

 private:
  template <bool kWide>
  __device__ static void deposit_row(const float (&values)[kSumColumns], float* row, int valid, bool fresh) {
    if constexpr (kWide) {
      Pack<float, kSumColumns> sum;
      if (!fresh) sum = load_pack<kSumColumns>(row);
      FASTSEG_UNROLL
      for (int v = 0; v < kSumColumns; ++v) sum.at[v] = fresh ? values[v] : sum.at[v] + values[v];
      store_pack(row, sum);
    } else {
      FASTSEG_UNROLL
      for (int v = 0; v < kSumColumns; ++v)
        if (v * kSpread < valid) row[v * kSpread] = fresh ? values[v] : row[v * kSpread] + values[v];
    }
  }
};

}  // namespace fastseg::cuda
