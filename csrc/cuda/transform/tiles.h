// Kernels that take a tile of columns or of rows, and leave the sums over one axis in device memory for the next: the D axis, lines, and
// planes that do not fit one block.
#pragma once

#include "../columns.h"
#include "../launch.h"
#include "../rows.h"
#include "../samples.h"

namespace fastseg::cuda {

// Tiles of the kernels that go through device memory.
constexpr int kTileThreads = 256;
constexpr int kTileColumns = 128;
constexpr int kTileSumLanes = kTileColumns / kSumColumns, kTileSumGroups = kTileThreads / kTileSumLanes;  // of an analysis
constexpr int kTileLanes = kTileColumns / kColumns, kTileGroups = kTileThreads / kTileLanes;              // of a synthesis
constexpr int kTilePairs = 8;   // frequencies a block sums along a column, and pairs of rows it takes at a time
constexpr int kTileModes = 32;  // last-axis columns
constexpr int kTileSplits = kTileThreads / (kTilePairs * kTileModes / kModes);
constexpr int kTileSamples = 64;  // of a row, at a time
constexpr int kTileStage = 16;    // frequencies of a column, at a time
static_assert(16 % kTilePairs == 0 && kTilePairs % 4 == 0, "chunks of frequencies are whole packs of the table");
static_assert(kTileStage % 2 == 0, "every stage of a synthesis begins with an odd frequency");

// Where a block of analyse_columns or synthesise_columns is: tiles vary fastest, so that neighbours share what they read.
struct ColumnTile {
  int64_t outer, first;  // image, first column
  int part;              // chunk of frequencies, or of rows

  __device__ ColumnTile(int64_t columns, int parts) {
    const int64_t tiles = ceil_div(columns, kTileColumns);
    part = int(blockIdx.x % parts);
    first = blockIdx.x / parts % tiles * kTileColumns;
    outer = blockIdx.x / (parts * tiles);
  }
};

// [outer, N, columns] → sums [outer, 2K−1, columns].
template <bool kWide, class S>
__device__ void sum_column_tile(const S* x, int64_t columns, const Axis& axis, const ColumnTile& tile, float* rows) {
  const int group = threadIdx.x / kTileSumLanes, column = ColumnPlace<kSumColumns, kWide>(threadIdx.x % kTileSumLanes).first;
  const int first = tile.part * kTilePairs, valid = int(min(columns - tile.first - column, int64_t{kTileColumns}));
  ColumnSums<kTilePairs> sums;
  if (valid > 0) {
    const ColumnSource<S, kWide> source = {x + tile.outer * axis.size * columns + tile.first + column, int(columns), int(axis.size), valid};
    sums.add_rows(source, static_cast<const float*>(axis.cos) + 2 * first, int(axis.padded), group, kTileSumGroups);
  }
  rows += column;
  for (int turn = 0; turn < kTileSumGroups; ++turn) {
    if (group == turn)
      sums.template deposit<kWide>(rows, rows + kTileColumns, rows + (1 + kTilePairs) * kTileColumns, kTileColumns, kTilePairs,
                                   kTileColumns, turn == 0);
    __syncthreads();
  }
}

template <bool kWide, class S>
__global__ void __launch_bounds__(kTileThreads, 2) analyse_columns(const S* x, float* sums, Axis axis, int64_t columns, int chunks) {
  float* rows = shared_memory<float>();
  const ColumnTile tile(columns, chunks);
  sum_column_tile<kWide>(x, columns, axis, tile, rows);
  const int first = tile.part * kTilePairs, pairs = min(kTilePairs, frequency_pairs(axis) - first), k_count = int(axis.distinct());
  float* out = sums + tile.outer * stage_rows(axis) * columns + tile.first;
  for (int i = threadIdx.x; i < (1 + 2 * kTilePairs) * kTileColumns; i += blockDim.x) {
    const int row = i / kTileColumns, column = i % kTileColumns, k = row <= kTilePairs ? row : row - kTilePairs;
    if (tile.first + column >= columns || k > pairs || (row == 0 && first > 0)) continue;
    const int64_t target = row == 0 ? 0 : row <= kTilePairs ? first + k : k_count - 1 + first + k;
    out[target * columns + column] = rows[i];
  }
}

// The same over complex columns (two floats each) of [outer, N, columns/2, 2], the frequencies ±k combined: a D axis.
template <bool kWide>
__global__ void __launch_bounds__(kTileThreads, 2) analyse_depth(const float* x, Spectrum out, Axis axis, int64_t columns, int chunks) {
  float* rows = shared_memory<float>();
  const ColumnTile tile(columns, chunks);
  sum_column_tile<kWide>(x, columns, axis, tile, rows);
  const Pairing pairing(axis, columns / 2);
  const int first = tile.part * kTilePairs, pairs = min(kTilePairs, frequency_pairs(axis) - first);
  for (int i = threadIdx.x; i < (1 + pairs) * kTileColumns / 2; i += blockDim.x) {
    const int k = i / (kTileColumns / 2), column = i % (kTileColumns / 2) * 2;
    if (tile.first + column >= columns || (k == 0 && first > 0)) continue;
    const float* a = rows + k * kTileColumns + column;
    const float* b = rows + (k > 0 ? kTilePairs + k : 0) * kTileColumns + column;
    combine(out, tile.outer, pairing, k > 0 ? first + k : 0, (tile.first + column) / 2, {a[0], a[1]}, {b[0], b[1]});
  }
}

// Coefficient rows of an axis, as its synthesis stages them: from sums [outer, 2K−1, columns] …
struct StoredRows {
  const float* data;
  int64_t columns;
  int k_count;

