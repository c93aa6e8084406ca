// 1×1 convolutions with an epilogue, and the affine ReLU that follows one.
//   z[b, g, o, m] = Σ_i weight[g, o, i]·x[b, g, i, m] + addend      out = epilogue(z)
#include "../parallel.h"
#include "product.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Points of a task: a run, but those whose partial sums are wanted have their own length.
int64_t part_points(const PointwiseParams& p) {
  if (p.epilogue == Epilogue::kMoments) return kMomentPoints;
  return p.weight_gradient ? round_up(ceil_div(p.points, kGradientParts), kRunPoints) : kRunPoints;
}

template <Epilogue kEpilogue, class T>
void run_part(const PointwiseParams& p, int64_t image, int64_t part, int64_t row, const Workspace<T>& work, T* z) {
  const int64_t length = part_points(p), left = p.points - part * length, count = left < length ? left : length;
  T* moments = static_cast<T*>(p.partial) + row * 2 * p.groups * p.outputs + image % p.groups * p.outputs;
  for (int64_t first = 0; first < count; first += kRunPoints) {
    const Run run = run_at(p, image, part * length + first, count - first < kRunPoints ? count - first : kRunPoints);
    pack_points(p, run, work.points);
    multiply_run(p, run, work, z, kRunStride<T>);
    finish_run<kEpilogue>(p, run, z, kRunStride<T>, moments);
    if (p.weight_gradient) add_weight_gradient(p, run, work, z, kRunStride<T>);
  }
  if (p.weight_gradient) keep_weight_gradient(p, image % p.groups, row, work);
}

template <Epilogue kEpilogue, class T>
void pointwise(const PointwiseParams& p) {
  const int64_t total = Workspace<T>::count(p) + p.outputs * kRunStride<T>;
  const T* weights = packed_weights<T>(p, total);
  const int64_t parts = ceil_div(p.points, part_points(p)), tasks = p.batch * p.groups * parts;
  auto run = [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(total);
    const Workspace<T> work(p, weights, scratch);
    T* z = scratch.take(p.outputs * kRunStride<T>);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / parts, part = task % parts;
      run_part<kEpilogue>(p, image, part, image / p.groups * parts + part, work, z);
    }
  };
  const int threads = useful_threads(p.batch * p.groups * p.outputs * (p.inputs + 8) * p.points, p.lane.threads);
  parallel_for(tasks, tasks / (int64_t{threads} * 8) + 1, threads, run);
  T* partial = static_cast<T*>(p.partial);
  if (kEpilogue == Epilogue::kMoments) sum_rows(partial, p.batch * parts, 2 * p.groups * p.outputs, static_cast<T*>(p.moments));
  if (p.weight_gradient) sum_rows(partial, p.batch * parts, p.groups * p.outputs * p.inputs, static_cast<T*>(p.weight_gradient));
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
  Vector<T> dscale{}, dshift{};
  for (int64_t c = 0; c < count; c += kPanel<T>) {
    Vector<T> a[2], g[2], result[2];
    load_panel<T>(z + c, count - c, a);
    if (gradient) load_panel<T>(gradient + c, count - c, g);
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

void pointwise(const PointwiseParams& p) {
  if (!pointwise_serves(p.epilogue, p.in_dtype, p.out_dtype)) throw Error("pointwise: no kernel for this epilogue and these dtypes");
  p.in_dtype == DType::kFloat64 ? by_epilogue<double>(p) : by_epilogue<float>(p);
}
void affine_relu(const AffineReluParams& p) { p.is_double ? affine_relu<double>(p) : affine_relu<float>(p); }

}  // namespace fastseg::FASTSEG_ISA
