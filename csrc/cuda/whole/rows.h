// The last axis of a tile. Rows are taken in pairs, a and b, of opposite frequencies on the other axes: b is conjugated on the way in, so
// that with A and B the transforms of the two, E = A[k] + B[k] and O = −i(A[k] − B[k]) give, w = e^(−2πi/W),
//   2X[a, k] = E + w^k·O      2·conj X[b, M−k] = E − w^k·O
// A row that is its own opposite is both; where it goes through several passes a copy of it is kept beside the tile. A tile of bins has
// X[a, k] in row a and conj X[b, M−k] in row b, at the place of k, and X[a, M], which is conj X[b, M], behind row a.
#pragma once

#include "tile.h"

namespace fastseg::cuda::whole {

struct RowPair {
  int a, b;                                          // first cells
  int kept;                                          // of what stands for b between the passes: b, or a copy
  int outer, inner, opposite_outer, opposite_inner;  // frequencies of the two
};

__device__ inline int opposite(int k, const Line& line) { return k ? line.size - k : 0; }

__device__ inline RowPair row_pair(const Tile& t, const Positions& at, int image, int outer, int inner) {
  RowPair r;
  r.outer = outer, r.inner = inner, r.opposite_outer = opposite(outer, t.line[0]), r.opposite_inner = opposite(inner, t.line[1]);
  const int first = image * t.image_stride;
  r.a = first + at.outer[outer] * t.outer_stride + at.inner[inner] * t.pitch;
  r.b = first + at.outer[r.opposite_outer] * t.outer_stride + at.inner[r.opposite_inner] * t.pitch;
  const int copy = 4 * image + (outer ? 2 : 0) + (inner ? 1 : 0);
  r.kept = r.a == r.b && t.row.passes > 1 ? t.copies + copy * t.pitch : r.b;
  return r;
}

// body(image, pair, step) for every pair of rows and `steps` steps of each.
template <class Body>
__device__ inline void for_row_pairs(const Tile& t, const Positions& at, int images, int steps, const Body& body) {
  const int together = t.images * t.pairs;
  for (int task = threadIdx.x; task < together * steps; task += blockDim.x) {
    const int step = t.by_image_pairs.quotient(task), rest = task - step * together, image = t.by_pairs.quotient(rest);
    const int pair = rest - image * t.pairs, outer = t.by_inner.quotient(pair), inner = pair - outer * t.line[1].size;
    const bool repeats = outer == opposite(outer, t.line[0]) && 2 * inner > t.line[1].size;
    if (image < images && !repeats) body(image, row_pair(t, at, image, outer, inner), step);
  }
}

// Pass i of rows, not the last one.
template <bool kInverse>
__device__ inline void transform_rows(const Tile& t, const Positions& at, Bin* cells, int images, int i) {
  const Pass& pass = t.row.at[i];
  by_radix<kMaxRowRadix>(pass.radix, [&](auto radix) {
    constexpr int kRadix = decltype(radix)::value;
    for_row_pairs(t, at, images, pass.steps, [&](int, const RowPair& r, int step) {
      const int block = pass.by_apart.quotient(step), p = step - block * pass.apart, first = block * pass.apart * kRadix + p;
      const bool enters = i == 0 && !kInverse, leaves = i == 0 && kInverse;
      Bin a[kRadix], b[kRadix];
      FASTSEG_UNROLL
      for (int j = 0; j < kRadix; ++j) {
        a[j] = cells[r.a + first + j * pass.apart];
        b[j] = cells[(enters ? r.b : r.kept) + first + j * pass.apart];
        if (enters) b[j] = conj(b[j]);
      }
      transform_step<kInverse>(a, pass, t.row.roots, p);
      transform_step<kInverse>(b, pass, t.row.roots, p);
      FASTSEG_UNROLL
      for (int j = 0; j < kRadix; ++j) {
        cells[r.a + first + j * pass.apart] = a[j];
        if (!leaves)
          cells[r.kept + first + j * pass.apart] = b[j];
        else if (r.a != r.b)
          cells[r.b + first + j * pass.apart] = conj(b[j]);
      }
    });
  });
}

__device__ inline void forward_rows(const Tile& t, const Positions& at, Bin* cells, int images) {
  for (int i = 0; i + 1 < t.row.passes; ++i) {
    transform_rows<false>(t, at, cells, images, i);
    __syncthreads();
  }
}
__device__ inline void inverse_rows(const Tile& t, const Positions& at, Bin* cells, int images) {
  for (int i = t.row.passes - 2; i >= 0; --i) {
    transform_rows<true>(t, at, cells, images, i);
    __syncthreads();
  }
}

// What the last pass of rows does with a pair: numbers f of a and b belong to frequency k(f), the bins twice as large as they are.
template <int kRadix>
struct Ends {
  static constexpr int kNumbers = kRadix;
  const Tile& t;
  Bin* cells;
  RowPair r;
  int step, steps, first;
  Bin a[kRadix], b[kRadix];