  __device__ void stage(int64_t outer, int k, int64_t column, float* p, float* q) const {
    const float* rows = data + outer * (2 * k_count - 1) * columns;
    p[0] = rows[k * columns + column];
    if (k > 0) q[0] = rows[(k_count + k - 1) * columns + column];
  }
  static constexpr int kStep = 1;
};

// … or from the spectrum, complex columns.
struct SpectrumRows {
  Spectrum spectrum;
  Pairing pairing;

  __device__ void stage(int64_t outer, int k, int64_t column, float* p, float* q) const {
    const Coefficients z = separate(spectrum, outer, pairing, k, column / 2);
    p[0] = z.at[0], p[1] = z.at[1];
    if (k > 0) q[0] = z.at[2], q[1] = z.at[3];
  }
  static constexpr int kStep = 2;
};

// Coefficients of `pairs` frequencies from `first` on → [pairs][cosines, sines][kTileColumns]; k = 0 has cosines only.
template <class Rows>
__device__ void stage_rows_of(const Rows& source, const ColumnTile& tile, int64_t columns, int first, int pairs, float* staged) {
  constexpr int kAcross = kTileColumns / Rows::kStep;
  for (int i = threadIdx.x; i < pairs * kAcross; i += blockDim.x) {
    const int k = i / kAcross, column = i % kAcross * Rows::kStep;
    float* p = staged + k * 2 * kTileColumns + column;
    if (tile.first + column < columns) source.stage(tile.outer, first + k, tile.first + column, p, p + kTileColumns);
  }
}

// Coefficient rows → [outer, N, columns].
template <bool kWide, class Rows, class S>
__global__ void __launch_bounds__(kTileThreads, 2) synthesise_columns(Rows source, S* y, Bias bias, Axis axis, int64_t columns, int parts) {
  float* staged = shared_memory<float>();
  const ColumnTile tile(columns, parts);
  const int column = ColumnPlace<kColumns, kWide>(threadIdx.x % kTileLanes).first, pairs = frequency_pairs(axis), size = int(axis.size);
  const int first_row = (tile.part * kTileGroups + threadIdx.x / kTileLanes) * kSamples;
  const int valid = int(min(columns - tile.first - column, int64_t{kTileColumns}));
  const bool inside = first_row < folded_rows(size) && valid > 0;
  const float* table = table_of_samples(axis, first_row);
  Samples samples;
  stage_rows_of(source, tile, columns, 0, 1, staged);
  __syncthreads();
  if (inside) samples.add_dc(load_columns<kWide>(staged + column, valid), bias.of_plane(tile.outer));
  for (int first = 0; first < pairs; first += kTileStage) {
    const int count = min(kTileStage, pairs - first);
    __syncthreads();
    stage_rows_of(source, tile, columns, 1 + first, count, staged);
    __syncthreads();
    const SharedRows<kWide> rows = {staged + column, staged + column + kTileColumns, 2 * kTileColumns, valid};
    if (inside) samples.add(rows, count, table + first * axis.padded, int(axis.padded));
  }
  if (inside) samples.store<kWide>(y + tile.outer * axis.size * columns + tile.first + column, columns, size, first_row, valid);
}

// Which rows a block of analyse_rows or synthesise_rows takes: pairs (A, B) or (P, Q) of planes of 2K−1 rows; a plane of one row has no B.
struct RowTile {
  int64_t first, pairs, other;  // first pair, their number in all, first column or sample
  int k_count;

