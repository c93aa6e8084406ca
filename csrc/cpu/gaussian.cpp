// A separable filter with given taps over the last one, two or three axes, and the gradient of its taps.
// Every pass is one loop: a panel of columns as wide as a cache line is gathered, extended by the padding and filtered in place, in L1.
// For D and H the columns are those of memory; for W a block of rows is transposed on the way in and out. Planes run through W and H
// while they are in L2: x is read once, low and high are written once. D runs over a whole image in scratch memory.
#include <type_traits>
#include <utility>

#include "../ops.h"
#include "simd.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Outputs at a time: their window of samples stays in registers and every sample is loaded once a tile.
constexpr int kTile = FASTSEG_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int kLineVectors = 64 / FASTSEG_VECTOR_BYTES;
constexpr int64_t kStreamBytes = 16 << 20;  // results from here on do not stay in a cache until they are read
constexpr int64_t kLags = 16;               // taps of a gradient that one task takes

template <class T>
constexpr int64_t kLine = 64 / int64_t(sizeof(T));

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// One axis of a filter. `folded` is the adjoint of reflection: it runs into the margins, which are then added back mirrored.
template <class T>
struct Filter {
  int64_t size, radius;
  const T* taps;  // [2·radius + 1][lanes]
  Padding padding;
  bool folded, symmetric;

  int64_t margin() const { return folded ? 2 * radius : radius; }
  int64_t outputs() const { return folded ? size + 2 * radius : size; }
};

template <class T>
int64_t panel_rows(int64_t size, int64_t radius) {
  return size + 4 * radius + kTile + kLanes<T>;
}

template <int kVectors, class T>
inline void copy_row(const T* from, T* to) {
  for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<T>, load(from + v * kLanes<T>));
}

// Fills the margins around rows 0 … size−1, and the rows that the last tile reads too many.
template <int kVectors, class T>
void extend(const Filter<T>& f, T* rows) {
  constexpr int64_t width = kVectors * kLanes<T>;
  const int64_t n = f.size, margin = f.margin();
  T* end = rows + n * width;
  for (int64_t i = 0; i < (margin + kTile) * width; ++i) end[i] = 0;
  if (f.folded || f.padding == Padding::kZeros) {
    for (int64_t i = 0; i < margin * width; ++i) (rows - margin * width)[i] = 0;
    return;
  }
  const bool mirrored = f.padding == Padding::kReflect;
  for (int64_t i = 1; i <= margin; ++i) {
    copy_row<kVectors>(rows + (mirrored ? i : n - i) * width, rows - i * width);
    copy_row<kVectors>(rows + (mirrored ? n - 1 - i : i - 1) * width, end + (i - 1) * width);
  }
}

// rows[i] ← Σ_r taps[r] · rows[i + r], r = 0 … 2·radius, i = 0 … kTile−1. Row j of the window below and above lives in slot j mod kTile.
template <class T>
inline __attribute__((always_inline)) void filter_tile_symmetric(T* rows, int64_t stride, const T* taps, int64_t radius) {
  const T* centre = rows + radius * stride;
  const T* tap = taps + radius * kLanes<T>;
  Vector<T> acc[kTile], below[kTile], above[kTile];
  const Vector<T> first = load(tap);
  FASTSEG_UNROLL
  for (int i = 0; i < kTile; ++i) {
    below[i] = above[i] = load(centre + i * stride);
    acc[i] = first * below[i];
  }
  auto step = [&](int u, int64_t r) __attribute__((always_inline)) {
    below[kTile - 1 - u] = load(centre - r * stride);
    above[u] = load(centre + (kTile - 1 + r) * stride);
    const Vector<T> weight = load(tap + r * kLanes<T>);
    FASTSEG_UNROLL
    for (int i = 0; i < kTile; ++i) acc[i] += weight * (below[(i + 2 * kTile - 1 - u) % kTile] + above[(i + 1 + u) % kTile]);
  };
  int64_t r = 1;
  for (; r + kTile - 1 <= radius; r += kTile) {
    FASTSEG_UNROLL
    for (int u = 0; u < kTile; ++u) step(u, r + u);
  }
  FASTSEG_UNROLL
  for (int u = 0; u < kTile - 1; ++u) {
    if (r + u > radius) break;
    step(u, r + u);
  }
  FASTSEG_UNROLL
  for (int i = 0; i < kTile; ++i) store(rows + i * stride, acc[i]);
}