  __device__ Ends(const Tile& t, const Positions& at, Bin* cells, const RowPair& r, int step)
      : t(t), cells(cells), r(r), step(step), steps(t.row.at[t.row.passes - 1].steps), first(at.row[step]) {}
  __device__ int frequency(int f) const { return step + steps * f; }
  __device__ bool has_b() const { return r.kept != r.a; }

  __device__ void load() {
    FASTSEG_UNROLL
    for (int j = 0; j < kRadix; ++j) {
      a[j] = cells[r.a + first + j], b[j] = cells[r.kept + first + j];
      if (steps == 1) b[j] = conj(b[j]);
    }
  }
  __device__ void store() const {
    FASTSEG_UNROLL
    for (int j = 0; j < kRadix; ++j) {
      cells[r.a + first + j] = a[j];
      if (has_b()) cells[r.kept + first + j] = steps == 1 ? conj(b[j]) : b[j];
    }
  }
  __device__ void to_bins() {
    dft(a), dft(b);
    FASTSEG_UNROLL
    for (int f = 0; f < kRadix; ++f) {
      const Bin e = a[f] + b[f], turned = t.roots[frequency(f)] * minus_i(a[f] - b[f]);
      a[f] = e + turned, b[f] = e - turned;
    }
  }
  __device__ void from_bins() {
    FASTSEG_UNROLL
    for (int f = 0; f < kRadix; ++f) {
      const Bin e = a[f] + b[f], turned = conj(t.roots[frequency(f)]) * minus_i(b[f] - a[f]);
      a[f] = e + turned, b[f] = e - turned;
    }
    inverse_dft(a), inverse_dft(b);
  }
  // The cell of conj X[b, M−k].
  __device__ int mirrored(int f) const { return frequency(f) == 0 ? r.a + t.row.size : r.kept + first + f; }
  __device__ bool has_mirrored(int f) const { return frequency(f) == 0 || has_b(); }

  __device__ void store_bins() const {
    FASTSEG_UNROLL
    for (int f = 0; f < kRadix; ++f) {
      cells[r.a + first + f] = a[f];
      if (has_mirrored(f)) cells[mirrored(f)] = b[f];
    }
  }
  __device__ void load_bins() {
    FASTSEG_UNROLL
    for (int f = 0; f < kRadix; ++f) {
      a[f] = cells[r.a + first + f];
      b[f] = has_mirrored(f) ? cells[mirrored(f)] : conj(cells[r.a + t.row.size - f]);
    }
  }
};

// body(ends, image) with Ends<radix of the last pass>.
template <class Body>
__device__ inline void for_ends(const Tile& t, const Positions& at, Bin* cells, int images, const Body& body) {
  const Pass& pass = t.row.at[t.row.passes - 1];
  by_radix<kMaxRowRadix>(pass.radix, [&](auto radix) {
    for_row_pairs(t, at, images, pass.steps, [&](int image, const RowPair& r, int step) {
      Ends<decltype(radix)::value> ends(t, at, cells, r, step);
      body(ends, image);
    });
  });
}

// Whether row (outer, inner) is the `a` of its pair.
__device__ inline bool leads(const RowPair& r) {
  return r.outer < r.opposite_outer || (r.outer == r.opposite_outer && r.inner <= r.opposite_inner);
}

// Bin k of the row that r.a is, from a tile of bins.
__device__ inline Bin bin_of(const Tile& t, const Positions& at, const Bin* cells, const RowPair& r, int k) {
  const int m = t.row.size;
  if (leads(r)) return cells[r.a + (k < m ? at.row[k] : m)];
  const int cell = k == 0 ? r.b : k == m ? r.b + m : r.a + at.row[m - k];
  return conj(cells[cell]);
}

// body(image, row of the image, k, pair) for every bin, neighbours in neighbouring threads.
template <class Body>
__device__ inline void for_bins(const Tile& t, const Positions& at, int images, const Divider& by_columns, const Body& body) {
  for (int i = threadIdx.x; i < images * t.rows() * by_columns.divisor; i += blockDim.x) {
    const int all = by_columns.quotient(i), image = t.by_rows.quotient(all), row = all - image * t.rows();
    const int outer = t.by_inner.quotient(row);
    body(image, row, i - all * by_columns.divisor, row_pair(t, at, image, outer, row - outer * t.line[1].size));
  }
}

}  // namespace fastseg::cuda::whole
