// Truncated real DFT over the last one, two or three axes, and its mirror image.
//   analysis:  X[k] = Σ x[n]·e^(−2πi·k·n/N) per axis, kept k only      synthesis: the conjugate sum, real part on the last axis
// x [images, D, H, W] is read once and y written once: every plane is folded along H (even and odd halves, which meet cosines and
// sines only), multiplied by the H table, then by the W table; only kept modes leave the plane. D is a third product over those.
// Scale, normalisation and Hermitian weights live in the tables, so a backward pass is the other transform with other tables.
#include "../parallel.h"
#include "columns.h"
#include "pairs.h"
#include "rows.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kStreamBytes = 16 << 20;  // results from here on do not stay in a cache until they are read
constexpr int64_t kRowBlock = 48;           // rows at a time when there is no H axis

int64_t stage_rows(const Axis& axis) { return 2 * axis.distinct() - 1; }
// Rows a power of two apart share cache sets: keep the distance an odd number of lines.
int64_t padded_stride(int64_t columns) { return round_up(columns, 64) + 16; }

template <class T>
void analyse_plane(const Source& x, const Transform& t, bool planar, T* spectrum) {
  const int64_t rows = stage_rows(t.h), stride = padded_stride(t.w.size), modes = t.w.kept();
  Scratch<T> scratch(rows * (stride + 2 * t.w.padded) + row_scratch<T>(t.w, rows) + fold_scratch<T>(t.h) + 128);
  T* sums = scratch.take(rows * stride);
  T* parts = scratch.take(rows * 2 * t.w.padded);
  analyse_columns(x, t.w.size, t.w.size, x + t.h.size * t.w.size, t.h, sums, stride, scratch);
  analyse_rows(sums, stride, rows, t.w, parts, scratch);
  with_pairs(planar, t.h.kept() * modes, [&](auto to) {
    combine<T>(
        t.h, modes, Pairs<1>{t.w.padded}, to, [&](int64_t row) { return parts + row * 2 * t.w.padded; },
        [&](int64_t row) { return spectrum + row * modes * to.step; });
  });
}

// How a synthesis reaches a plane of the result: as T; past the caches where the whole is too large to stay in one until it is read, row by
// row where rows start on cache lines, else as a plane that is made in L2; or in strips of kStrip columns, which are converted then.
enum class Store { kPlain, kStreamed, kPlanes, kConverted };
constexpr int64_t kStrip = 64;
constexpr int64_t kPlaneBytes = 128 << 10;  // of a plane that is made in L2

template <class T>
void synthesise_converted(const T* sums, int64_t stride, const Transform& t, T bias, T* strip, const Target& y) {
  for (int64_t c = 0; c < t.w.size; c += kStrip) {
    const int64_t width = t.w.size - c < kStrip ? t.w.size - c : kStrip;
    synthesise_columns<false>(sums + c, stride, t.h, bias, width, strip, kStrip);
    for (int64_t n = 0; n < t.h.size; ++n) write(strip + n * kStrip, y + (n * t.w.size + c), width);
  }
}

