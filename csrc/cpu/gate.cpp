// The spatial gate of an anchor and its backward, one pass over the inputs each: a block of points at a time, channel after channel, the
// block's logits staying in registers and L1.
#include "../ops.h"
#include "../parallel.h"
#include "vector/simd.h"

// exp for the sigmoid: declared here, as the headers that declare it for C++ bring inline functions that the linker would share across
// instruction sets
extern "C" float expf(float);
extern "C" double exp(double);

namespace fastseg::FASTSEG_ISA {
namespace {

inline float exponential(float x) { return expf(x); }
inline double exponential(double x) { return exp(x); }

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

constexpr int64_t kBlock = kMomentPoints;

// One image's points first … first + count − 1.
struct Block {
  int64_t image, first, count;

  Block(const GateParams& p, int64_t index) {
    const int64_t blocks = ceil_div(p.points, kBlock);
    image = index / blocks, first = index % blocks * kBlock;
    count = p.points - first < kBlock ? p.points - first : kBlock;
  }
  int64_t at(const GateParams& p, int64_t channels, int64_t channel) const { return (image * channels + channel) * p.points + first; }
};

template <class T, class S>
void gate_block(const GateParams& p, const Block& block) {
  const T* weight = static_cast<const T*>(p.weight);
  T* logits = static_cast<T*>(p.logits) + block.image * p.points + block.first;
  T sums[kBlock], gates[kBlock];
  for (int64_t i = 0; i < block.count; ++i) sums[i] = *static_cast<const T*>(p.bias);
  for (int64_t c = 0; c < p.cond_channels; ++c) {
    const S* low = static_cast<const S*>(p.low) + block.at(p, p.cond_channels, c);
    const S* cond = static_cast<const S*>(p.cond) + block.at(p, p.cond_channels, c);
    for (int64_t i = 0; i < block.count; ++i) {
      const T a = to_compute(low[i]), b = to_compute(cond[i]);
      sums[i] += weight[c] * (a > b || a != a ? a : b);
    }
  }
  for (int64_t i = 0; i < block.count; ++i) logits[i] = sums[i], gates[i] = T(1) + sigmoid(sums[i]);
  for (int64_t c = 0; c < p.channels; ++c) {
    const S* feat = static_cast<const S*>(p.feat) + block.at(p, p.channels, c);
    S* out = static_cast<S*>(p.out) + block.at(p, p.channels, c);
    for (int64_t i = 0; i < block.count; ++i) from_compute(to_compute(feat[i]) * gates[i], out[i]);
  }
}

// dfeat, and dlogits = σ' · Σ gradient · feat.
template <class T, class S>
void feat_backward(const GateBackwardParams& p, const Block& block, T* dlogits) {
  const GateParams& f = p.forward;
  const T* logits = static_cast<const T*>(f.logits) + block.image * f.points + block.first;
  T open[kBlock];
  for (int64_t i = 0; i < block.count; ++i) open[i] = sigmoid(logits[i]), dlogits[i] = 0;
  for (int64_t c = 0; c < f.channels; ++c) {
    const int64_t at = block.at(f, f.channels, c);
    const S* feat = static_cast<const S*>(f.feat) + at;
    const S* gradient = static_cast<const S*>(p.gradient) + at;
    S* dfeat = static_cast<S*>(p.dfeat) + at;
    for (int64_t i = 0; i < block.count; ++i) {
      const T g = to_compute(gradient[i]);
      dlogits[i] += g * to_compute(feat[i]);
      from_compute(g * (T(1) + open[i]), dfeat[i]);
    }
  }
  for (int64_t i = 0; i < block.count; ++i) dlogits[i] *= open[i] * (T(1) - open[i]);
}

// dlow and dcond of a block; its share of dweight and dbias goes to `partial`.
template <class T, class S>
void cond_backward(const GateBackwardParams& p, const Block& block, const T* dlogits, T* partial) {
  const GateParams& f = p.forward;
  const T* weight = static_cast<const T*>(f.weight);
  for (int64_t c = 0; c < f.cond_channels; ++c) {
    const int64_t at = block.at(f, f.cond_channels, c);
    const S* low = static_cast<const S*>(f.low) + at;
    const S* cond = static_cast<const S*>(f.cond) + at;
    S* dlow = static_cast<S*>(p.dlow) + at;
    S* dcond = static_cast<S*>(p.dcond) + at;
    T sum = 0;
    for (int64_t i = 0; i < block.count; ++i) {
      const T a = to_compute(low[i]), b = to_compute(cond[i]), through = weight[c] * dlogits[i];
      const T share = a > b || a != a ? T(1) : a == b ? T(0.5) : T(0);
      sum += dlogits[i] * (share > T(0) ? a : b);
      from_compute(share * through, dlow[i]);
      from_compute((T(1) - share) * through, dcond[i]);
    }
    partial[c] = sum;
  }
  T sum = 0;
  for (int64_t i = 0; i < block.count; ++i) sum += dlogits[i];
  partial[f.cond_channels] = sum;
}

template <class Body>
void for_blocks(const GateParams& p, Body&& body) {
  const int64_t count = moment_blocks(p.batch, p.points), work = p.batch * p.points * (p.cond_channels + p.channels) * 2;
  const int threads = useful_threads(work, p.lane.threads);
  auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(Block(p, i), i);
  };
  parallel_for(count, count / (int64_t{threads} * 8) + 1, threads, run);
}

template <class T, class S>
struct Gate {
  static void forward(const GateParams& p) {
    for_blocks(p, [&](const Block& block, int64_t) { gate_block<T, S>(p, block); });
  }

  static void backward(const GateBackwardParams& p) {
    const GateParams& f = p.forward;
    const int64_t width = f.cond_channels + 1;
    T* partial = static_cast<T*>(p.partial);
    for_blocks(f, [&](const Block& block, int64_t index) {
      T dlogits[kBlock];
      feat_backward<T, S>(p, block, dlogits);
      cond_backward<T, S>(p, block, dlogits, partial + index * width);
    });
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < moment_blocks(f.batch, f.points); ++i) sum += double(partial[i * width + c]);
      *(c < f.cond_channels ? static_cast<T*>(p.dweight) + c : static_cast<T*>(p.dbias)) = T(sum);
    }
  }
};

}  // namespace

void gate(const GateParams& p) {
  by_dtype(p.dtype, [&](auto t) { Gate<typename decltype(t)::Compute, typename decltype(t)::Storage>::forward(p); });
}
void gate_backward(const GateBackwardParams& p) {
  by_dtype(p.forward.dtype, [&](auto t) { Gate<typename decltype(t)::Compute, typename decltype(t)::Storage>::backward(p); });
}

}  // namespace fastseg::FASTSEG_ISA
