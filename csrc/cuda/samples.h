// The verbs of a synthesis along an axis other than the last; columns.h has the mathematics. Coefficients are rows over the columns in
// shared memory; a thread makes a few samples of four columns, their mirrors and their twins.
#pragma once

#include "columns.h"

namespace fastseg::cuda {

constexpr int kColumns = 4;       // a thread makes
constexpr int kSamples = 4;       // rows n, with their mirrors and twins, at a time
constexpr int kTableSamples = 8;  // rows n of a pack of the table

using Columns = Pack<float, kColumns>;

// A thread's columns of a row of coefficients; what is not there is zero.
template <bool kWide>
__device__ inline Columns load_columns(const float* row, int valid) {
  if constexpr (kWide) {
    return load_pack<kColumns>(row);
  } else {
    Columns values = {};
    FASTSEG_UNROLL
    for (int v = 0; v < kColumns; ++v)
      if (v * kSpread < valid) values.at[v] = row[v * kSpread];
    return values;
  }
}

// Coefficients of a thread's columns in shared memory: rows of P from k = 1 on, then of Q.
template <bool kWide>
struct SharedRows {
  const float *p_rows, *q_rows;
  int stride, valid;

  __device__ Columns p(int k) const { return load_columns<kWide>(p_rows + k * stride, valid); }
  __device__ Columns q(int k) const { return load_columns<kWide>(q_rows + k * stride, valid); }
};

// Where the table of a synthesis has rows n = first …
__device__ inline const float* table_of_samples(const Axis& axis, int first) {
  return static_cast<const float*>(axis.cos) + first / kTableSamples * 2 * kTableSamples + first % kTableSamples;
}

// kSamples rows n, their mirrors and their twins of four columns, as sums over even and over odd k: even[n] = Σ P·cos, odd[n] = Σ Q·sin.
struct Samples {
  float even[2][kSamples][kColumns] = {}, odd[2][kSamples][kColumns] = {};

  __device__ void add_dc(const Columns& row, float bias) {
    FASTSEG_UNROLL
    for (int n = 0; n < kSamples; ++n) {
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) even[0][n][v] = row.at[v] + bias;
    }
  }

  // Frequencies of which the first is odd. rows(k): their P and Q; table: at each the cosines of 8 rows, then their sines.
  template <class Rows>
  __device__ void add(const Rows& rows, int pairs, const float* table, int table_stride) {
    FASTSEG_UNROLL_BY(1)
    for (int k = 0; k < pairs; k += 2) {
      FASTSEG_UNROLL
      for (int i = 0; i < 2; ++i, table += table_stride)
        if (k + i < pairs) add_one((i + 1) % 2, rows.p(k + i), rows.q(k + i), table);
    }
  }

  // y[n] = even + odd, y[N−n] = even − odd; a twin has the odd k of its cosines, the even k of its sines the other way round
  template <bool kWide, class S>
  __device__ void store(S* y, int64_t stride, int size, int first, int valid) const {
    const RowGroup exists(size);
    FASTSEG_UNROLL
    for (int i = 0; i < kSamples; ++i) {
      const int n = first + i;
      float low[kColumns], high[kColumns], twin_low[kColumns], twin_high[kColumns];
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        const float e = even[0][i][v] + even[1][i][v], o = odd[0][i][v] + odd[1][i][v];
        const float twin_e = even[0][i][v] - even[1][i][v], twin_o = odd[1][i][v] - odd[0][i][v];
        low[v] = e + o, high[v] = e - o, twin_low[v] = twin_e + twin_o, twin_high[v] = twin_e - twin_o;
      }
      if (exists.low(n)) store_columns<kWide>(y + n * stride, low, valid);
      if (exists.high(n)) store_columns<kWide>(y + (size - n) * stride, high, valid);
      if (exists.twin_low(n)) store_columns<kWide>(y + (size / 2 - n) * stride, twin_low, valid);
      if (exists.twin_high(n)) store_columns<kWide>(y + (size / 2 + n) * stride, twin_high, valid);
    }
  }

 private:
  __device__ void add_one(int parity, const Columns& p, const Columns& q, const float* table) {
    const auto c = load_pack<kSamples>(table), s = load_pack<kSamples>(table + kTableSamples);
    FASTSEG_UNROLL
    for (int n = 0; n < kSamples; ++n) {
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        even[parity][n][v] += c.at[n] * p.at[v];
        odd[parity][n][v] += s.at[n] * q.at[v];
      }
    }
  }

  template <bool kWide, class S>
  __device__ static void store_columns(S* row, const float (&values)[kColumns], int valid) {
    if constexpr (kWide) {
      Pack<S, kColumns> stored;
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) from_compute(values[v], stored.at[v]);
      store_global(row, stored);
    } else {
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v)
        if (v * kSpread < valid) from_compute(values[v], row[v * kSpread]);
    }
  }
};

}  // namespace fastseg::cuda
