// The product of a 1×1 convolution and its epilogues, a run of neighbouring points at a time: points of every input are repacked into
// panels, so that each leaves memory once and channels a power of two apart do no harm; the sums of a run stay in a cache, where its
// epilogue then sweeps them row by row, one stream of results at a time.
#pragma once

#include "tiles.h"
#include "vector/gelu.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t kRunPoints = 512;  // packed points and sums of 16 channels fill half an L1 cache each

// Rows of sums a power of two apart would share cache sets.
template <class T>
constexpr int64_t kRunStride = kRunPoints + kPanel<T>;

// Neighbouring points of one group of one batch entry.
struct Run {
  int64_t x, out;        // numbers in front of the first point in the tensors
  int64_t group, count;  // points, at most kRunPoints
};

Run run_at(const PointwiseParams& p, int64_t image, int64_t first, int64_t count) {
  return {image * p.inputs * p.points + first, image * p.outputs * p.points + first, image % p.groups, count};
}

// The panel of points at `row`, zeros behind its `valid` first.
template <class T, class S>
inline void load_panel(const S* row, int64_t valid, Vector<T> (&values)[2]) {
  T copy[kPanel<T>];
  const T* from = loadable_row<T>(row, 0, valid < kPanel<T> ? valid : kPanel<T>, copy);
  for (int v = 0; v < 2; ++v) values[v] = load(from + v * kLanes<T>);
}

template <class T>
inline T sum_of(Vector<T> v) {
  T total = 0;
  for (int i = 0; i < kLanes<T>; ++i) total += v[i];
  return total;
}

// out[column] = Σ_row partial[row][column], in pairs: partial is spent.
template <class T>
void sum_rows(T* partial, int64_t rows, int64_t columns, T* out) {
  for (int64_t step = 1; step < rows; step *= 2)
    for (int64_t r = 0; r + step < rows; r += 2 * step) {
      T* __restrict a = partial + r * columns;
      const T* __restrict b = partial + (r + step) * columns;
      for (int64_t c = 0; c < columns; ++c) a[c] += b[c];
    }
  for (int64_t c = 0; c < columns; ++c) out[c] = rows ? partial[c] : T(0);
}

// What a thread keeps beside the sums of its runs.
template <class T>
struct Workspace {
  const T* weights;          // [group][tile][input][row of the tile]
  T* points;                 // [panel][input][kPanel]
  Vector<T>* gradient = {};  // [output][input]

  static int64_t weight_count(const PointwiseParams& p) { return round_up(p.groups * p.outputs * p.inputs, 16); }
  static int64_t point_count(const PointwiseParams& p) { return p.inputs * round_up(kRunPoints, kPanel<T>); }
  static int64_t gradient_count(const PointwiseParams& p) { return p.weight_gradient ? p.outputs * p.inputs * kLanes<T> : 0; }
  static int64_t count(const PointwiseParams& p) { return weight_count(p) + point_count(p) + gradient_count(p) + 48; }

  // Every thread's scratch is laid out alike, so the one that packs the weights does not lose them to its own runs.
  Workspace(const PointwiseParams& p, const T* packed_weights, Scratch<T>& scratch) : weights(packed_weights) {
    scratch.take(weight_count(p));
    points = scratch.take(point_count(p));
    gradient = reinterpret_cast<Vector<T>*>(scratch.take(gradient_count(p)));
    for (int64_t i = 0; i * kLanes<T> < gradient_count(p); ++i) gradient[i] = Vector<T>{};
  }
};

template <class T>
void pack_weights(const PointwiseParams& p, T* packed) {
  const int64_t row_stride = p.transposed ? 1 : p.inputs, input_stride = p.transposed ? p.outputs : 1;
  for (int64_t g = 0; g < p.groups; ++g) {
    const T* weight = static_cast<const T*>(p.weight) + g * p.outputs * p.inputs;
    for_row_tiles<kTileRows>(p.outputs, [&](auto tile, int64_t first) {
      for (int64_t i = 0; i < p.inputs; ++i)
        for (int r = 0; r < decltype(tile)::value; ++r) *packed++ = weight[(first + r) * row_stride + i * input_stride];
    });
  }
}