  __device__ RowTile(int64_t planes, const Axis& h, int64_t others, int other_tile)
      : pairs(planes * h.distinct()), k_count(int(h.distinct())) {
    const int64_t tiles = ceil_div(others, other_tile);
    other = blockIdx.x % tiles * other_tile;
    first = blockIdx.x / tiles * kTilePairs;
  }
  __device__ int64_t plane(int64_t pair) const { return pair / k_count; }
  __device__ int k(int64_t pair) const { return int(pair % k_count); }
  __device__ int64_t row(int64_t pair, int side) const { return plane(pair) * (2 * k_count - 1) + (side ? k_count - 1 : 0) + k(pair); }
  __device__ bool exists(int64_t pair, int side) const { return pair < pairs && (side == 0 || k(pair) > 0); }
};

// Samples n of the pairs' rows, folded with their mirrors → [pair][A, B][sums, differences][kTileSamples].
template <class S>
__device__ void fold_row_tile(const S* x, const RowTile& tile, int size, int n_first, float* folded) {
  for (int i = threadIdx.x; i < kTilePairs * 2 * kTileSamples; i += blockDim.x) {
    const int j = i % kTileSamples, side = i / kTileSamples % 2, n = n_first + j;
    const int64_t pair = tile.first + i / (2 * kTileSamples);
    float low = 0.f, high = 0.f;
    if (tile.exists(pair, side) && 2 * n <= size) {
      const S* row = x + tile.row(pair, side) * size;
      low = to_compute(row[n]);
      if (n > 0 && 2 * n < size) high = to_compute(row[size - n]);
    }
    float* out = folded + i / kTileSamples * 2 * kTileSamples + j;
    out[0] = low + high, out[kTileSamples] = low - high;
  }
}

// Rows [planes, 2K−1, W] → spectrum, the frequencies ±k of the axis before combined.
template <class S>
__global__ void __launch_bounds__(kTileThreads, 3) analyse_rows(const S* x, Spectrum out, Axis h, Axis w, int64_t planes) {
  float* folded = shared_memory<float>();
  const RowTile tile(planes, h, w.positive, kTileModes);
  const int split = threadIdx.x % kTileSplits, slot = threadIdx.x / (kTileSplits * kTileModes / kModes);
  const int64_t mode = tile.other + threadIdx.x / kTileSplits % (kTileModes / kModes) * kModes, pair = tile.first + slot;
  const bool inside = mode < w.positive;
  const float* a = folded + slot * 4 * kTileSamples;
  RowSums sums;
  for (int n = 0; n < w.even(); n += kTileSamples) {
    fold_row_tile(x, tile, int(w.size), n, folded);
    __syncthreads();
    const int even = min(kTileSamples, int(w.even()) - n), skip = n == 0, odd = min(kTileSamples, int(w.odd()) + 1 - n) - skip;
    if (inside) {
      const float* cos = static_cast<const float*>(w.cos) + n * w.padded + mode;
      const float* sin = static_cast<const float*>(w.sin) + (n + skip - 1) * w.padded + mode;
      const FoldedSamples folded_sums = {a, a, 1, 1, 2 * kTileSamples},
                          differences = {a + kTileSamples + skip, a + kTileSamples + skip, 1, 1, 2 * kTileSamples};
      sums.add(0, folded_sums, cos, int(w.padded), split, even, kTileSplits);
      sums.add(1, differences, sin, int(w.padded), split, odd, kTileSplits);
    }
    __syncthreads();
  }
  sums.reduce(kTileSplits);
  if (inside && pair < tile.pairs && split == 0) sums.store(out, tile.plane(pair), Pairing(h, w.positive), tile.k(pair), mode);
}

// Spectrum → rows [planes, 2K−1, W].
template <class S>
__global__ void __launch_bounds__(kTileThreads, 2) synthesise_rows(Spectrum in, S* y, Bias bias, Axis h, Axis w, int64_t planes) {
  Coefficients* staged = shared_memory<Coefficients>();
  const RowTile tile(planes, h, w.even(), kTileLanes * kModes);
  const Pairing pairing(h, w.positive);
  const int slot = threadIdx.x / kTileLanes;
  const int64_t n = tile.other + threadIdx.x % kTileLanes * kModes, pair = tile.first + slot;
  const float *cos = static_cast<const float*>(w.cos) + n, *sin = static_cast<const float*>(w.sin) + n;
  RowSamples samples;
  for (int64_t mode = 0; mode < w.positive; mode += kTileModes) {
    const int count = int(min(int64_t{kTileModes}, w.positive - mode));
    for (int i = threadIdx.x; i < kTilePairs * kTileModes; i += blockDim.x) {
      const int64_t from = tile.first + i / kTileModes, column = mode + i % kTileModes;
      if (from < tile.pairs && column < w.positive) staged[i] = separate(in, tile.plane(from), pairing, tile.k(from), column);
    }
    __syncthreads();
    if (n < w.even()) samples.add(staged + slot * kTileModes, cos + mode * w.padded, sin + mode * w.padded, w.padded, count);
    __syncthreads();
  }
  if (n >= w.even() || pair >= tile.pairs) return;
  const float shift = bias.of_plane(tile.plane(pair));
  samples.store_p(y + tile.row(pair, 0) * w.size, int(w.size), int(n), shift);
  if (tile.exists(pair, 1)) samples.store_q(y + tile.row(pair, 1) * w.size, int(w.size), int(n), shift);
}

}  // namespace fastseg::cuda
