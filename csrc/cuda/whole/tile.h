// Planes or volumes in the shared memory of a block, for transforms that keep every bin. A real row of W samples is M = W/2 complex
// numbers, x[2m] + i·x[2m+1]; the axes before the last one are transformed first, column by column, while that is all they are.
#pragma once

#include <algorithm>

#include "../launch.h"
#include "../rows.h"
#include "fft.h"

namespace fastseg::cuda::whole {

// Columns of the tile along one axis: number c of an image is row c / M of a stack of rows `step` apart, its column c % M.
struct Columns {
  int all, each, step, stride;  // of all images, of one; cells between the rows, and between the numbers of a column
  Divider by_all, by_each;
};

struct Tile {
  Line line[2], row;  // the outer axis, the inner one, which is 1 where there are two in all, and the last
  Columns along[2];
  int images, image_stride;  // as many as a block has, cells from one to the next
  int pitch, outer_stride;   // cells from row to row
  int copies;                // first cell of copies of rows, see rows.h; four an image
  int cells;                 // all of them
  int pairs;                 // of rows of an image
  Divider by_row, by_bins, by_inner, by_pairs, by_rows, by_image_pairs;
  const Bin* roots;  // e^(−2πi·k/W)

  size_t bytes(int tiles) const { return size_t(tiles) * cells * sizeof(Bin) + round_up(positions() * sizeof(short), 16); }
  __host__ __device__ int positions() const { return line[0].size + line[1].size + row.size; }
  __host__ __device__ int rows() const { return line[0].size * line[1].size; }
  __host__ __device__ int bins() const { return row.size + 1; }
};

// Where the frequencies of an axis end.
struct Positions {
  short *outer, *inner, *row;

  __device__ Positions(const Tile& t, Bin* after)
      : outer(reinterpret_cast<short*>(after)), inner(outer + t.line[0].size), row(inner + t.line[1].size) {}
  __device__ void fill(const Tile& t) const {
    for (int k = threadIdx.x; k < t.line[0].size; k += blockDim.x) outer[k] = short(t.line[0].position(k));
    for (int k = threadIdx.x; k < t.line[1].size; k += blockDim.x) inner[k] = short(t.line[1].position(k));
    for (int k = threadIdx.x; k < t.row.size; k += blockDim.x) row[k] = short(t.row.position(k));
  }
};

// The numbers of one column, in the tile or as neighbouring samples in memory.
struct Cells {
  Bin* data;
  int stride;
  __device__ Bin get(int n) const { return data[n * stride]; }
  __device__ void put(int n, Bin z) const { data[n * stride] = z; }
};
template <class S>
struct Samples {
  S* data;
  int stride;
  float bias;
  __device__ Bin get(int n) const {
    const auto pair = load_pack<2>(data + n * stride);
    return {to_compute(pair.at[0]), to_compute(pair.at[1])};
  }
  __device__ void put(int n, Bin z) const {
    Pack<S, 2> pair;
    from_compute(z.re + bias, pair.at[0]), from_compute(z.im + bias, pair.at[1]);
    store_pack(data + n * stride, pair);
  }
};

// One pass along the columns of `images` images, from source(image, column) to target(image, column).
template <bool kInverse, class Source, class Target>
__device__ inline void transform_columns(const Columns& columns, const Line& line, const Pass& pass, int images, const Source& source,
                                         const Target& target) {
  by_radix<kMaxColumnRadix>(pass.radix, [&](auto radix) {
    constexpr int kRadix = decltype(radix)::value;
    const int tasks = columns.all * pass.steps;
    for (int task = threadIdx.x; task < tasks; task += blockDim.x) {
      const int step = columns.by_all.quotient(task), column = task - step * columns.all, image = columns.by_each.quotient(column);
      if (image >= images) continue;
      const int block = pass.by_apart.quotient(step), p = step - block * pass.apart, first = block * pass.apart * kRadix + p;
      const auto from = source(image, column - image * columns.each);
      const auto to = target(image, column - image * columns.each);
      Bin z[kRadix];
      FASTSEG_UNROLL
      for (int j = 0; j < kRadix; ++j) z[j] = from.get(first + j * pass.apart);
      transform_step<kInverse>(z, pass, line.roots, p);
      FASTSEG_UNROLL
      for (int j = 0; j < kRadix; ++j) to.put(first + j * pass.apart, z[j]);
    }
  });
}

// The columns of a tile as sources and targets.
struct InTile {
  const Tile& t;
  int axis;
  Bin* cells;
  __device__ Cells operator()(int image, int column) const {
    const Columns& columns = t.along[axis];
    const int row = t.by_row.quotient(column);
    return {cells + image * t.image_stride + row * columns.step + column - row * t.row.size, columns.stride};
  }
};
// Columns along the outer axis of images in memory.
template <class S>
struct InMemory {
  S* data;
  int64_t first;  // image
  int stride, volume;
  Bias bias;

  __device__ InMemory(const Tile& t, S* data, int64_t first, const Bias& bias = {nullptr, 1, 1})
      : data(data), first(first), stride(2 * t.row.size * t.line[1].size), volume(stride * t.line[0].size), bias(bias) {}
  __device__ Samples<S> operator()(int image, int column) const {
    return {data + (first + image) * volume + 2 * column, stride, bias.of_plane(first + image)};
  }
};

// Pass i of the outer axis, or, once that has no more, of the inner one.
template <bool kInverse>
__device__ inline void transform_inside(const Tile& t, int i, Bin* cells, int images) {
  const int axis = i < t.line[0].passes ? 0 : 1;
  const InTile columns = {t, axis, cells};
  transform_columns<kInverse>(t.along[axis], t.line[axis], t.line[axis].at[axis ? i - t.line[0].passes : i], images, columns, columns);
  __syncthreads();
}

// Samples → the tile, transformed along all axes but the last; ends with a barrier.
template <class Source>
__device__ inline void forward_columns(const Tile& t, const Source& x, Bin* cells, int images) {
  transform_columns<false>(t.along[0], t.line[0], t.line[0].at[0], images, x, InTile{t, 0, cells});
  __syncthreads();
  for (int i = 1; i < t.line[0].passes + t.line[1].passes; ++i) transform_inside<false>(t, i, cells, images);
}

// The mirror; begins after a barrier.
template <class Target>
__device__ inline void inverse_columns(const Tile& t, Bin* cells, const Target& y, int images) {
  for (int i = t.line[0].passes + t.line[1].passes - 1; i > 0; --i) transform_inside<true>(t, i, cells, images);
  transform_columns<true>(t.along[0], t.line[0], t.line[0].at[0], images, InTile{t, 0, cells}, y);
}

}  // namespace fastseg::cuda::whole
