// Analysis and synthesis of whole spectra by FFT, where the sizes allow it: small volumes side by side in the lanes of vectors, or planes
// of larger ones, then D in place of columns. Between the two the spectra of planes lie in blocks of as many bins as a vector has lanes,
// real then imaginary parts.
#include "whole.h"

#include "../parallel.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kVolumeBytes = 256 << 10;  // of a tile of volumes, in L2

// Where a plane's bins lie in memory: as the caller asks, or in blocks between the axes.
enum class Layout { kInterleaved, kPlanar, kBlocks };

template <class T>
int64_t blocks_of(const Transform& t) {
  return ceil_div(t.h.size * Tile<T>::row(t), kLanes<T>);
}

// Calls body(lines, vector of the first number, vectors apart, count) for the parts of the bins of `items` planes or volumes.
template <class T, class Body>
void for_parts(const Tile<T>& tile, Layout layout, T* spectra, int64_t items, Body&& body) {
  const int64_t bins = tile.bins(), blocks = blocks_of<T>(tile.t);
  if (layout == Layout::kInterleaved) return body(Lines<T>{spectra, 2 * bins, kLanes<T>, items}, 0, kLanes<T>, 2 * bins);
  const bool planar = layout == Layout::kPlanar;
  for (int part = 0; part < 2; ++part)
    body(
        Lines<T>{spectra + part * (planar ? bins : kLanes<T>), planar ? 2 * bins : blocks * kPair<T>, planar ? kLanes<T> : kPair<T>, items},
        part, kPair<T>, bins);
}

// Whether a tile holds whole volumes: they stay in L2, and no lane and no thread is without one.
template <class T>
bool holds_volumes(const TransformParams& p) {
  const bool small = Tile<T>::numbers(p.t, p.t.d.size) * int64_t(sizeof(T)) <= kVolumeBytes;
  return p.t.d.size > 1 && small && p.images % kLanes<T> == 0 && p.images >= kLanes<T> * int64_t{p.lane.threads};
}

// Everything about a call that does not change from tile to tile; a tile's items are volumes or planes.
template <class T>
struct Call {
  const TransformParams& p;
  int64_t depth, items;  // planes of an item
  Layout layout;         // of the items' spectra
  T* spectra;
  T first, inner;
  int threads;

  Call(const TransformParams& params, bool synthesis)
      : p(params),
        depth(holds_volumes<T>(p) ? p.t.d.size : 1),
        items(p.images * p.t.d.size / depth),
        layout(p.t.d.size > depth ? Layout::kBlocks
               : p.planar         ? Layout::kPlanar
                                  : Layout::kInterleaved),
        spectra(static_cast<T*>(p.t.d.size > depth ? p.planes : p.spectrum)),
        first(T(p.t.scale)),
        // pairs of conjugate columns are stored once: a synthesis counts them twice anyway
        inner(T(p.t.scale * (synthesis ? (p.t.weighted ? 1 : 0.5) : (p.t.weighted ? 2 : 1)))),
        threads(useful_threads(8 * p.images * p.t.d.size * p.t.h.size * p.t.w.size, p.lane.threads)) {}

  T* spectrum_of(int64_t item) const {
    const int64_t numbers = layout == Layout::kBlocks ? blocks_of<T>(p.t) * kPair<T> : 2 * depth * p.t.h.size * Tile<T>::row(p.t);
    return spectra + item * numbers;
  }
};

// Runs body(tile, first item, count) over groups of items.
template <class T, class Body>
void for_tiles(const Call<T>& call, Body&& body) {
  const Transform& t = call.p.t;
  auto run = [&](int64_t begin, int64_t end) {
    const int64_t numbers = Tile<T>::numbers(t, call.depth), work = Tile<T>::scratch(t, call.depth);
    Scratch<T> scratch(numbers + work + 32);
    T* data = scratch.take(numbers);
    const Tile<T> tile{t, data, scratch.take(work), call.depth};
    for (int64_t group = begin; group < end; ++group) {
      const int64_t item = group * kLanes<T>, left = call.items - item;
      body(tile, item, left < kLanes<T> ? left : int64_t{kLanes<T>});
    }
  };
  parallel_for(ceil_div(call.items, int64_t{kLanes<T>}), 1, call.threads, run);
}

// A column block of an image along D: `count` blocks of bins from `block` on.
template <class T, class Body>
void for_depth(const Call<T>& call, Body&& body) {
  const Transform& t = call.p.t;
  const int64_t blocks = blocks_of<T>(t), pieces = ceil_div(blocks, kFftColumns);
  auto run = [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(3 * t.d.size * kFftColumns * kPair<T> + 32);
    T* buffer = scratch.take(t.d.size * kFftColumns * kPair<T>);
    T* work = scratch.take(fft_scratch<T>(t.d.size, kFftColumns));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / pieces, block = task % pieces * kFftColumns, left = blocks - block;
      const int64_t count = left < kFftColumns ? left : kFftColumns;
      body(image, block, count, Grid<T>{call.spectrum_of(image * t.d.size) + block * kPair<T>, blocks, 1}, Grid<T>{buffer, count, 1}, work);
    }
  };
  parallel_for(call.p.images * pieces, 1, call.threads, run);
}

