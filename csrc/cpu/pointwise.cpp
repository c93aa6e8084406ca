// 1×1 convolutions with an epilogue, and the affine ReLU that follows one.
//   z[b, g, o, m] = Σ_i weight[g, o, i]·x[b, g, i, m] + addend      out = epilogue(z)
// A block of points of every input is repacked into panels, converted on the way, so that each leaves memory once and channels a power of
// two apart do no harm; the weights are repacked once, in the order of the tiles. A tile's epilogue runs while its sums are in registers.
#include "axis.h"
#include "gelu.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Long runs of every channel: rows are pages apart. Moments are taken in blocks of their own length.
constexpr int64_t block_points(Epilogue epilogue) { return epilogue == Epilogue::kMoments ? kMomentPoints : 512; }

template <class S>
struct Storage {
  using type = S;
};

// body(Storage<S>{}) of a tensor's dtype, beside arithmetic in T.
template <class T, class Body>
inline void with_storage(DType dtype, Body&& body) {
  if constexpr (std::is_same_v<T, double>)
    body(Storage<double>{});
  else if (dtype == DType::kFloat16)
    body(Storage<Half>{});
  else if (dtype == DType::kBFloat16)
    body(Storage<BFloat16>{});
  else
    body(Storage<float>{});
}

int64_t storage_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// The panel of points that starts at number `index` of a tensor, zeros behind its `valid` first.
template <class T>
inline void load_panel(const void* tensor, DType dtype, int64_t index, int64_t valid, Vector<T> (&values)[2]) {
  with_storage<T>(dtype, [&](auto storage) {
    using S = typename decltype(storage)::type;
    T copy[kPanel<T>];
    const T* row = loadable_row<T>(static_cast<const S*>(tensor) + index, 0, valid < kPanel<T> ? valid : kPanel<T>, copy);
    for (int v = 0; v < 2; ++v) values[v] = load(row + v * kLanes<T>);
  });
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

// packed[group][tile][input][row of the tile]
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

// One block of points of one group of one batch entry.
struct Block {
  int64_t x, out;        // numbers in front of its first point in the tensors
  int64_t group, count;  // points
  int64_t partial;       // its row of partial sums
};

Block block_at(const PointwiseParams& p, int64_t task) {
  const int64_t length = block_points(p.epilogue), blocks = ceil_div(p.points, length), first = task % blocks * length,
                image = task / blocks;
  const int64_t left = p.points - first;
  return {image * p.inputs * p.points + first, image * p.outputs * p.points + first, image % p.groups, left < length ? left : length,
          image / p.groups * blocks + task % blocks};
}

template <class T>
void pack_points(const PointwiseParams& p, const Block& b, T* packed) {
  for (int64_t c = 0; c < b.count; c += kPanel<T>)
    for (int64_t i = 0; i < p.inputs; ++i, packed += kPanel<T>) {
      Vector<T> values[2];
      load_panel<T>(p.x, p.in_dtype, b.x + i * p.points + c, b.count - c, values);
      for (int v = 0; v < 2; ++v) store(packed + v * kLanes<T>, values[v]);
    }
}

// z of output `channel` at number `index` of the result → what is written; `sums` are the channel's moments so far.
template <Epilogue kEpilogue, class T>
inline void finish(const PointwiseParams& p, int64_t channel, int64_t index, int64_t valid, Vector<T>* sums, Vector<T> (&z)[2]) {
  if (p.addend) {
    Vector<T> addend[2];
    load_panel<T>(p.addend, std::is_same_v<T, double> ? DType::kFloat64 : DType::kFloat32, index, valid, addend);
    for (int v = 0; v < 2; ++v) z[v] += addend[v];
  }
  if constexpr (kEpilogue == Epilogue::kGelu) {
    for (int v = 0; v < 2; ++v) z[v] = gelu(z[v]);
  } else if constexpr (kEpilogue == Epilogue::kGeluGradient) {
    Vector<T> factor[2];
    load_panel<T>(p.factor, p.factor_dtype, index, valid, factor);
    for (int v = 0; v < 2; ++v) z[v] = gelu_gradient(z[v]) * factor[v];
  } else if constexpr (kEpilogue == Epilogue::kAffineRelu) {
    const T scale = static_cast<const T*>(p.scale)[channel], shift = static_cast<const T*>(p.shift)[channel];
    for (int v = 0; v < 2; ++v) z[v] = relu<T>(scale * z[v] + shift);
  } else if constexpr (kEpilogue == Epilogue::kMoments) {
    for (int v = 0; v < 2; ++v) sums[0] += z[v], sums[1] += z[v] * z[v];
  }
}

// Every output of one panel of points.
template <Epilogue kEpilogue, class T>
void multiply_panel(const PointwiseParams& p, const Block& b, int64_t point, const T* weight, const T* panel, Vector<T>* sums,
                    Ahead<char>& ahead) {
  const int64_t valid = b.count - point;
  for_row_tiles<kTileRows>(p.outputs, [&](auto tile, int64_t first) {
    constexpr int kRows = decltype(tile)::value;
    Vector<T> acc[kRows][2] = {};
    ahead.fetch();
    multiply_add<kRows, 2>(p.inputs, weight + first * p.inputs, 1, kRows, panel, kPanel<T>, acc);
    FASTSEG_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = first + i, index = b.out + row * p.points + point;
      finish<kEpilogue, T>(p, b.group * p.outputs + row, index, valid, sums + 2 * row, acc[i]);
      with_storage<T>(p.out_dtype, [&](auto storage) {
        store_panel<false, T>(static_cast<typename decltype(storage)::type*>(p.out) + index, acc[i], valid);
      });
    }
  });
}

