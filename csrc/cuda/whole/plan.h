// What the host decides of a tile: radices, strides, images a block.
#pragma once

#include "tile.h"

namespace fastseg::cuda::whole {

// The largest radix first, of powers of two up to `most`; false where size has factors other than 2, 3 and 5, or too many of them.
inline bool factorise(int size, int most, int (&radices)[kMaxPasses], int& count) {
  count = 0;
  const auto take = [&](int radix) {
    size /= radix;
    return count < kMaxPasses && (radices[count++] = radix);
  };
  int twos = 0;
  while (size % (2 << twos) == 0) ++twos;
  while (twos > 0) {
    const bool sixteen = most == 16 && ((twos % 3 == 1 && twos > 1) || twos == 8);  // fewer passes
    const int digits = sixteen ? 4 : twos >= 3 ? 3 : twos;
    if (!take(1 << digits)) return false;
    twos -= digits;
  }
  for (int radix : {5, 3})
    while (size % radix == 0)
      if (!take(radix)) return false;
  std::sort(radices, radices + count, [](int a, int b) { return a > b; });
  return size == 1;
}

// `step`: the roots' table is of size · step; false where the passes do not serve.
inline bool make_line(int64_t size, const void* roots, int step, bool is_row, Line& line) {
  line = {};
  line.size = int(size), line.roots = static_cast<const Bin*>(roots);
  int radices[kMaxPasses];
  if (size > 1024 || !factorise(int(size), is_row ? kMaxRowRadix : kMaxColumnRadix, radices, line.passes)) return false;
  if (is_row) std::reverse(radices, radices + line.passes);
  int done = 1;
  for (int i = 0; i < line.passes; ++i) {
    const int apart = int(size) / (done * radices[i]);
    line.at[i] = {radices[i], apart, int(size) / radices[i], done * step, Divider(apart)};
    done *= radices[i];
  }
  return true;
}

inline Columns make_columns(int images, int rows, int row, int step, int stride) {
  return {images * rows * row, rows * row, step, stride, Divider(images * rows * row), Divider(rows * row)};
}

// What does not depend on the number of images.
inline bool make_tile(const Transform& transform, Tile& t) {
  t = {};
  const Axis &w = transform.w, *outer = &transform.d, *inner = &transform.h;
  if (!w.roots || w.size < 4 || w.size % 2) return false;
  if (outer->size == 1) std::swap(outer, inner);
  if (outer->size == 1) return false;
  if (!make_line(outer->size, outer->roots, 1, false, t.line[0]) || !make_line(inner->size, inner->roots, 1, false, t.line[1]) ||
      !make_line(w.size / 2, w.roots, 2, true, t.row))
    return false;
  t.roots = static_cast<const Bin*>(w.roots);
  const int m = t.row.size;
  t.pitch = (m + 1) | 1;                                                                               // rows begin on different banks
  const auto beside = [&](int cells) { return m < 16 ? cells + (m + 16 - cells % 16) % 16 : cells; };  // so do short rows of neighbours
  t.outer_stride = t.line[1].size > 1 ? beside(t.line[1].size * t.pitch) : t.pitch;
  t.image_stride = beside(t.line[0].size * t.outer_stride);
  t.pairs = (t.line[0].size / 2 + 1) * t.line[1].size;
  t.by_row = Divider(m), t.by_bins = Divider(m + 1), t.by_inner = Divider(t.line[1].size), t.by_rows = Divider(t.rows());
  t.by_pairs = Divider(t.pairs);
  return true;
}

inline void set_images(Tile& t, int images) {
  const int m = t.row.size;
  t.images = images;
  t.along[0] = make_columns(images, t.line[1].size, m, t.pitch, t.outer_stride);
  t.along[1] = make_columns(images, t.line[0].size, m, t.outer_stride, t.pitch);
  t.copies = images * t.image_stride;
  t.cells = t.copies + (t.row.passes > 1 ? images * 4 * t.pitch : 0);
  t.by_image_pairs = Divider(images * t.pairs);
}

// Tasks of the last pass of rows, the one that needs most registers.
inline int row_tasks(const Tile& t) { return t.images * t.pairs * t.row.at[t.row.passes - 1].steps; }

constexpr int64_t kEnoughBlocks = 512;  // to keep every multiprocessor busy to the end

// Takes as many of `images` images as make full warps of `threads` threads and fit `bytes` of shared memory `tiles` times, fewer where
// `parts` such stacks of images would be too few blocks; false where not even one fits.
inline bool fill_tile(Tile& t, int64_t images, int64_t parts, int threads, size_t bytes, int tiles) {
  set_images(t, 1);
  if (t.bytes(tiles) > bytes) return false;
  int64_t taken = std::min<int64_t>(threads / row_tasks(t), images);
  while (taken > 1 && parts * ceil_div(images, taken) < kEnoughBlocks) --taken;
  for (set_images(t, int(std::max<int64_t>(taken, 1))); t.bytes(tiles) > bytes;) set_images(t, t.images - 1);
  return true;
}

// So many threads that the tasks of a row pass are done in equal rounds.
inline unsigned threads_of(const Tile& t, int most) {
  const int64_t tasks = std::max<int64_t>(row_tasks(t), int64_t{t.along[0].all} * t.line[0].at[0].steps);
  const int64_t rounds = ceil_div(tasks, most);
  return unsigned(round_up(ceil_div(tasks, rounds), kWarp));
}

// Samples are read and written two at a time.
inline void check_pairs(const void* samples, DType dtype) {
  if (reinterpret_cast<uintptr_t>(samples) % (dtype == DType::kFloat32 ? 8 : 4))
    throw Error("whole spectra: pairs of samples are not aligned");
}

}  // namespace fastseg::cuda::whole
