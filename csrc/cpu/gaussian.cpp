// A separable filter with given taps over the last one, two or three axes.
// Axes are filtered in the order D, H, W, each in panels as wide as a cache line. For D and H a panel's columns are those of memory, taken
// in runs that are long enough for the prefetcher; for W a block of rows is transposed on the way from H's panels and on the way out, so
// that results are written row after row. A band of a plane stays in L2 from H to W; D goes through scratch memory.
#include "../parallel.h"
#include "filter.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kStreamBytes = 8 << 20;   // results from here on do not stay in a cache until they are read
constexpr int64_t kPanelBytes = 160 << 10;  // panels of a band, in L2
constexpr int64_t kStripBytes = 1024;       // of a row that H gathers before it filters

// Where the last pass goes: low, and high = x − low. Rows of all planes and images are counted through.
template <class T, class S>
struct Result {
  const S* x;
  S *low, *high;
  int64_t stride;
  bool streamed;

  void put(int64_t row, int64_t column, const T* values, int64_t count) const {
    const int64_t at = row * stride + column;
    if (count < kLine<T>) return put_some(at, values, count);
    if constexpr (!std::is_same_v<T, S>)
      put_some(at, values, kLine<T>);
    else if (streamed)
      put_line(at, values, [](T* to, Vector<T> v) { stream(to, v); });
    else
      put_line(at, values, [](T* to, Vector<T> v) { store(to, v); });
  }

 private:
  inline __attribute__((always_inline)) void put_some(int64_t at, const T* __restrict values, int64_t count) const {
    if (low) write_row(values, low + at, count);
    if (high)
      for (int64_t i = 0; i < count; ++i) from_compute(to_compute(x[at + i]) - values[i], high[at + i]);
  }
  template <class Write>
  inline __attribute__((always_inline)) void put_line(int64_t at, const T* values, Write&& write) const {
    for (int v = 0; v < kLineVectors; ++v, at += kLanes<T>) {
      const Vector<T> y = load(values + v * kLanes<T>);
      const Vector<T> rest = high ? load(x + at) - y : y;
      if (low) write(low + at, y);
      if (high) write(high + at, rest);
    }
  }
};

// How the work is cut: bands of rows of a plane, and for D strips of a plane's numbers.
template <class T>
struct Cuts {
  int threads;
  int64_t margin, band, bands, strip;

  explicit Cuts(const GaussianParams& p) {
    const bool folded = p.adjoint && p.padding == Padding::kReflect;
    margin = (folded ? 2 : 1) * p.radius;
    threads = useful_threads(p.images * p.d * p.h * p.w * 2 * (p.radius + 2), p.lane.threads);
    const int64_t wide = round_up(p.w, kLine<T>) * int64_t(sizeof(T)), planes = p.d > 1 ? p.d : p.images;
    const int64_t fit = most(kPanelBytes / wide - panel_rows(0, margin), 2 * margin + kLanes<T>);
    bands = folded ? 1 : ceil_div(p.h, fit);
    if (!folded && planes * bands < threads) bands = ceil_div(threads, planes);
    band = least(round_up(ceil_div(p.h, bands), kLanes<T>), p.h);
    bands = ceil_div(p.h, band);
    const int64_t lines = ceil_div(p.h * p.w, kLine<T>), each = kPanelBytes / (panel_rows(p.d, margin) * 64);
    strip = kLine<T> * most(1, least(each, ceil_div(lines, threads)));
  }
};

// Everything one thread needs: panels of a band or a strip, a transposed block of rows, taps.
template <class T>
struct Workspace {
  T *panels, *block, *taps;