template <class T>
void keep_moments(const PointwiseParams& p, const Block& b, const Vector<T>* sums) {
  const int64_t channels = p.groups * p.outputs;
  T* partial = static_cast<T*>(p.partial) + b.partial * 2 * channels + b.group * p.outputs;
  for (int64_t o = 0; o < p.outputs; ++o) partial[o] = sum_of<T>(sums[2 * o]), partial[channels + o] = sum_of<T>(sums[2 * o + 1]);
}

template <Epilogue kEpilogue, class T>
void pointwise(const PointwiseParams& p) {
  constexpr int64_t kBlockPoints = block_points(kEpilogue);
  const int64_t weights = round_up(p.groups * p.outputs * p.inputs, 16),
                points = round_up(p.inputs * round_up(kBlockPoints, kPanel<T>), 16);
  const int64_t sums = 2 * p.outputs * kLanes<T>, tiles = ceil_div(p.outputs, kTileRows) * ceil_div(kBlockPoints, kPanel<T>);
  const int64_t total = weights + points + sums, bytes = storage_bytes(p.in_dtype);
  // every thread's scratch is laid out alike, so the one that packs the weights does not lose them to its own blocks
  T* packed_weights = Scratch<T>(total).next;
  pack_weights(p, packed_weights);
  auto run = [&](int64_t begin, int64_t end) {
    T* packed = Scratch<T>(total).next + weights;
    Vector<T>* moments = reinterpret_cast<Vector<T>*>(packed + points);
    for (int64_t task = begin; task < end; ++task) {
      const Block b = block_at(p, task);
      Ahead<char> ahead{static_cast<const char*>(p.x) + block_at(p, task + 1).x * bytes, p.points * bytes, b.count * bytes,
                        task + 1 < end ? p.inputs : 0, p.inputs / tiles + 1};
      pack_points(p, b, packed);
      if (kEpilogue == Epilogue::kMoments)
        for (int64_t i = 0; i < 2 * p.outputs; ++i) moments[i] = Vector<T>{};
      const T* weight = packed_weights + b.group * p.outputs * p.inputs;
      for (int64_t c = 0; c < b.count; c += kPanel<T>) multiply_panel<kEpilogue, T>(p, b, c, weight, packed + c * p.inputs, moments, ahead);
      if (kEpilogue == Epilogue::kMoments) keep_moments<T>(p, b, moments);
    }
  };
  const int64_t tasks = p.batch * p.groups * ceil_div(p.points, kBlockPoints);
  const int threads = useful_threads(p.batch * p.groups * p.outputs * (p.inputs + 8) * p.points, p.lane.threads);
  parallel_for(tasks, tasks / (int64_t{threads} * 8) + 1, threads, run);
  if (kEpilogue == Epilogue::kMoments)
    sum_rows(static_cast<T*>(p.partial), moment_blocks(p.batch, p.points), 2 * p.groups * p.outputs, static_cast<T*>(p.moments));
}