// The weights in the order of the tiles, at the start of a scratch of `total` numbers.
template <class T>
const T* packed_weights(const PointwiseParams& p, int64_t total) {
  T* packed = Scratch<T>(total).take(Workspace<T>::weight_count(p));
  pack_weights(p, packed);
  return packed;
}

template <class T>
FASTSEG_APART void pack_points(const PointwiseParams& p, const Run& run, T* packed) {
  with_storage<T>(p.in_dtype, [&](auto storage) {
    const auto* x = static_cast<const typename decltype(storage)::type*>(p.x) + run.x;
    for (int64_t c = 0; c < run.count; c += kPanel<T>)
      for (int64_t i = 0; i < p.inputs; ++i, packed += kPanel<T>) {
        Vector<T> values[2];
        load_panel<T>(x + i * p.points + c, run.count - c, values);
        for (int v = 0; v < 2; ++v) store(packed + v * kLanes<T>, values[v]);
      }
  });
}

// The lines of the panel at point `c` in every channel of the result: a sweep that only writes would wait for each of them.
inline void fetch_results(const PointwiseParams& p, const Run& run, int64_t c) {
  const int64_t bytes = p.out_dtype == DType::kFloat64 ? 8 : p.out_dtype == DType::kFloat32 ? 4 : 2;
  const char* line = static_cast<const char*>(p.out) + (run.out + c) * bytes;
  for (int64_t o = 0; o < p.outputs; ++o) __builtin_prefetch(line + o * p.points * bytes, 1, 2);
}

// z[output][point] = weight · x; panels are whole.
template <class T>
FASTSEG_APART void multiply_run(const PointwiseParams& p, const Run& run, const Workspace<T>& work, T* z, int64_t z_stride) {
  const T* weight = work.weights + run.group * p.outputs * p.inputs;
  for (int64_t c = 0; c < run.count; c += kPanel<T>) {
    fetch_results(p, run, c);
    for_row_tiles<kTileRows>(p.outputs, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value;
      T* sums = z + first * z_stride + c;
      Vector<T> acc[kRows][2] = {};
      multiply_add<kRows, 2>(p.inputs, weight + first * p.inputs, 1, kRows, work.points + c * p.inputs, kPanel<T>, acc);
      FASTSEG_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTSEG_UNROLL
        for (int v = 0; v < 2; ++v) store(sums + i * z_stride + v * kLanes<T>, acc[i][v]);
      }
    });
  }
}

// gradient[output][input] += Σ_point z · x
template <class T>
void add_weight_gradient(const PointwiseParams& p, const Run& run, const Workspace<T>& work, const T* z, int64_t z_stride) {
  constexpr int kInputs = 2;
  const int64_t vectors = ceil_div(run.count, kPanel<T>);
  for_row_tiles<kTileRows>(p.outputs, [&](auto tile, int64_t first) {
    constexpr int kRows = decltype(tile)::value;
    for (int64_t i = 0; i < p.inputs; i += kInputs) {
      const int64_t second = i + 1 < p.inputs ? kPanel<T> : 0;  // an odd last one is done twice and kept once
      Vector<T> acc[kRows][kInputs] = {};
      const T* x = work.points + i * kPanel<T>;
      const T* rows = z + first * z_stride;
      for (int64_t c = 0; c < vectors; ++c, x += p.inputs * kPanel<T>, rows += kPanel<T>) {
        FASTSEG_UNROLL
        for (int v = 0; v < 2; ++v) {
          const Vector<T> a = load(x + v * kLanes<T>), b = load(x + second + v * kLanes<T>);
          FASTSEG_UNROLL
          for (int r = 0; r < kRows; ++r) {
            const Vector<T> row = load(rows + r * z_stride + v * kLanes<T>);
            acc[r][0] += row * a, acc[r][1] += row * b;
          }
        }
      }
      for (int r = 0; r < kRows; ++r) {
        Vector<T>* sums = work.gradient + (first + r) * p.inputs + i;
        sums[0] += acc[r][0];
        if (second) sums[1] += acc[r][1];
      }
    }
  });
}

