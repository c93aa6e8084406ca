// A gain on every bin of two-dimensional spectra: transform, product and inverse of as many channels at once as a vector has lanes, in one
// visit of their planes. The gain's gradient is summed over a chunk of the batch on the way.
#include "../parallel.h"
#include "whole.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Channels [channel, channel + count) of batch entries [begin, end).
struct Piece {
  int64_t channel, count, begin, end;
};

template <class T>
struct Work {
  Tile<T> tile, seen;
  T *gain, *sums;  // [bins, parts] vectors

  static int64_t gains(const FilterParams& p) { return p.t.h.size * Tile<T>::row(p.t) * p.parts * kLanes<T>; }
  static int64_t numbers(const FilterParams& p) { return 2 * (Tile<T>::numbers(p.t) + gains(p)) + Tile<T>::scratch(p.t) + 80; }
  Work(const FilterParams& p, Scratch<T> scratch)
      : tile{p.t, scratch.take(Tile<T>::numbers(p.t)), scratch.take(Tile<T>::scratch(p.t))},
        seen{p.t, scratch.take(Tile<T>::numbers(p.t)), tile.work},
        gain(scratch.take(gains(p))),
        sums(scratch.take(gains(p))) {}
};

template <class T>
void multiply_by_gain(const FilterParams& p, const T* gain, const Tile<T>& tile) {
  T* z = tile.data;
  for (int64_t i = 0; i < tile.bins(); ++i, z += kPair<T>, gain += p.parts * kLanes<T>) {
    const Pair<T> x = load_pair(z);
    if (p.parts == 1) {
      const Vector<T> g = load(gain);
      store_pair(z, Pair<T>{g * x.re, g * x.im});
    } else {
      const Pair<T> g = load_pair(gain);
      store_pair(z, x * (p.conjugate ? conj(g) : g));
    }
  }
}

// sums += conj(x)·gradient, its real part for a real gain.
template <class T>
void add_products(const FilterParams& p, const Tile<T>& x, const Tile<T>& gradient, T* sums) {
  for (int64_t i = 0; i < x.bins(); ++i, sums += p.parts * kLanes<T>) {
    const Pair<T> product = conj(load_pair(x.data + i * kPair<T>)) * load_pair(gradient.data + i * kPair<T>);
    if (p.parts == 1)
      store(sums, load(sums) + product.re);
    else
      store_pair(sums, load_pair(sums) + product);
  }
}

// The columns between the first and the last one stand for two bins of the whole spectrum.
template <class T>
void scale_sums(const FilterParams& p, T* sums) {
  const T scale = T(1) / T(p.t.h.size * p.t.w.size);
  for (int64_t h = 0; h < p.t.h.size; ++h)
    for (int64_t k = 0; k <= p.t.w.size / 2; ++k) {
      const T factor = k == 0 || 2 * k == p.t.w.size ? scale : 2 * scale;
      for (int64_t part = 0; part < p.parts; ++part, sums += kLanes<T>) store(sums, factor * load(sums));
    }
}

template <class T, class S>
void filter_planes(const FilterParams& p, const Piece& piece, int64_t image, const Work<T>& w) {
  const int64_t first = (image * p.channels + piece.channel) * w.tile.samples();
  gather_samples(w.tile, static_cast<const S*>(p.x) + first, piece.count);
  analyse_tile(w.tile, T(1), T(1));
  if (p.seen) {
    gather_samples(w.seen, static_cast<const S*>(p.seen) + first, piece.count);
    analyse_tile(w.seen, T(1), T(1));
    add_products(p, w.seen, w.tile, w.sums);
  }
  if (!p.y) return;
  const T scale = T(1) / T(w.tile.samples());
  multiply_by_gain(p, w.gain, w.tile);
  synthesise_tile(w.tile, scale, scale, Vector<T>{});
  scatter_samples(w.tile, static_cast<S*>(p.y) + first, piece.count);
}

template <class T, class S>
void filter_piece(const FilterParams& p, const Piece& piece, int64_t chunk, const Work<T>& w) {
  const int64_t length = w.tile.bins() * p.parts;
  if (p.y) {
    const T* gain = static_cast<const T*>(p.gain) + piece.begin * p.gain_batch + piece.channel * p.gain_channel;
    gather(Lines<const T>{gain, p.gain_channel, kLanes<T>, piece.count}, length, w.gain, kLanes<T>);
  }
  for (int64_t i = 0; p.seen && i < length * kLanes<T>; ++i) w.sums[i] = 0;
  for (int64_t image = piece.begin; image < piece.end; ++image) filter_planes<T, S>(p, piece, image, w);
  if (!p.seen) return;
  scale_sums(p, w.sums);
  T* sums = static_cast<T*>(p.sums) + (chunk * p.channels + piece.channel) * length;
  scatter(w.sums, kLanes<T>, length, Lines<T>{sums, length, kLanes<T>, piece.count});
}

template <class T, class S>
void filter(const FilterParams& p) {
  const int64_t groups = ceil_div(p.channels, int64_t{kLanes<T>}), chunks = ceil_div(p.batch, p.chunk);
  auto run = [&](int64_t begin, int64_t end) {
    const Work<T> work(p, Scratch<T>(Work<T>::numbers(p)));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / chunks * kLanes<T>, first = task % chunks * p.chunk, left = p.channels - channel;
      const int64_t last = first + p.chunk < p.batch ? first + p.chunk : p.batch;
      filter_piece<T, S>(p, {channel, left < kLanes<T> ? left : int64_t{kLanes<T>}, first, last}, task % chunks, work);
    }
  };
  parallel_for(groups * chunks, 1, useful_threads(16 * p.batch * p.channels * p.t.h.size * p.t.w.size, p.lane.threads), run);
}

}  // namespace

void spectral_filter(const FilterParams& p) {
  by_dtype(p.dtype, [&](auto types) { filter<typename decltype(types)::Compute, typename decltype(types)::Storage>(p); });
}

}  // namespace fastseg::FASTSEG_ISA