// acc[i] += Σ_s weights[s] · rows[i + s], s = 0 … count−1: the filter without folding, and the gradient of kTile taps.
template <class T>
inline __attribute__((always_inline)) void correlate_tile(const T* rows, int64_t stride, const T* weights, int64_t weight_stride,
                                                          int64_t count, Vector<T> (&acc)[kTile]) {
  Vector<T> window[kTile];
  FASTSEG_UNROLL
  for (int i = 0; i < kTile - 1; ++i) window[i] = load(rows + i * stride);
  auto step = [&](int u, int64_t s) __attribute__((always_inline)) {
    window[(u + kTile - 1) % kTile] = load(rows + (s + kTile - 1) * stride);
    const Vector<T> weight = load(weights + s * weight_stride);
    FASTSEG_UNROLL
    for (int i = 0; i < kTile; ++i) acc[i] += weight * window[(i + u) % kTile];
  };
  int64_t s = 0;
  for (; s + kTile <= count; s += kTile) {
    FASTSEG_UNROLL
    for (int u = 0; u < kTile; ++u) step(u, s + u);
  }
  FASTSEG_UNROLL
  for (int u = 0; u < kTile - 1; ++u) {
    if (s + u >= count) break;
    step(u, s + u);
  }
}

// Filters rows in place: output i takes the place of the first row it read.
template <int kVectors, class T>
void filter_rows(T* rows, int64_t count, const Filter<T>& f) {
  constexpr int64_t width = kVectors * kLanes<T>;
  for (int64_t n = 0; n < count; n += kTile)
    for (int v = 0; v < kVectors; ++v) {
      T* tile = rows + n * width + v * kLanes<T>;
      if (f.symmetric) {
        filter_tile_symmetric(tile, width, f.taps, f.radius);
      } else {
        Vector<T> acc[kTile] = {};
        correlate_tile(tile, width, f.taps, kLanes<T>, 2 * f.radius + 1, acc);
        FASTSEG_UNROLL
        for (int i = 0; i < kTile; ++i) store(tile + i * width, acc[i]);
      }
    }
}

template <int kVectors, class T>
inline void add_row(const T* from, T* to) {
  for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<T>, load(to + v * kLanes<T>) + load(from + v * kLanes<T>));
}

// The filtered rows of a panel whose samples start f.margin() rows in.
template <int kVectors, class T>
T* filter_panel(T* panel, const Filter<T>& f) {
  constexpr int64_t width = kVectors * kLanes<T>;
  extend<kVectors>(f, panel + f.margin() * width);
  filter_rows<kVectors>(panel, f.outputs(), f);
  if (!f.folded) return panel;
  T* rows = panel + f.radius * width;
  T* last = rows + (f.size - 1) * width;
  for (int64_t i = 1; i <= f.radius; ++i) {
    add_row<kVectors>(rows - i * width, rows + i * width);
    add_row<kVectors>(last + i * width, last - i * width);
  }
  return rows;
}

// `width` ≤ kLine numbers of each row, zeros behind them.
template <class T, class S>
inline void gather(const S* from, int64_t stride, int64_t rows, int64_t width, T* panel) {
  for (int64_t n = 0; n < rows; ++n, from += stride, panel += kLine<T>) {
    if (width == kLine<T>) {
      read_row(from, panel, kLine<T>);
    } else {
      read_row(from, panel, width);
      for (int64_t c = width; c < kLine<T>; ++c) panel[c] = 0;
    }
  }
}

// Swaps the blocks of kStep numbers off the diagonal, then smaller ones: rows become columns.
template <int kStep, class T, int... i>
inline void swap_blocks(Vector<T> (&v)[kLanes<T>], std::integer_sequence<int, i...> order) {
  FASTSEG_UNROLL
  for (int row = 0; row < kLanes<T>; ++row) {
    if (row & kStep) continue;
    const Vector<T> a = v[row], b = v[row + kStep];
    v[row] = __builtin_shufflevector(a, b, (i & kStep ? kLanes<T> + i - kStep : i)...);
    v[row + kStep] = __builtin_shufflevector(a, b, (i & kStep ? kLanes<T> + i : i + kStep)...);
  }
  if constexpr (kStep > 1) swap_blocks<kStep / 2, T>(v, order);
}
template <class T>
inline void transpose(Vector<T> (&v)[kLanes<T>]) {
  swap_blocks<kLanes<T> / 2, T>(v, std::make_integer_sequence<int, kLanes<T>>{});
}