template <class T>
void by_epilogue(const PointwiseParams& p) {
  switch (p.epilogue) {
    case Epilogue::kNone:
      return pointwise<Epilogue::kNone, T>(p);
    case Epilogue::kGelu:
      return pointwise<Epilogue::kGelu, T>(p);
    case Epilogue::kGeluGradient:
      return pointwise<Epilogue::kGeluGradient, T>(p);
    case Epilogue::kAffineRelu:
      return pointwise<Epilogue::kAffineRelu, T>(p);
    case Epilogue::kMoments:
      return pointwise<Epilogue::kMoments, T>(p);
  }
  throw Error("pointwise: unknown epilogue code");
}

// [first, first + count) of one channel's points; backward also leaves the block's two sums.
template <class T>
void affine_relu_block(const AffineReluParams& p, int64_t channel, int64_t first, int64_t count, T* sums) {
  const T scale = static_cast<const T*>(p.scale)[channel], shift = static_cast<const T*>(p.shift)[channel];
  const T* z = static_cast<const T*>(p.z) + first;
  const T* gradient = p.gradient ? static_cast<const T*>(p.gradient) + first : nullptr;
  T* out = static_cast<T*>(p.out) + first;
  constexpr DType dtype = std::is_same_v<T, double> ? DType::kFloat64 : DType::kFloat32;
  Vector<T> dscale{}, dshift{};
  for (int64_t c = 0; c < count; c += kPanel<T>) {
    Vector<T> a[2], g[2], result[2];
    load_panel<T>(z, dtype, c, count - c, a);
    if (gradient) load_panel<T>(gradient, dtype, c, count - c, g);
    for (int v = 0; v < 2; ++v) {
      const Vector<T> activation = scale * a[v] + shift;
      if (gradient) {
        const Vector<T> kept = activation > 0 ? g[v] : Vector<T>{};
        result[v] = scale * kept, dscale += kept * a[v], dshift += kept;
      } else {
        result[v] = relu<T>(activation);
      }
    }
    store_panel<false, T>(out + c, result, count - c);
  }
  if (gradient) sums[0] = sum_of<T>(dscale), sums[p.channels] = sum_of<T>(dshift);
}

template <class T>
void affine_relu(const AffineReluParams& p) {
  const int64_t blocks = ceil_div(p.points, kMomentPoints), tasks = p.batch * p.channels * blocks;
  T* partial = static_cast<T*>(p.partial);
  auto run = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks, block = task % blocks, channel = image % p.channels, first = block * kMomentPoints;
      const int64_t left = p.points - first, row = image / p.channels * blocks + block;
      affine_relu_block<T>(p, channel, image * p.points + first, left < kMomentPoints ? left : kMomentPoints,
                           p.gradient ? partial + row * 2 * p.channels + channel : nullptr);
    }
  };
  const int threads = useful_threads(4 * p.batch * p.channels * p.points, p.lane.threads);
  parallel_for(tasks, tasks / (int64_t{threads} * 8) + 1, threads, run);
  if (p.gradient) sum_rows(partial, moment_blocks(p.batch, p.points), 2 * p.channels, static_cast<T*>(p.sums));
}

}  // namespace

void pointwise(const PointwiseParams& p) { p.in_dtype == DType::kFloat64 ? by_epilogue<double>(p) : by_epilogue<float>(p); }
void affine_relu(const AffineReluParams& p) { p.is_double ? affine_relu<double>(p) : affine_relu<float>(p); }

}  // namespace fastseg::FASTSEG_ISA
