#include "convolution.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

namespace fastseg {
namespace {

Lane on(int threads) { return {threads, nullptr}; }

void analysis(const Transform& t, Address x, Address spectrum, Address planes, int64_t images, DType dtype, int threads) {
  cpu_kernels().analysis({t, x, spectrum, planes, nullptr, images, 1, dtype, false, on(threads)});
}

void synthesis(const Transform& t, Address spectrum, Address planes, Address bias, Address y, int64_t images, int64_t channels, DType dtype,
               int threads) {
  cpu_kernels().synthesis({t, y, spectrum, planes, bias, images, channels, dtype, false, on(threads)});
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Block = std::unique_ptr<void, Free>;

// Scratch of `count` numbers of the compute type.
Block allocate(int64_t count, bool is_double) {
  const size_t bytes = size_t(count) * (is_double ? sizeof(double) : sizeof(float));
  Block block(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  if (bytes && !block) throw std::bad_alloc();
  return block;
}

Address address(const Block& block) { return static_cast<char*>(block.get()); }

Block allocate_planes(const Transform& t, int64_t images, bool is_double) {
  return t.d.size == 1 ? Block() : allocate(images * t.d.size * round_up(t.h.kept() * t.w.kept(), 16) * 2, is_double);
}

// What a synthesis reads: the kept spectrum times the weights.
Block mix_spectrum(const Convolution& c, Address spectrum, Address weight, int64_t batch, int threads) {
  const int64_t i = c.inputs, o = c.outputs, m = c.modes, in = c.groups * i, out = c.groups * o;
  Block mixed = allocate(batch * out * m * 2, c.is_double());
  cpu_kernels().mix({spectrum, weight,  mixed.get(), c.groups, batch,   o, i,     m,     i * m,         in * m,     m,
                     o * m,    out * m, m,           o * m,    out * m, m, false, false, c.is_double(), on(threads)});
  return mixed;
}

// The first two thirds of a convolution: kept spectrum, then what a synthesis reads.
Block mixed_spectrum(const Convolution& c, Address x, Address weight, Address spectrum, int64_t batch, int threads) {
  const int64_t in = c.groups * c.inputs;
  const Block planes = allocate_planes(c.analysis, batch * in, c.is_double());
  analysis(c.analysis, x, spectrum, address(planes), batch * in, c.dtype, threads);
  return mix_spectrum(c, spectrum, weight, batch, threads);
}

// gelu(convolution + skip · x), a chunk of samples at a time: as many as fit beside their inputs in a cache of kBlockBytes, at least one.
constexpr int64_t kBlockBytes = 1 << 20;

struct Chunks {
  int64_t batch, samples;  // of all, of a chunk

  Chunks(const Convolution& c, int64_t batch, int64_t bytes) : batch(batch) {
    const int64_t fit = kBlockBytes / (c.groups * (c.inputs + c.outputs) * c.points() * bytes + 1);
    samples = fit < 1 ? 1 : fit < batch ? fit : batch;
  }
  int64_t count() const { return samples ? ceil_div(batch, samples) : 0; }
  // body(chunk, its first sample, how many)
  template <class Body>
  void each(Body&& body) const {
    for (int64_t first = 0; first < batch; first += samples) body(first / samples, first, std::min(samples, batch - first));
  }
};

DType wide(const Convolution& c) { return c.is_double() ? DType::kFloat64 : DType::kFloat32; }

// The product of the skip over some samples; addresses are theirs.
PointwiseParams skip_product(const Convolution& c, Address x, Address skip, Address addend, Address out, int64_t samples, Epilogue epilogue,
                             int threads) {
  PointwiseParams p{};
  p.x = x, p.weight = skip, p.addend = addend, p.out = out;
  p.batch = samples, p.groups = c.groups, p.outputs = c.outputs, p.inputs = c.inputs, p.points = c.points();
  p.epilogue = epilogue, p.in_dtype = p.out_dtype = c.dtype, p.lane = on(threads);
  return p;
}

// dz = gelu'(z) · gradient, z computed again: while a chunk of it is near, its part of dskip and of the adjoint transform.
void preactivation_gradients(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, Address mixed,
                             Address dz, int threads) {
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const int64_t weights = out * c.inputs;
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              partial = allocate(chunks.samples * kGradientParts * weights, c.is_double());
  chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
    const int64_t kept = first * out * c.modes * 2 * bytes;
    const Address z = dz + first * out * c.points() * bytes;
    synthesis(c.synthesis, mixed + kept, address(planes), g.bias, z, count * out, out, wide(c), threads);
    PointwiseParams p = skip_product(c, g.x + first * in * c.stored(), g.skip, z, z, count, Epilogue::kGeluGradient, threads);
    p.factor = g.gradient + first * out * c.points() * c.stored(), p.out_dtype = wide(c);
    if (g.dskip) p.weight_gradient = g.dskip + chunk * weights * bytes, p.partial = partial.get();
    cpu_kernels().pointwise(p);
    analysis(adjoint.analysis, z, g.grad_mixed + kept, address(planes), count * out, wide(c), threads);
  });
}

// dx = adjoint synthesis of the gradient of the spectrum + skipᵀ · dz
void input_gradient(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, Address dz,
                    int threads) {
  const int64_t i = c.inputs, o = c.outputs, m = c.modes, in = c.groups * i, out = c.groups * o, bytes = c.is_double() ? 8 : 4;
  const Block spectrum = allocate(chunks.batch * in * m * 2, c.is_double());
  cpu_kernels().mix({g.grad_mixed, g.weight, spectrum.get(), c.groups, chunks.batch, i, o,     m,    o * m,         out * m,    m,
                     o * m,        m,        out * m,        i * m,    in * m,       m, false, true, c.is_double(), on(threads)});
  const bool in_place = c.dtype == wide(c);
  const Block planes = allocate_planes(adjoint.synthesis, chunks.samples * in, c.is_double()),
              through = in_place ? Block() : allocate(chunks.samples * in * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const Address target = g.dx + first * in * c.points() * c.stored(), z = in_place ? target : address(through);
    synthesis(adjoint.synthesis, address(spectrum) + first * in * m * 2 * bytes, address(planes), nullptr, z, count * in, in, wide(c),
              threads);
    PointwiseParams p = skip_product(c, dz + first * out * c.points() * bytes, g.skip, z, target, count, Epilogue::kNone, threads);
    std::swap(p.inputs, p.outputs);
    p.transposed = true, p.in_dtype = wide(c);
    cpu_kernels().pointwise(p);
  });
}

}  // namespace