// Row pitch of scratch planes: whole vectors, and rows a power of two apart would share cache sets.
inline int64_t pitch_of(int64_t width) { return round_up(width, 16) + 16; }

// columns[n][lane] ← rows[lane][n], n < width; `copy` holds [lanes][pitch] numbers. Lanes from `count` on repeat the last row.
template <class T, class S>
void transpose_in(const S* rows, int64_t stride, int64_t count, int64_t width, T* copy, T* columns) {
  const T* lanes[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) {
    const S* row = rows + least(i, count - 1) * stride;
    lanes[i] = copy + i * pitch_of(width);
    if constexpr (std::is_same_v<T, S>) {
      if (width >= kLanes<T>) {
        lanes[i] = row;
        continue;
      }
    }
    read_row(row, copy + i * pitch_of(width), width);
  }
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    const int64_t first = width < kLanes<T> ? 0 : least(c, width - kLanes<T>);
    Vector<T> v[kLanes<T>];
    FASTSEG_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) v[i] = load(lanes[i] + first);
    transpose<T>(v);
    FASTSEG_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) store(columns + (first + i) * kLanes<T>, v[i]);
  }
}

// rows[lane][n] ← columns[n][lane]; rows are a pitch apart.
template <class T>
void transpose_out(const T* columns, int64_t width, int64_t count, T* rows) {
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    Vector<T> v[kLanes<T>];
    FASTSEG_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) v[i] = load(columns + (c + i) * kLanes<T>);
    transpose<T>(v);
    for (int64_t i = 0; i < count; ++i) store(rows + i * pitch_of(width) + c, v[i]);
  }
}

// Where the last pass goes: low, and high = x − low.
template <class T, class S>
struct Result {
  const S* x;
  S *low, *high;
  int64_t stride;
  bool streamed;

  Result from(int64_t offset) const { return {x + offset, low ? low + offset : low, high ? high + offset : high, stride, streamed}; }

  void put(int64_t row, int64_t column, const T* values, int64_t count) const {
    const int64_t at = row * stride + column;
    if (count == kLine<T>) {
      if constexpr (std::is_same_v<T, S>) {
        if (streamed) return put_streamed(at, values);
      }
      return put_some(at, values, kLine<T>);
    }
    put_some(at, values, count);
  }

 private:
  inline __attribute__((always_inline)) void put_some(int64_t at, const T* __restrict values, int64_t count) const {
    if (low) write_row(values, low + at, count);
    if (high)
      for (int64_t i = 0; i < count; ++i) from_compute(to_compute(x[at + i]) - values[i], high[at + i]);
  }
  void put_streamed(int64_t at, const T* values) const {
    for (int v = 0; v < kLineVectors; ++v) {
      const Vector<T> y = load(values + v * kLanes<T>);
      if (low) stream(low + at + v * kLanes<T>, y);
      if (high) stream(high + at + v * kLanes<T>, load(x + at + v * kLanes<T>) - y);
    }
  }
};

template <class T>
struct Plane {
  T* rows;
  int64_t stride;

  void put(int64_t row, int64_t column, const T* values, int64_t count) const {
    T* to = rows + row * stride + column;
    if (count == kLine<T>)
      copy_row<kLineVectors>(values, to);
    else
      write_row(values, to, count);
  }
};

// Filters columns [begin, end) of rows that are `stride` apart. What the next panel reads is fetched while this one is written.
template <class T, class Sink>
void filter_columns(const T* from, int64_t stride, int64_t begin, int64_t end, const Filter<T>& f, T* panel, const Sink& sink) {
  for (int64_t c = begin; c < end; c += kLine<T>) {
    const int64_t width = least(end - c, kLine<T>);
    gather(from + c, stride, f.size, width, panel + f.margin() * kLine<T>);
    const T* filtered = filter_panel<kLineVectors>(panel, f);
    for (int64_t n = 0; n < f.size; ++n) {
      __builtin_prefetch(from + n * stride + c + kLine<T>, 0, 2);
      sink.put(n, c, filtered + n * kLine<T>, width);
    }
  }
}