  Workspace(const GaussianParams& p, const Cuts<T>& cuts) {
    const int64_t plane = plane_rows(cuts.band, cuts.margin) * round_up(p.w, kLine<T>);
    const int64_t depth = p.d > 1 ? panel_rows(p.d, cuts.margin) * cuts.strip : 0;
    const int64_t panel_size = most(plane, depth), taps_size = round_up((2 * p.radius + 1) * kLanes<T>, kLine<T>);
    const int64_t block_size = panel_rows(round_up(p.w, kLine<T>), cuts.margin) * kLanes<T>;
    panels = static_cast<T*>(thread_scratch(size_t(panel_size + 2 * taps_size + block_size) * sizeof(T)));
    taps = panels + panel_size;
    block = taps + 2 * taps_size;
  }
  // A block of rows that is read whole may reach beyond the last one.
  static int64_t plane_rows(int64_t rows, int64_t margin) { return panel_rows(rows, margin) + kLanes<T>; }
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

// Outputs [begin, end) of columns, in panels from row f.first() on.
template <class T, class S>
void filter_columns(const S* from, int64_t stride, int64_t width, const Filter<T>& f, int64_t begin, int64_t end, const Panels<T>& panels) {
  gather(from, stride, width, f, begin, end, panels);
  for (int64_t c = 0; c < width; c += kLine<T>) filter_panel<kLineVectors>(panels.line(0, c), end - begin, f);
}

// Rows of panels → rows of the sink.
template <class T, class Sink>
void filter_along_w(const Panels<T>& panels, int64_t first, int64_t count, const Filter<T>& w, T* block, const Sink& sink, int64_t row) {
  T* columns = block + w.margin() * kLanes<T>;
  for (int64_t n = 0; n < count; n += kLanes<T>) {
    transpose_in(panels, first + n, w.size, columns);
    extend<1>(w, columns);
    transpose_out(filter_panel<1>(block, w.size, w), w.size, row + n, least(count - n, kLanes<T>), sink);
  }
}

// H and W of rows [begin, end) of a plane whose first row is the sink's row `origin`.
template <class T, class S, class Sink>
void filter_band(const S* plane, int64_t begin, int64_t end, const Filter<T>& h, const Filter<T>& w, const Workspace<T>& space,
                 const Sink& sink, int64_t origin) {
  const Panels<T> panels{space.panels, space.plane_rows(end - begin, h.margin())};
  constexpr int64_t strip = kStripBytes / int64_t(sizeof(T));
  for (int64_t c = 0; c < w.size; c += strip)
    filter_columns(plane + c, w.size, least(w.size - c, strip), h, begin, end, Panels<T>{panels.line(0, c), panels.rows});
  filter_along_w(panels, h.first(), end - begin, w, space.block, sink, origin + begin);
}

// H and W of planes that are `pitch` apart and belong to images from `image` on.
template <class T, class S, class Sink>
void filter_planes(const GaussianParams& p, const Cuts<T>& cuts, const S* planes, int64_t pitch, int64_t count, int64_t image,
                   const Sink& sink) {
  auto body = [&](int64_t begin, int64_t end) {
    const Workspace<T> space(p, cuts);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / cuts.bands, row = task % cuts.bands * cuts.band;
      const Filter<T> h = make_filter(p, 1, image + plane / p.d, 1, space.taps);
      const Filter<T> w = make_filter(p, 2, image + plane / p.d, 1, space.taps + (2 * h.radius + 1) * kLanes<T>);
      filter_band(planes + plane * pitch, row, least(row + cuts.band, p.h), h, w, space, sink, (image * p.d + plane) * p.h);
    }
    stream_fence();
  };
  parallel_for(count * cuts.bands, 1, cuts.threads, body);
}

// D of one image: x → volume, planes of numbers `pitch` apart.
template <class T, class S>
void filter_depth(const GaussianParams& p, const Cuts<T>& cuts, const S* x, int64_t image, T* volume, int64_t pitch) {
  const int64_t plane = p.h * p.w;
  auto body = [&](int64_t begin, int64_t end) {
    const Workspace<T> space(p, cuts);
    const Filter<T> d = make_filter(p, 0, image, 1, space.taps);
    const Panels<T> panels{space.panels, panel_rows(p.d, d.margin())};
    for (int64_t at = begin * cuts.strip; at < least(end * cuts.strip, plane); at += cuts.strip) {
      const int64_t width = least(cuts.strip, plane - at);
      filter_columns(x + at, plane, width, d, 0, p.d, panels);
      for (int64_t n = 0; n < p.d; ++n)
        for (int64_t c = 0; c < width; c += kLine<T>) copy_row<kLineVectors>(panels.line(d.first() + n, c), volume + n * pitch + at + c);
    }
  };
  parallel_for(ceil_div(plane, cuts.strip), 1, cuts.threads, body);
}

// Rows of a vector are different images.
template <class T, class S>
void filter_lines(const GaussianParams& p, const Cuts<T>& cuts, const Result<T, S>& result) {
  auto body = [&](int64_t begin, int64_t end) {
    const Workspace<T> space(p, cuts);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kLanes<T>, count = least(p.images - first, kLanes<T>);
      const Panels<T> panels{space.panels, kLanes<T> + kTile};
      const Filter<T> rows{count, 0, nullptr, Padding::kZeros, false, true};
      gather(result.x + first * p.w, p.w, p.w, rows, 0, count, panels);
      filter_along_w(panels, 0, count, make_filter(p, 2, first, count, space.taps), space.block, result, first);
    }
    stream_fence();
  };
  parallel_for(ceil_div(p.images, kLanes<T>), 1, cuts.threads, body);
}

template <class T, class S>
void filter_volumes(const GaussianParams& p, const Cuts<T>& cuts, const Result<T, S>& result) {
  const int64_t pitch = gaussian_pitch(p.h, p.w);
  T* volume = static_cast<T*>(p.scratch);
  for (int64_t image = 0; image < p.images; ++image) {
    filter_depth(p, cuts, result.x + image * p.d * p.h * p.w, image, volume, pitch);
    filter_planes(p, cuts, volume, pitch, p.d, image, result);
  }
}

template <class T, class S>
void gaussian(const GaussianParams& p) {
  const int64_t bytes = p.images * p.d * p.h * p.w * int64_t(sizeof(S));
  if (!bytes) return;
  auto aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 64 == 0; };
  const bool streamed = bytes >= kStreamBytes && p.w * sizeof(S) % 64 == 0 && aligned(p.low) && aligned(p.high);
  const Result<T, S> result{static_cast<const S*>(p.x), static_cast<S*>(p.low), static_cast<S*>(p.high), p.w, streamed};
  const Cuts<T> cuts(p);
  if (p.d > 1) return filter_volumes(p, cuts, result);
  if (p.h > 1) return filter_planes(p, cuts, result.x, p.h * p.w, p.images, 0, result);
  filter_lines(p, cuts, result);
}

}  // namespace

void gaussian(const GaussianParams& p) {
  by_dtype(p.dtype, [&](auto t) { gaussian<typename decltype(t)::Compute, typename decltype(t)::Storage>(p); });
}

}  // namespace fastseg::FASTSEG_ISA
