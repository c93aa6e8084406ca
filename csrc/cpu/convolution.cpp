#include "convolution.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

namespace fastseg {
namespace {

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

Stages stages(const Convolution& c, Lane lane) { return {cpu_kernels(), c, lane}; }

// What a synthesis reads: the kept spectrum times the weights.
Block mix_spectrum(const Stages& run, Address spectrum, Address weight, int64_t batch) {
  const Convolution& c = run.c;
  Block mixed = allocate(batch * c.groups * c.outputs * c.modes * 2, c.is_double());
  run.mix(spectrum, weight, address(mixed), batch);
  return mixed;
}

// The first two thirds of a convolution: kept spectrum, then what a synthesis reads.
Block mixed_spectrum(const Stages& run, const Convolved& tensors, int64_t batch) {
  const Convolution& c = run.c;
  const int64_t in = c.groups * c.inputs;
  const Block kept = tensors.spectrum ? Block() : allocate(batch * in * c.modes * 2, c.is_double());
  const Address spectrum = tensors.spectrum ? tensors.spectrum : address(kept);
  const Block planes = allocate_planes(c.analysis, batch * in, c.is_double());
  run.analysis(c.analysis, {.real = tensors.x, .spectrum = spectrum, .planes = address(planes), .bias = nullptr}, batch * in, c.dtype);
  return mix_spectrum(run, spectrum, tensors.weight, batch);
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

// dz = gelu'(z) · gradient, z computed again: while a chunk of it is near, its part of dskip and of the adjoint transform.
void preactivation_gradients(const Stages& run, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, Address mixed,
                             Address dz) {
  const Convolution& c = run.c;
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const int64_t weights = out * c.inputs;
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              partial = allocate(chunks.samples * kGradientParts * weights, c.is_double());
  chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
    const int64_t kept = first * out * c.modes * 2 * bytes;
    const Address z = dz + first * out * c.points() * bytes;
    run.synthesis(c.synthesis, {.real = z, .spectrum = mixed + kept, .planes = address(planes), .bias = g.bias}, count * out, out,
                  c.wide());
    PointwiseParams p = run.skip_product(g.skip, count, Epilogue::kGeluGradient);
    p.x = g.x + first * in * c.stored(), p.addend = p.out = z;
    p.factor = g.gradient + first * out * c.points() * c.stored(), p.out_dtype = c.wide();
    if (g.dskip) p.weight_gradient = g.dskip + chunk * weights * bytes, p.partial = partial.get();
    run.kernels.pointwise(p);
    run.analysis(adjoint.analysis, {.real = z, .spectrum = g.grad_mixed + kept, .planes = address(planes), .bias = nullptr}, count * out,
                 c.wide());
  });
}

// dx = adjoint synthesis of the gradient of the spectrum + skipᵀ · dz
void input_gradient(const Stages& run, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, Address dz) {
  const Convolution& c = run.c;
  const int64_t m = c.modes, in = c.groups * c.inputs, out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const Block spectrum = allocate(chunks.batch * in * m * 2, c.is_double());
  run.mix(g.grad_mixed, g.weight, address(spectrum), chunks.batch, true);
  const bool in_place = c.dtype == c.wide();
  const Block planes = allocate_planes(adjoint.synthesis, chunks.samples * in, c.is_double()),
              through = in_place ? Block() : allocate(chunks.samples * in * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const Address target = g.dx + first * in * c.points() * c.stored(), z = in_place ? target : address(through);
    const Address from = address(spectrum) + first * in * m * 2 * bytes;
    run.synthesis(adjoint.synthesis, {.real = z, .spectrum = from, .planes = address(planes), .bias = nullptr}, count * in, in, c.wide());
    PointwiseParams p = run.skip_product(g.skip, count, Epilogue::kNone);
    p.x = dz + first * out * c.points() * bytes, p.addend = z, p.out = target;
    std::swap(p.inputs, p.outputs);
    p.transposed = true, p.in_dtype = c.wide();
    run.kernels.pointwise(p);
  });
}

}  // namespace

void cpu_convolve(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane) {
  const Stages run = stages(c, lane);
  const Block mixed = mixed_spectrum(run, tensors, batch);
  const int64_t out = c.groups * c.outputs;
  const Block planes = allocate_planes(c.synthesis, batch * out, c.is_double());
  run.synthesis(c.synthesis, {.real = tensors.y, .spectrum = address(mixed), .planes = address(planes), .bias = tensors.bias}, batch * out,
                out, c.dtype);
}

void cpu_convolve_block(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane) {
  const Stages run = stages(c, lane);
  const Block mixed = mixed_spectrum(run, tensors, batch);
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const Chunks chunks(c, batch, bytes);
  const bool in_place = c.dtype == c.wide();
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              convolved = in_place ? Block() : allocate(chunks.samples * out * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const Address target = tensors.y + first * out * c.points() * c.stored(), z = in_place ? target : address(convolved);
    const Address from = address(mixed) + first * out * c.modes * 2 * bytes;
    run.synthesis(c.synthesis, {.real = z, .spectrum = from, .planes = address(planes), .bias = tensors.bias}, count * out, out, c.wide());
    PointwiseParams p = run.skip_product(tensors.skip, count, Epilogue::kGelu);
    p.x = tensors.x + first * in * c.stored(), p.addend = z, p.out = target;
    run.kernels.pointwise(p);
  });
}

void convolve_block_backward(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, int64_t batch, Lane lane) {
  const Stages run = stages(c, lane);
  const int64_t points = c.groups * c.outputs * c.points();
  const Block mixed = mix_spectrum(run, g.spectrum, g.weight, batch), dz = allocate(batch * points, c.is_double());
  const Chunks chunks(c, batch, c.is_double() ? 8 : 4);
  preactivation_gradients(run, adjoint, g, chunks, address(mixed), address(dz));
  if (g.dx) input_gradient(run, adjoint, g, chunks, address(dz));
}

int64_t convolve_block_chunks(const Convolution& c, int64_t batch) { return Chunks(c, batch, c.is_double() ? 8 : 4).count(); }

}  // namespace fastseg