// Everything one thread needs: a panel, converted rows, a plane, taps. Sizes first, then pointers.
template <class T>
struct Workspace {
  T *panel, *copy, *plane, *taps;

  explicit Workspace(const GaussianParams& p) {
    const int64_t longest = most(p.d, most(p.h, p.w)), pitch = pitch_of(p.w);
    const int64_t panel_size = panel_rows<T>(longest, p.radius) * kLine<T>, copy_size = kLanes<T> * pitch;
    const int64_t plane_size = most(p.h, kLanes<T>) * pitch, taps_size = (2 * p.radius + 1) * kLanes<T>;
    panel = static_cast<T*>(thread_scratch(size_t(panel_size + copy_size + plane_size + 3 * taps_size) * sizeof(T)));
    copy = panel + panel_size;
    plane = copy + copy_size;
    taps = plane + plane_size;
  }
};

// What the axes without a pass, D of planes and H of lines, multiply by.
template <class T>
T scale_of(const GaussianParams& p, int64_t image) {
  const T* centre = static_cast<const T*>(p.taps) + image * 3 * (2 * p.radius + 1) + p.radius;
  return (p.d == 1 ? centre[0] : T(1)) * (p.d == 1 && p.h == 1 ? centre[2 * p.radius + 1] : T(1));
}

// Lane i filters with the taps of image first + i, or of the last one.
template <class T>
Filter<T> make_filter(const GaussianParams& p, int axis, int64_t first, int64_t images, T* table) {
  const int64_t width = 2 * p.radius + 1, sizes[] = {p.d, p.h, p.w};
  const T* taps = static_cast<const T*>(p.taps);
  auto of = [&](int64_t i) { return p.tap_images == 1 ? 0 : first + least(i, images - 1); };
  int64_t radius = 0;
  for (int64_t i = 0; i < images; ++i) radius = most(radius, p.radii[of(i) * 3 + axis]);
  for (int64_t r = -radius; r <= radius; ++r)
    for (int i = 0; i < kLanes<T>; ++i) {
      const int64_t image = of(i), tap = p.adjoint ? -r : r;
      const bool inside = tap <= p.radii[image * 3 + axis] && -tap <= p.radii[image * 3 + axis];
      const T scale = axis == 2 ? scale_of<T>(p, image) : T(1);
      table[(r + radius) * kLanes<T> + i] = inside ? scale * taps[(image * 3 + axis) * width + p.radius + tap] : T(0);
    }
  return {sizes[axis], radius, table, p.padding, p.adjoint && p.padding == Padding::kReflect, p.symmetric};
}

template <class T, class S>
void filter_along_w(const S* rows, int64_t count, const Filter<T>& w, const Workspace<T>& space, T* out) {
  T* columns = space.panel + w.margin() * kLanes<T>;
  transpose_in(rows, w.size, count, w.size, space.copy, columns);
  transpose_out(filter_panel<1>(space.panel, w), w.size, count, out);
}

// W and H of one plane: x → sink.
template <class T, class S, class Sink>
void filter_plane(const S* x, const Filter<T>& h, const Filter<T>& w, const Workspace<T>& space, const Sink& sink) {
  const int64_t pitch = pitch_of(w.size);
  for (int64_t row = 0; row < h.size; row += kLanes<T>)
    filter_along_w(x + row * w.size, least(h.size - row, kLanes<T>), w, space, space.plane + row * pitch);
  filter_columns(space.plane, pitch, 0, w.size, h, space.panel, sink);
}

template <class T>
struct PlaneFilters {
  Filter<T> h, w;

  PlaneFilters(const GaussianParams& p, int64_t image, const Workspace<T>& space)
      : h(make_filter(p, 1, image, 1, space.taps)), w(make_filter(p, 2, image, 1, space.taps + (2 * p.radius + 1) * kLanes<T>)) {}
};

