// The verbs of an axis other than the last. A thread owns four neighbouring columns: rows n and N−n of them come straight from device
// memory and are folded in registers, coefficients and results in shared memory are rows over the columns. The table of an axis is read
// through the first-level cache, where all threads of a warp ask for the same 16 bytes.
#pragma once

#include "../ops.h"
#include "intrinsics.h"

namespace fastseg::cuda {

constexpr int kColumns = 4;
constexpr int kMaxPairs = 16;  // frequencies ±k a thread can sum at a time; tables are padded to a multiple of it
constexpr int kAhead = 3;      // rows (and mirrors) a thread has asked for: 24 KB a multiprocessor hide the latency of device memory
constexpr int kSamples = 8;    // rows n (and N−n) of a result a thread makes at a time

using Columns = Pack<float, kColumns>;

// Sums of rows 0 … K−1 (cosines), then of rows K … 2K−2 (sines).
constexpr int stage_rows(const Axis& axis) { return int(2 * axis.distinct() - 1); }
constexpr int frequency_pairs(const Axis& axis) { return int(axis.distinct() - 1); }

// Four columns of an image of `size` rows.
template <class S>
struct ColumnSource {
  const S* data;
  int64_t stride;
  int size, valid;
  bool wide;

  struct Rows {
    Pack<S, kColumns> low, high;
  };

  // Rows n and N−n; a row without a mirror meets nothing.
  __device__ Rows load(int n) const {
    Rows rows = {load_valid<kColumns>(data + n * stride, valid, wide), {}};
    if (n > 0 && 2 * n < size) rows.high = load_valid<kColumns>(data + (size - n) * stride, valid, wide);
    return rows;
  }
};

// Σ x[n]·cos and Σ x[n]·sin of the DC row and kPairs frequencies.
template <int kPairs>
struct ColumnSums {
  float dc[kColumns] = {}, cos[kPairs][kColumns] = {}, sin[kPairs][kColumns] = {};

  // table: for each four frequencies their cosines, then their sines, at one n
  __device__ void add(const float (&even)[kColumns], const float (&odd)[kColumns], const float* table) {
    FASTSEG_UNROLL
    for (int v = 0; v < kColumns; ++v) dc[v] += even[v];
    FASTSEG_UNROLL
    for (int k = 0; k < kPairs; k += 4) {
      const auto c = load_pack<4>(table + 2 * k), s = load_pack<4>(table + 2 * k + 4);
      FASTSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < kColumns; ++v) {
          cos[k + i][v] += c.at[i] * even[v];
          sin[k + i][v] += s.at[i] * odd[v];
        }
      }
    }
  }

  // Rows first, first + step … of half the image; the next kAhead are on their way while these are multiplied.
  template <class S>
  __device__ void add_rows(const ColumnSource<S>& x, const float* table, int64_t table_stride, int first, int step) {
    const int even_rows = x.size / 2 + 1;
    typename ColumnSource<S>::Rows ahead[kAhead];
    FASTSEG_UNROLL
    for (int i = 0; i < kAhead; ++i)
      if (first + i * step < even_rows) ahead[i] = x.load(first + i * step);
    for (int n = first; n < even_rows; n += step) {
      const auto rows = ahead[0];
      FASTSEG_UNROLL
      for (int i = 1; i < kAhead; ++i) ahead[i - 1] = ahead[i];
      if (n + kAhead * step < even_rows) ahead[kAhead - 1] = x.load(n + kAhead * step);
      float even[kColumns], odd[kColumns];
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        const float low = to_compute(rows.low.at[v]), high = to_compute(rows.high.at[v]);
        even[v] = low + high, odd[v] = low - high;  // the table has zeros for the odd half of a row without a mirror
      }
      add(even, odd, table + n * table_stride);
    }
  }

  // Writes (fresh) or adds up to `pairs` frequencies' rows, and the DC row where there is one.
  __device__ void deposit(float* dc_row, float* cos_rows, float* sin_rows, int stride, int pairs, bool fresh) const {
    if (dc_row) deposit_row(dc, dc_row, fresh);
    FASTSEG_UNROLL
    for (int k = 0; k < kPairs; ++k)
      if (k < pairs) {
        deposit_row(cos[k], cos_rows + k * stride, fresh);
        deposit_row(sin[k], sin_rows + k * stride, fresh);
      }
  }

 private:
  __device__ static void deposit_row(const float (&values)[kColumns], float* row, bool fresh) {
    Columns sum = {};
    if (!fresh) sum = load_pack<kColumns>(row);
    FASTSEG_UNROLL
    for (int v = 0; v < kColumns; ++v) sum.at[v] += values[v];
    store_pack(row, sum);
  }
};

// kSamples rows n and their mirrors of four columns: even[n] = Σ P·cos, odd[n] = Σ Q·sin; y[n] = even + odd, y[N−n] = even − odd.
struct Samples {
  float even[kSamples][kColumns] = {}, odd[kSamples][kColumns] = {};

  __device__ void add_dc(const float* row, float bias) {
    const Columns p = load_pack<kColumns>(row);
    FASTSEG_UNROLL
    for (int n = 0; n < kSamples; ++n) {
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) even[n][v] = p.at[v] + bias;
    }
  }

  // table: at each frequency the cosines of kSamples rows, then their sines
  __device__ void add(const float* cos_rows, const float* sin_rows, int stride, int pairs, const float* table, int64_t table_stride) {
    for (int k = 0; k < pairs; ++k, table += table_stride) {
      const Columns p = load_pack<kColumns>(cos_rows + k * stride), q = load_pack<kColumns>(sin_rows + k * stride);
      FASTSEG_UNROLL
      for (int n = 0; n < kSamples; n += 4) {
        const auto c = load_pack<4>(table + n), s = load_pack<4>(table + kSamples + n);
        FASTSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          FASTSEG_UNROLL
          for (int v = 0; v < kColumns; ++v) {
            even[n + i][v] += c.at[i] * p.at[v];
            odd[n + i][v] += s.at[i] * q.at[v];
          }
        }
      }
    }
  }

  template <class S>
  __device__ void store(S* y, int64_t stride, int size, int first, int valid, bool wide) const {
    FASTSEG_UNROLL
    for (int i = 0; i < kSamples; ++i) {
      const int n = first + i;
      if (2 * n > size) continue;
      float low[kColumns], high[kColumns];
      FASTSEG_UNROLL
      for (int v = 0; v < kColumns; ++v) low[v] = even[i][v] + odd[i][v], high[v] = even[i][v] - odd[i][v];
      store_valid(y + n * stride, low, valid, wide);
      if (n > 0 && 2 * n < size) store_valid(y + (size - n) * stride, high, valid, wide);
    }
  }
};

}  // namespace fastseg::cuda