// `valid` bins, `step` numbers apart, ← blocks of a buffer.
template <class T>
void write_bins(const T* pairs, int64_t valid, int64_t step, T* re, T* im) {
  for (int64_t first = 0; first < valid; first += kLanes<T>, pairs += kPair<T>, re += kLanes<T> * step, im += kLanes<T> * step) {
    const int64_t left = valid - first, count = left < kLanes<T> ? left : int64_t{kLanes<T>};
    if (step == 1 && count == kLanes<T>)
      store(re, load(pairs)), store(im, load(pairs + kLanes<T>));
    else
      for (int64_t i = 0; i < count; ++i) re[i * step] = pairs[i], im[i * step] = pairs[kLanes<T> + i];
  }
}
template <class T>
void read_bins(const T* re, const T* im, int64_t valid, int64_t step, T* pairs) {
  for (int64_t first = 0; first < valid; first += kLanes<T>, pairs += kPair<T>, re += kLanes<T> * step, im += kLanes<T> * step) {
    const int64_t left = valid - first, count = left < kLanes<T> ? left : int64_t{kLanes<T>};
    if (step == 1 && count == kLanes<T>) {
      store_pair(pairs, Pair<T>{load(re), load(im)});
      continue;
    }
    store_pair(pairs, Pair<T>{});
    for (int64_t i = 0; i < count; ++i) pairs[i] = re[i * step], pairs[kLanes<T> + i] = im[i * step];
  }
}

// body(buffer, valid, step, re, im): every depth of a column block in the buffer, and the same bins of the caller's spectrum.
template <class T, class Body>
void for_depths(const Call<T>& call, int64_t image, int64_t block, const Grid<T>& buffer, Body&& body) {
  const int64_t bins = call.p.t.h.size * Tile<T>::row(call.p.t), depth = call.p.t.d.size, step = call.p.planar ? 1 : 2;
  const int64_t first = block * kLanes<T>, left = bins - first, most = buffer.row * kLanes<T>, valid = left < most ? left : most;
  T* re = static_cast<T*>(call.p.spectrum) + image * 2 * depth * bins + first * step;
  T* im = re + (call.p.planar ? depth * bins : 1);
  for (int64_t d = 0; d < depth; ++d)
    body(buffer.data + d * buffer.row * kPair<T>, valid, step, re + d * bins * step, im + d * bins * step);
}

template <class T, class S>
void analysis(const TransformParams& p) {
  const Call<T> call(p, false);
  const S* x = static_cast<const S*>(p.real);
  for_tiles(call, [&](const Tile<T>& tile, int64_t item, int64_t count) {
    gather_samples(tile, x + item * tile.samples(), count);
    analyse_tile(tile, call.first, call.inner);
    for_parts(tile, call.layout, call.spectrum_of(item), count, [&](const Lines<T>& lines, int64_t vector, int64_t step, int64_t length) {
      scatter(tile.data + vector * kLanes<T>, step, length, lines);
    });
  });
  if (call.layout != Layout::kBlocks) return;
  const Roots<T> roots = roots_of<T>(p.t.d, p.t.d.size);
  for_depth(call, [&](int64_t image, int64_t block, int64_t count, const Grid<T>& planes, const Grid<T>& buffer, T* work) {
    fft<0, T>(roots, count, {planes.data, planes.row, planes.column}, buffer, work);
    for_depths(call, image, block, buffer, write_bins<T>);
  });
}

// The biases of the items in the lanes.
template <class T>
Vector<T> biases(const Call<T>& call, int64_t item, int64_t count) {
  T values[kLanes<T>] = {};
  const T* bias = static_cast<const T*>(call.p.bias);
  for (int64_t l = 0; bias && l < count; ++l) values[l] = bias[(item + l) * call.depth / call.p.t.d.size % call.p.channels];
  return load(values);
}

template <class T, class S>
void synthesis(const TransformParams& p) {
  const Call<T> call(p, true);
  S* y = static_cast<S*>(p.real);
  if (call.layout == Layout::kBlocks) {
    const Roots<T> roots = roots_of<T>(p.t.d, p.t.d.size);
    for_depth(call, [&](int64_t image, int64_t block, int64_t count, const Grid<T>& planes, const Grid<T>& buffer, T* work) {
      for_depths(call, image, block, buffer,
                 [](T* pairs, int64_t valid, int64_t step, const T* re, const T* im) { read_bins(re, im, valid, step, pairs); });
      fft<1, T>(roots, count, {buffer.data, buffer.row, buffer.column}, planes, work);
    });
  }
  for_tiles(call, [&](const Tile<T>& tile, int64_t item, int64_t count) {
    for_parts(tile, call.layout, call.spectrum_of(item), count, [&](const Lines<T>& lines, int64_t vector, int64_t step, int64_t length) {
      gather(Lines<const T>{lines.data, lines.apart, lines.step, lines.count}, length, tile.data + vector * kLanes<T>, step);
    });
    synthesise_tile(tile, call.first, call.inner, biases(call, item, count));
    scatter_samples(tile, y + item * tile.samples(), count);
  });
}

// Lanes without a plane are wasted; on long axes the tables of matrices cost more still.
template <class T>
bool pays(const TransformParams& p) {
  const int64_t planes = p.images * p.t.d.size;
  return 2 * planes >= kLanes<T> || planes * (p.t.h.size + p.t.w.size) >= 24 * kLanes<T>;
}

}  // namespace

bool whole_serves(const TransformParams& p) { return p.t.w.roots && (p.dtype == DType::kFloat64 ? pays<double>(p) : pays<float>(p)); }

void whole_analysis(const TransformParams& p) {
  by_dtype(p.dtype, [&](auto types) { analysis<typename decltype(types)::Compute, typename decltype(types)::Storage>(p); });
}
void whole_synthesis(const TransformParams& p) {
  by_dtype(p.dtype, [&](auto types) { synthesis<typename decltype(types)::Compute, typename decltype(types)::Storage>(p); });
}

}  // namespace fastseg::FASTSEG_ISA