int64_t work_of(const GaussianParams& p, int64_t images) { return images * p.d * p.h * p.w * 2 * (p.radius + 2); }

// Rows of a vector are different images.
template <class T, class S>
void filter_lines(const GaussianParams& p, const Result<T, S>& result) {
  auto body = [&](int64_t begin, int64_t end) {
    const Workspace<T> space(p);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kLanes<T>, count = least(p.images - first, kLanes<T>);
      filter_along_w(result.x + first * p.w, count, make_filter(p, 2, first, count, space.taps), space, space.plane);
      for (int64_t i = 0; i < count; ++i) result.put(first + i, 0, space.plane + i * pitch_of(p.w), p.w);
    }
  };
  parallel_for(ceil_div(p.images, kLanes<T>), 1, useful_threads(work_of(p, p.images), p.lane.threads), body);
}

template <class T, class S>
void filter_planes(const GaussianParams& p, const Result<T, S>& result) {
  auto body = [&](int64_t begin, int64_t end) {
    const Workspace<T> space(p);
    for (int64_t i = begin; i < end; ++i) {
      const PlaneFilters<T> filters(p, i, space);
      const Result<T, S> plane = result.from(i * p.h * p.w);
      filter_plane(plane.x, filters.h, filters.w, space, plane);
    }
    if (result.streamed) stream_fence();
  };
  parallel_for(p.images, 1, useful_threads(work_of(p, p.images), p.lane.threads), body);
}

template <class T, class S>
void filter_volumes(const GaussianParams& p, const Result<T, S>& result) {
  const int64_t plane = p.h * p.w, pitch = gaussian_pitch(p.h, p.w), lines = ceil_div(plane, kLine<T>);
  const int threads = useful_threads(work_of(p, 1), p.lane.threads);
  T* volume = static_cast<T*>(p.scratch);
  for (int64_t image = 0; image < p.images; ++image) {
    const Result<T, S> whole = result.from(image * p.d * plane);
    auto planes = [&](int64_t begin, int64_t end) {
      const Workspace<T> space(p);
      const PlaneFilters<T> filters(p, image, space);
      for (int64_t d = begin; d < end; ++d)
        filter_plane(whole.x + d * plane, filters.h, filters.w, space, Plane<T>{volume + d * pitch, p.w});
    };
    parallel_for(p.d, p.d / (int64_t{threads} * 8) + 1, threads, planes);
    auto columns = [&](int64_t begin, int64_t end) {
      const Workspace<T> space(p);
      const Filter<T> d = make_filter(p, 0, image, 1, space.taps);
      filter_columns(volume, pitch, begin * kLine<T>, least(end * kLine<T>, plane), d, space.panel, whole);
      if (whole.streamed) stream_fence();
    };
    parallel_for(lines, lines / (int64_t{threads} * 8) + 1, threads, columns);
  }
}

template <class T, class S>
void gaussian(const GaussianParams& p) {
  const int64_t bytes = p.images * p.d * p.h * p.w * int64_t(sizeof(S));
  if (!bytes) return;
  auto aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 64 == 0; };
  const bool streamed = bytes >= kStreamBytes && p.w * sizeof(S) % 64 == 0 && aligned(p.low) && aligned(p.high);
  const int64_t stride = p.d > 1 ? p.h * p.w : p.w;
  const Result<T, S> result{static_cast<const S*>(p.x), static_cast<S*>(p.low), static_cast<S*>(p.high), stride, streamed};
  if (p.d > 1) return filter_volumes<T, S>(p, result);
  if (p.h > 1) return filter_planes<T, S>(p, result);
  filter_lines<T, S>(p, result);
}