// A row that need not start on a cache line, past the caches but for its ends.
template <class T>
void stream_row(const T* from, T* to, int64_t count) {
  int64_t i = 0;
  for (; i < count && reinterpret_cast<uintptr_t>(to + i) % 64; ++i) to[i] = from[i];
  for (; i + kLanes<T> <= count; i += kLanes<T>) stream(to + i, load(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

template <class T>
void synthesise_plane(const T* spectrum, const Transform& t, bool planar, T bias, Store how, const Target& y) {
  const int64_t rows = stage_rows(t.h), stride = padded_stride(t.w.size), modes = t.w.kept(), plane = t.h.size * t.w.size;
  const int64_t strip_size = how == Store::kConverted ? t.h.size * kStrip : how == Store::kPlanes ? plane : 0;
  Scratch<T> scratch(rows * (stride + 2 * modes) + 4 * kTileRows * t.w.padded + strip_size + 128);
  T* sums = scratch.take(rows * stride);
  T* parts = scratch.take(rows * 2 * modes);
  T* strip = scratch.take(strip_size);
  with_pairs(planar, t.h.kept() * modes, [&](auto from) {
    separate<T>(
        t.h, modes, from, Pairs<1>{modes}, [&](int64_t row) { return spectrum + row * modes * from.step; },
        [&](int64_t row) { return parts + row * 2 * modes; });
  });
  synthesise_rows(parts, rows, t.w, sums, stride, scratch);
  if (how == Store::kConverted) return synthesise_converted(sums, stride, t, bias, strip, y);
  T* result = reinterpret_cast<T*>(y.data);
  const auto synthesise = how == Store::kStreamed ? synthesise_columns<true, T> : synthesise_columns<false, T>;
  synthesise(sums, stride, t.h, bias, t.w.size, how == Store::kPlanes ? strip : result, t.w.size);
  if (how == Store::kPlanes) stream_row(strip, result, plane);
}

template <class T>
void analyse_lines(const Source& x, int64_t count, const Axis& axis, bool planar, T* spectrum) {
  const int64_t modes = axis.kept();
  Scratch<T> scratch(count * (axis.size + 2 * axis.padded) + row_scratch<T>(axis, count) + 128);
  T* rows = scratch.take(count * axis.size);
  T* parts = scratch.take(count * 2 * axis.padded);
  read(x, rows, count * axis.size);
  analyse_rows(rows, axis.size, count, axis, parts, scratch);
  with_pairs(planar, modes, [&](auto to) {
    for (int64_t r = 0; r < count; ++r) copy_pairs(parts + r * 2 * axis.padded, Pairs<1>{axis.padded}, to, modes, spectrum + r * modes * 2);
  });
}

template <class T, class Bias>
void synthesise_lines(const T* spectrum, int64_t count, const Axis& axis, bool planar, Bias&& bias_of, const Target& y) {
  const int64_t modes = axis.kept();
  Scratch<T> scratch(count * (axis.size + 2 * modes) + 4 * kTileRows * axis.padded + 128);
  T* rows = scratch.take(count * axis.size);
  T* parts = scratch.take(count * 2 * modes);
  with_pairs(planar, modes, [&](auto from) {
    for (int64_t r = 0; r < count; ++r) copy_pairs(spectrum + r * modes * 2, from, Pairs<1>{modes}, modes, parts + r * 2 * modes);
  });
  synthesise_rows(parts, count, axis, rows, axis.size, scratch);
  for (int64_t r = 0; r < count; ++r) {
    const T bias = bias_of(r);
    for (int64_t n = 0; n < axis.size; ++n) rows[r * axis.size + n] += bias;
  }
  write(rows, y, count * axis.size);
}

// D is a product over the plane spectra [D][columns], real and imaginary columns alike: a block of `width` complex ones at a time, which
// are one range of columns where they are interleaved and two, `plane` apart, where they are planar.
struct DepthBlock {
  int64_t plane;         // complex numbers of a plane's spectrum
  int64_t first, width;  // of them
  bool planar;

  int64_t ranges() const { return planar ? 2 : 1; }
  int64_t columns() const { return planar ? width : 2 * width; }  // of a range
  int64_t begin(int64_t range) const { return planar ? range * plane + first : 2 * first; }
  int64_t apart() const { return round_up(columns(), 16); }  // ranges, in a row of sums
  int64_t stride() const { return padded_stride(ranges() * apart()); }
};

template <class T>
void analyse_depth(const T* planes, const Axis& d, const DepthBlock& b, T* spectrum) {
  const int64_t rows = stage_rows(d), stride = b.stride();
  Scratch<T> scratch(rows * stride + fold_scratch<T>(d) + 128);
  T* sums = scratch.take(rows * stride);
  for (int64_t r = 0; r < b.ranges(); ++r) {
    const T* columns = planes + b.begin(r);
    analyse_columns(source(columns), 2 * b.plane, b.columns(), source(columns + b.columns()), d, sums + r * b.apart(), stride, scratch);
  }
  with_pairs(b.planar, d.kept() * b.plane, [&](auto to) {
    combine<T>(
        d, b.width, Pairs<to.step>{b.planar ? b.apart() : 1}, to, [&](int64_t row) { return sums + row * stride; },
        [&](int64_t row) { return spectrum + (row * b.plane + b.first) * to.step; });
  });
}

template <class T>
void synthesise_depth(const T* spectrum, const Axis& d, const DepthBlock& b, T* planes) {
  const int64_t rows = stage_rows(d), stride = b.stride();
  Scratch<T> scratch(rows * stride + 128);
  T* sums = scratch.take(rows * stride);
  with_pairs(b.planar, d.kept() * b.plane, [&](auto from) {
    separate<T>(
        d, b.width, from, Pairs<from.step>{b.planar ? b.apart() : 1},
        [&](int64_t row) { return spectrum + (row * b.plane + b.first) * from.step; }, [&](int64_t row) { return sums + row * stride; });
  });
  for (int64_t r = 0; r < b.ranges(); ++r)
    synthesise_columns<false>(sums + r * b.apart(), stride, d, T(0), b.columns(), planes + b.begin(r), 2 * b.plane);
}

// Runs body(image, block) over column blocks of every image's plane spectra.
template <class Body>
void for_depth_blocks(const TransformParams& p, Body&& body) {
  const int64_t plane = p.t.h.kept() * p.t.w.kept(), most = p.planar ? kFoldColumns : kFoldColumns / 2, blocks = ceil_div(plane, most);
  auto run = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * most;
      body(task / blocks, DepthBlock{plane, first, plane - first < most ? plane - first : most, p.planar});
    }
  };
  parallel_for(p.images * blocks, 1, useful_threads(p.images * 2 * plane * p.t.d.size * p.t.d.distinct(), p.lane.threads), run);
}

// Multiply-adds of all planes, about: kept columns a sample.
int plane_threads(const TransformParams& p) {
  const int64_t samples = p.images * p.t.d.size * p.t.h.size * p.t.w.size;
  return useful_threads(samples * (p.t.h.distinct() + p.t.w.kept()), p.lane.threads);
}

// Neighbouring planes go to one thread, so that what it fetches ahead is its own; enough pieces remain to even out the load.
int64_t plane_grain(int64_t planes, int threads) { return planes / (int64_t{threads} * 8) + 1; }

template <class T>
void analysis_in(const TransformParams& p) {
  const Transform& t = p.t;
  const int64_t plane = t.h.size * t.w.size, columns = 2 * t.h.kept() * t.w.kept(), planes = p.images * t.d.size;
  const bool deep = t.d.size > 1, lines = t.h.size == 1;
  const int threads = plane_threads(p);
  const Source x(p.real, p.dtype);
  T* plane_spectra = static_cast<T*>(deep ? p.planes : p.spectrum);
  auto body = [&](int64_t begin, int64_t end) {
    if (lines) return analyse_lines<T>(x + begin * plane, end - begin, t.w, p.planar, plane_spectra + begin * columns);
    for (int64_t i = begin; i < end; ++i) analyse_plane(x + i * plane, t, p.planar, plane_spectra + i * columns);
  };
  parallel_for(planes, lines ? kRowBlock : plane_grain(planes, threads), threads, body);
  if (!deep) return;
  T* spectrum = static_cast<T*>(p.spectrum);
  for_depth_blocks(p, [&](int64_t image, const DepthBlock& block) {
    analyse_depth(plane_spectra + image * t.d.size * columns, t.d, block, spectrum + image * t.d.kept() * columns);
  });
}

Store store_of(const TransformParams& p, DType computed, const Target& y) {
  const Transform& t = p.t;
  const int64_t row_bytes = t.w.size * y.bytes, plane_bytes = t.h.size * row_bytes;
  if (p.dtype != computed) return Store::kConverted;
  if (p.images * t.d.size * plane_bytes < kStreamBytes) return Store::kPlain;
  if (row_bytes % 64 == 0 && reinterpret_cast<uintptr_t>(y.data) % 64 == 0) return Store::kStreamed;
  return plane_bytes <= kPlaneBytes ? Store::kPlanes : Store::kPlain;
}

template <class T>
void synthesis_in(const TransformParams& p) {
  const Transform& t = p.t;
  const int64_t plane = t.h.size * t.w.size, columns = 2 * t.h.kept() * t.w.kept(), planes = p.images * t.d.size;
  const bool deep = t.d.size > 1, lines = t.h.size == 1;
  const int threads = plane_threads(p);
  const T* bias = static_cast<const T*>(p.bias);
  const Target y(p.real, p.dtype);
  T* plane_spectra = static_cast<T*>(deep ? p.planes : p.spectrum);
  if (deep)
    for_depth_blocks(p, [&](int64_t image, const DepthBlock& block) {
      synthesise_depth(static_cast<const T*>(p.spectrum) + image * t.d.kept() * columns, t.d, block,
                       plane_spectra + image * t.d.size * columns);
    });
  const Store how = store_of(p, kDTypeOf<T>, y);
  auto bias_of = [&](int64_t plane_index) { return bias ? bias[plane_index / t.d.size % p.channels] : T(0); };
  auto body = [&](int64_t begin, int64_t end) {
    if (lines)
      return synthesise_lines(
          plane_spectra + begin * columns, end - begin, t.w, p.planar, [&](int64_t r) { return bias_of(begin + r); }, y + begin * plane);
    for (int64_t i = begin; i < end; ++i) synthesise_plane(plane_spectra + i * columns, t, p.planar, bias_of(i), how, y + i * plane);
    if (how == Store::kStreamed || how == Store::kPlanes) stream_fence();
  };
  parallel_for(planes, lines ? kRowBlock : plane_grain(planes, threads), threads, body);
}

}  // namespace

// Whole spectra have an FFT (whole.cpp) where it serves their sizes.
bool whole_serves(const TransformParams&);
void whole_analysis(const TransformParams&);
void whole_synthesis(const TransformParams&);

void analysis(const TransformParams& p) {
  if (whole_serves(p)) return whole_analysis(p);
  p.dtype == DType::kFloat64 ? analysis_in<double>(p) : analysis_in<float>(p);
}
void synthesis(const TransformParams& p) {
  if (whole_serves(p)) return whole_synthesis(p);
  p.dtype == DType::kFloat64 ? synthesis_in<double>(p) : synthesis_in<float>(p);
}

}  // namespace fastseg::FASTSEG_ISA