// What one task adds to the gradient of the weights, in its `row` of partial sums.
template <class T>
void keep_weight_gradient(const PointwiseParams& p, int64_t group, int64_t row, const Workspace<T>& work) {
  const int64_t count = p.outputs * p.inputs;
  T* partial = static_cast<T*>(p.partial) + (row * p.groups + group) * count;
  for (int64_t i = 0; i < count; ++i) partial[i] = sum_of<T>(work.gradient[i]), work.gradient[i] = Vector<T>{};
}

// z of `kEpilogue` → what is written.
template <Epilogue kEpilogue, class T>
inline Vector<T> activated(Vector<T> z, Vector<T> factor, T scale, T shift) {
  if constexpr (kEpilogue == Epilogue::kGelu)
    return gelu(z);
  else if constexpr (kEpilogue == Epilogue::kGeluGradient)
    return gelu_gradient(z) * factor;
  else if constexpr (kEpilogue == Epilogue::kAffineRelu)
    return relu<T>(scale * z + shift);
  else
    return z;
}

// One channel of a run: z, plus the addend where there is one, through the epilogue to `out`. What was written is left in z too where
// the gradient of the weights wants it; `moments` are the channel's sums.
template <Epilogue kEpilogue, class T, class S, class F>
inline void finish_row(const PointwiseParams& p, int64_t channel, int64_t count, T* z, const T* addend, const F* factor, S* out,
                       T* moments) {
  T scale{}, shift{};
  if constexpr (kEpilogue == Epilogue::kAffineRelu)
    scale = static_cast<const T*>(p.scale)[channel], shift = static_cast<const T*>(p.shift)[channel];
  Vector<T> sum{}, squares{};
  for (int64_t c = 0; c < count; c += kPanel<T>) {
    Vector<T> values[2] = {load(z + c), load(z + c + kLanes<T>)}, extra[2] = {};
    if (addend) {
      load_panel<T>(addend + c, count - c, extra);
      for (int v = 0; v < 2; ++v) values[v] += extra[v];
    }
    if constexpr (kEpilogue == Epilogue::kGeluGradient) load_panel<T>(factor + c, count - c, extra);
    for (int v = 0; v < 2; ++v) {
      if constexpr (kEpilogue == Epilogue::kMoments) sum += values[v], squares += values[v] * values[v];
      values[v] = activated<kEpilogue, T>(values[v], extra[v], scale, shift);
      if (kEpilogue == Epilogue::kGeluGradient && p.weight_gradient) store(z + c + v * kLanes<T>, values[v]);
    }
    store_panel<false, T>(out + c, values, count - c);
  }
  if constexpr (kEpilogue == Epilogue::kMoments) moments[0] = sum_of<T>(sum), moments[p.groups * p.outputs] = sum_of<T>(squares);
}

template <Epilogue kEpilogue, class T>
void finish_run(const PointwiseParams& p, const Run& run, T* z, int64_t z_stride, T* moments) {
  auto finish = [&](auto factor_storage, auto storage) {
    using S = typename decltype(storage)::type;
    using F = typename decltype(factor_storage)::type;
    for (int64_t o = 0; o < p.outputs; ++o) {
      const int64_t index = run.out + o * p.points;
      finish_row<kEpilogue>(p, run.group * p.outputs + o, run.count, z + o * z_stride,
                            p.addend ? static_cast<const T*>(p.addend) + index : nullptr, static_cast<const F*>(p.factor) + index,
                            static_cast<S*>(p.out) + index, moments + o);
    }
  };
  // what pointwise_serves allows
  if constexpr (kEpilogue == Epilogue::kGeluGradient)
    with_storage<T>(p.in_dtype, [&](auto in) { finish(in, Storage<T>{}); });
  else if constexpr (kEpilogue == Epilogue::kNone || kEpilogue == Epilogue::kGelu)
    with_storage<T>(p.out_dtype, [&](auto out) { finish(Storage<T>{}, out); });
  else
    finish(Storage<T>{}, Storage<T>{});
}

}  // namespace
}  // namespace fastseg::FASTSEG_ISA