void convolve(const Convolution& c, Address x, Address weight, Address bias, Address spectrum, Address y, int64_t batch, int threads) {
  const Block kept = spectrum ? Block() : allocate(batch * c.groups * c.inputs * c.modes * 2, c.is_double());
  if (!spectrum) spectrum = address(kept);
  const Block mixed = mixed_spectrum(c, x, weight, spectrum, batch, threads);
  const int64_t out = c.groups * c.outputs;
  const Block planes = allocate_planes(c.synthesis, batch * out, c.is_double());
  synthesis(c.synthesis, address(mixed), address(planes), bias, y, batch * out, out, c.dtype, threads);
}

void convolve_block(const Convolution& c, Address x, Address weight, Address skip, Address bias, Address spectrum, Address y, int64_t batch,
                    int threads) {
  const Block mixed = mixed_spectrum(c, x, weight, spectrum, batch, threads);
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const Chunks chunks(c, batch, bytes);
  const bool in_place = c.dtype == wide(c);
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              convolved = in_place ? Block() : allocate(chunks.samples * out * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const Address target = y + first * out * c.points() * c.stored(), z = in_place ? target : address(convolved);
    synthesis(c.synthesis, address(mixed) + first * out * c.modes * 2 * bytes, address(planes), bias, z, count * out, out, wide(c),
              threads);
    cpu_kernels().pointwise(skip_product(c, x + first * in * c.stored(), skip, z, target, count, Epilogue::kGelu, threads));
  });
}

void convolve_block_backward(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, int64_t batch, int threads) {
  const int64_t points = c.groups * c.outputs * c.points();
  const Block mixed = mix_spectrum(c, g.spectrum, g.weight, batch, threads), dz = allocate(batch * points, c.is_double());
  const Chunks chunks(c, batch, c.is_double() ? 8 : 4);
  preactivation_gradients(c, adjoint, g, chunks, address(mixed), address(dz), threads);
  if (g.dx) input_gradient(c, adjoint, g, chunks, address(dz), threads);
}

int64_t convolve_block_chunks(const Convolution& c, int64_t batch) { return Chunks(c, batch, c.is_double() ? 8 : 4).count(); }

}  // namespace fastseg