// The voxels of an image as panels along one axis. body(x, gradient): rows of kLine columns each, x with margins that are not filled yet.
template <class T, class S, class Body>
void for_panels(const TapsGradientParams& p, const S* x, const S* gradient, int64_t radius, Body&& body) {
  const int64_t size = p.axis == 0 ? p.d : p.axis == 1 ? p.h : p.w, stride = p.axis == 0 ? p.h * p.w : p.w;
  const int64_t rows = panel_rows<T>(size, radius), pitch = pitch_of(p.w);
  T* panel = static_cast<T*>(thread_scratch(size_t(2 * rows * kLine<T> + kLanes<T> * pitch) * sizeof(T)));
  T *samples = panel + radius * kLine<T>, *gradients = panel + rows * kLine<T>, *copy = gradients + rows * kLine<T>;
  if (p.axis == 2) {
    samples = panel + radius * kLanes<T>;
    for (int64_t row = 0; row < p.d * p.h; row += kLanes<T>) {
      const int64_t count = least(p.d * p.h - row, kLanes<T>);
      transpose_in(x + row * p.w, p.w, count, p.w, copy, samples);
      transpose_in(gradient + row * p.w, p.w, count, p.w, copy, gradients);
      body(std::integral_constant<int, 1>{}, samples, gradients, count);
    }
    return;
  }
  const int64_t blocks = p.axis == 0 ? 1 : p.d, columns = p.axis == 0 ? p.h * p.w : p.w;
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t c = 0; c < columns; c += kLine<T>) {
      const int64_t width = least(columns - c, kLine<T>), at = block * p.h * p.w + c;
      gather(x + at, stride, size, width, samples);
      gather(gradient + at, stride, size, width, gradients);
      body(std::integral_constant<int, kLineVectors>{}, samples, gradients, width);
    }
}

// Sums of one panel are taken in T, over at most one axis; those of panels in double.
template <class T, class S>
void taps_gradient(const TapsGradientParams& p, int64_t image, int64_t first, int64_t count, T* out) {
  const int64_t voxels = p.d * p.h * p.w, size = p.axis == 0 ? p.d : p.axis == 1 ? p.h : p.w;
  double sums[kLags] = {};
  auto body = [&](auto vectors, T* samples, const T* gradients, int64_t columns) {
    constexpr int kVectors = decltype(vectors)::value;
    constexpr int64_t width = kVectors * kLanes<T>;
    extend<kVectors>(Filter<T>{size, p.radius, nullptr, p.padding, false, false}, samples);
    for (int64_t lag = first; lag < first + count; lag += kTile)
      for (int v = 0; v < kVectors; ++v) {
        Vector<T> acc[kTile] = {};
        correlate_tile(samples + (lag - p.radius) * width + v * kLanes<T>, width, gradients + v * kLanes<T>, width, size, acc);
        for (int i = 0; i < kTile && lag + i < first + count; ++i)
          for (int c = 0; c < kLanes<T> && v * kLanes<T> + c < columns; ++c) sums[lag - first + i] += double(acc[i][c]);
      }
  };
  for_panels<T, S>(p, static_cast<const S*>(p.x) + image * voxels, static_cast<const S*>(p.gradient) + image * voxels, p.radius, body);
  for (int64_t i = 0; i < count; ++i) out[first + i] = T(sums[i]);
}

template <class T, class S>
void taps_gradient(const TapsGradientParams& p) {
  const int64_t lags = 2 * p.radius + 1, groups = ceil_div(lags, kLags);
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / groups, first = task % groups * kLags;
      taps_gradient<T, S>(p, image, first, least(lags - first, kLags), static_cast<T*>(p.out) + image * lags);
    }
  };
  parallel_for(p.images * groups, 1, useful_threads(p.images * p.d * p.h * p.w * lags, p.lane.threads), body);
}

template <class T, class S>
struct Types {
  using Compute = T;
  using Storage = S;
};

template <class Body>
void by_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(Types<float, float>{});
    case DType::kFloat64:
      return body(Types<double, double>{});
    case DType::kFloat16:
      return body(Types<float, Half>{});
    case DType::kBFloat16:
      return body(Types<float, BFloat16>{});
  }
  throw Error("gaussian: unknown dtype code");
}

}  // namespace

void gaussian(const GaussianParams& p) {
  by_dtype(p.dtype, [&](auto t) { gaussian<typename decltype(t)::Compute, typename decltype(t)::Storage>(p); });
}
void taps_gradient(const TapsGradientParams& p) {
  by_dtype(p.dtype, [&](auto t) { taps_gradient<typename decltype(t)::Compute, typename decltype(t)::Storage>(p); });
}

}  // namespace fastseg::FASTSEG_ISA
