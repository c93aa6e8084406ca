#include "convolution.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

namespace fastseg {
namespace {

Lane on(int threads) { return {.threads = threads, .stream = nullptr}; }

// From storage of `dtype`, real numbers `real`, to the spectrum; the sums over the planes' axes wait in `planes`.
void analysis(const Transform& t, Address real, Address spectrum, Address planes, int64_t images, DType dtype, int threads) {
  cpu_kernels().analysis({.t = t,
                          .real = real,
                          .spectrum = spectrum,
                          .planes = planes,
                          .bias = nullptr,
                          .images = images,
                          .channels = 1,
                          .dtype = dtype,
                          .planar = false,
                          .lane = on(threads)});
}

// What a synthesis reads beside the spectrum, and where it writes.
struct Synthesised {
  Address planes, bias, real;
};

void synthesis(const Transform& t, Address spectrum, const Synthesised& to, int64_t images, int64_t channels, DType dtype, int threads) {
  cpu_kernels().synthesis({.t = t,
                           .real = to.real,
                           .spectrum = spectrum,
                           .planes = to.planes,
                           .bias = to.bias,
                           .images = images,
                           .channels = channels,
                           .dtype = dtype,
                           .planar = false,
                           .lane = on(threads)});
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
  cpu_kernels().mix({.a = spectrum,
                     .b = weight,
                     .out = mixed.get(),
                     .groups = c.groups,
                     .p = batch,
                     .q = o,
                     .r = i,
                     .modes = m,
                     .a_group = i * m,
                     .a_p = in * m,
                     .a_r = m,
                     .b_group = o * m,
                     .b_r = out * m,
                     .b_q = m,
                     .out_group = o * m,
                     .out_p = out * m,
                     .out_q = m,
                     .conj_a = false,
                     .conj_b = false,
                     .is_double = c.is_double(),
                     .lane = on(threads)});
  return mixed;
}

// Its transpose: the gradient of what a synthesis read times the conjugate weights, the gradient of the kept spectrum.
Block mix_gradient(const Convolution& c, Address grad_mixed, Address weight, int64_t batch, int threads) {
  const int64_t i = c.inputs, o = c.outputs, m = c.modes, in = c.groups * i, out = c.groups * o;
  Block spectrum = allocate(batch * in * m * 2, c.is_double());
  cpu_kernels().mix({.a = grad_mixed,
                     .b = weight,
                     .out = spectrum.get(),
                     .groups = c.groups,
                     .p = batch,
                     .q = i,
                     .r = o,
                     .modes = m,
                     .a_group = o * m,
                     .a_p = out * m,
                     .a_r = m,
                     .b_group = o * m,
                     .b_r = m,
                     .b_q = out * m,
                     .out_group = i * m,
                     .out_p = in * m,
                     .out_q = m,
                     .conj_a = false,
                     .conj_b = true,
                     .is_double = c.is_double(),
                     .lane = on(threads)});
  return spectrum;
}

// The first two thirds of a convolution: kept spectrum, then what a synthesis reads.
Block mixed_spectrum(const Convolution& c, const Convolved& tensors, int64_t batch, int threads) {
  const int64_t in = c.groups * c.inputs;
  const Block kept = tensors.spectrum ? Block() : allocate(batch * in * c.modes * 2, c.is_double());
  const Address spectrum = tensors.spectrum ? tensors.spectrum : address(kept);
  const Block planes = allocate_planes(c.analysis, batch * in, c.is_double());
  analysis(c.analysis, tensors.x, spectrum, address(planes), batch * in, c.dtype, threads);
  return mix_spectrum(c, spectrum, tensors.weight, batch, threads);
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

// The product of the skip over some samples, x to out; addresses are theirs, `addend` may be `out`.
PointwiseParams skip_product(const Convolution& c, Address skip, int64_t samples, Epilogue epilogue, int threads) {
  PointwiseParams p{};
  p.weight = skip, p.batch = samples, p.groups = c.groups, p.outputs = c.outputs, p.inputs = c.inputs, p.points = c.points();
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
    synthesis(c.synthesis, mixed + kept, {.planes = address(planes), .bias = g.bias, .real = z}, count * out, out, wide(c), threads);
    PointwiseParams p = skip_product(c, g.skip, count, Epilogue::kGeluGradient, threads);
    p.x = g.x + first * in * c.stored(), p.addend = p.out = z;
    p.factor = g.gradient + first * out * c.points() * c.stored(), p.out_dtype = wide(c);
    if (g.dskip) p.weight_gradient = g.dskip + chunk * weights * bytes, p.partial = partial.get();
    cpu_kernels().pointwise(p);
    analysis(adjoint.analysis, z, g.grad_mixed + kept, address(planes), count * out, wide(c), threads);
  });
}

// dx = adjoint synthesis of the gradient of the spectrum + skipᵀ · dz
void input_gradient(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, Address dz,
                    int threads) {
  const int64_t m = c.modes, in = c.groups * c.inputs, out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const Block spectrum = mix_gradient(c, g.grad_mixed, g.weight, chunks.batch, threads);
  const bool in_place = c.dtype == wide(c);
  const Block planes = allocate_planes(adjoint.synthesis, chunks.samples * in, c.is_double()),
              through = in_place ? Block() : allocate(chunks.samples * in * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const Address target = g.dx + first * in * c.points() * c.stored(), z = in_place ? target : address(through);
    synthesis(adjoint.synthesis, address(spectrum) + first * in * m * 2 * bytes, {.planes = address(planes), .bias = nullptr, .real = z},
              count * in, in, wide(c), threads);
    PointwiseParams p = skip_product(c, g.skip, count, Epilogue::kNone, threads);
    p.x = dz + first * out * c.points() * bytes, p.addend = z, p.out = target;
    std::swap(p.inputs, p.outputs);
    p.transposed = true, p.in_dtype = wide(c);
    cpu_kernels().pointwise(p);
  });
}

}  // namespace

void convolve(const Convolution& c, const Convolved& tensors, int64_t batch, int threads) {
  const Block mixed = mixed_spectrum(c, tensors, batch, threads);
  const int64_t out = c.groups * c.outputs;
  const Block planes = allocate_planes(c.synthesis, batch * out, c.is_double());
  synthesis(c.synthesis, address(mixed), {.planes = address(planes), .bias = tensors.bias, .real = tensors.y}, batch * out, out, c.dtype,
            threads);
}

void convolve_block(const Convolution& c, const Convolved& tensors, int64_t batch, int threads) {
  const Block mixed = mixed_spectrum(c, tensors, batch, threads);
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const Chunks chunks(c, batch, bytes);
  const bool in_place = c.dtype == wide(c);
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              convolved = in_place ? Block() : allocate(chunks.samples * out * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const Address target = tensors.y + first * out * c.points() * c.stored(), z = in_place ? target : address(convolved);
    synthesis(c.synthesis, address(mixed) + first * out * c.modes * 2 * bytes,
              {.planes = address(planes), .bias = tensors.bias, .real = z}, count * out, out, wide(c), threads);
    PointwiseParams p = skip_product(c, tensors.skip, count, Epilogue::kGelu, threads);
    p.x = tensors.x + first * in * c.stored(), p.addend = z, p.out = target;
    cpu_kernels().pointwise(p);
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
