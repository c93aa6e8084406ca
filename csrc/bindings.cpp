// The only file that knows pybind11: integers (pointers, sizes, codes) → Params → kernel, without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <utility>

#include "ops.h"

namespace py = pybind11;
using namespace fastseg;

namespace {

// cos, sin, size, positive, negative, padded
using AxisTuple = std::tuple<uintptr_t, uintptr_t, int64_t, int64_t, int64_t, int64_t>;

template <class T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Axis make_axis(const AxisTuple& a) {
  const Axis axis{pointer(std::get<0>(a)), pointer(std::get<1>(a)), std::get<2>(a), std::get<3>(a),
                  std::get<4>(a),          std::get<5>(a),          nullptr};
  if (axis.size < 1 || axis.positive < 1 || axis.negative < 0 || axis.padded % 16)
    throw Error("axis: size " + std::to_string(axis.size) + ", kept " + std::to_string(axis.positive) + " + " +
                std::to_string(axis.negative));
  return axis;
}

Transform make_transform(const AxisTuple& d, const AxisTuple& h, const AxisTuple& w, std::array<uintptr_t, 3> roots, double scale,
                         bool weighted) {
  Transform t{make_axis(d), make_axis(h), make_axis(w), scale, weighted};
  t.d.roots = pointer(roots[0]), t.h.roots = pointer(roots[1]), t.w.roots = pointer(roots[2]);
  return t;
}

// `lane`: the number of threads on a CPU, the handle of a stream on a GPU.
Lane make_lane(int64_t lane) {
  if (lane < 0) throw Error("lane: threads must be positive");
  return {lane > 0 ? int(lane) : 1, reinterpret_cast<void*>(lane)};
}

TransformParams transform_params(const Transform& t, uintptr_t real, uintptr_t spectrum, uintptr_t planes, uintptr_t bias, int64_t images,
                                 int64_t channels, int dtype, bool planar, int64_t lane) {
  if (images < 0 || channels < 1) throw Error("transform: images and channels must be positive");
  if (images > 0 && (!real || !spectrum || (t.d.size > 1 && !planes))) throw Error("transform: null pointer");
  return {t,      pointer(real), pointer(spectrum),         pointer(planes), pointer(bias),
          images, channels,      static_cast<DType>(dtype), planar,          make_lane(lane)};
}

// The functions of one kernel table, as `_C.cpu` and `_C.cuda` show them.
using Table = const Kernels& (*)();

template <Table table>
void analysis(const Transform& t, uintptr_t x, uintptr_t spectrum, uintptr_t planes, int64_t images, int dtype, bool planar, int64_t lane) {
  table().analysis(transform_params(t, x, spectrum, planes, 0, images, 1, dtype, planar, lane));
}

template <Table table>
void synthesis(const Transform& t, uintptr_t spectrum, uintptr_t planes, uintptr_t bias, uintptr_t y, int64_t images, int64_t channels,
               int dtype, bool planar, int64_t lane) {
  table().synthesis(transform_params(t, y, spectrum, planes, bias, images, channels, dtype, planar, lane));
}

using Strides = std::array<int64_t, 3>;

// extents: groups, p, q, r, modes; strides in complex numbers: a (group, p, r), b (group, r, q), out (group, p, q)
template <Table table>
void mix(uintptr_t a, uintptr_t b, uintptr_t out, std::array<int64_t, 5> n, Strides sa, Strides sb, Strides so, bool conj_a, bool conj_b,
         bool is_double, int64_t lane) {
  for (int64_t extent : n)
    if (extent < 0) throw Error("mix: negative extent");
  table().mix({pointer(a), pointer(b), pointer(out), n[0],  n[1],  n[2],  n[3],   n[4],   sa[0],     sa[1],          sa[2],
               sb[0],      sb[1],      sb[2],        so[0], so[1], so[2], conj_a, conj_b, is_double, make_lane(lane)});
}

// extents: batch, groups, outputs, inputs, points; dtypes: in, factor, out
template <Table table>
void pointwise(uintptr_t x, uintptr_t weight, uintptr_t addend, uintptr_t factor, uintptr_t scale, uintptr_t shift, uintptr_t out,
               uintptr_t moments, uintptr_t partial, std::array<int64_t, 5> n, bool transposed, int epilogue, std::array<int, 3> dtypes,
               int64_t lane) {
  for (int64_t extent : n)
    if (extent < 0) throw Error("pointwise: negative extent");
  const Epilogue kind = static_cast<Epilogue>(epilogue);
  const bool complete = (kind != Epilogue::kGeluGradient || factor) && (kind != Epilogue::kAffineRelu || (scale && shift)) &&
                        (kind != Epilogue::kMoments || (moments && partial));
  const bool empty = n[0] * n[1] * n[2] * n[4] == 0;
  if (!empty && (!out || !complete || (n[3] > 0 && (!x || !weight)))) throw Error("pointwise: null pointer");
  table().pointwise({pointer(x),
                     pointer(weight),
                     pointer(addend),
                     pointer(factor),
                     pointer(scale),
                     pointer(shift),
                     pointer(out),
                     pointer(moments),
                     pointer(partial),
                     n[0],
                     n[1],
                     n[2],
                     n[3],
                     n[4],
                     transposed,
                     kind,
                     static_cast<DType>(dtypes[0]),
                     static_cast<DType>(dtypes[1]),
                     static_cast<DType>(dtypes[2]),
                     make_lane(lane),
                     nullptr});
}

// extents: batch, channels, points
template <Table table>
void affine_relu(uintptr_t z, uintptr_t gradient, uintptr_t scale, uintptr_t shift, uintptr_t out, uintptr_t sums, uintptr_t partial,
                 std::array<int64_t, 3> n, bool is_double, int64_t lane) {
  for (int64_t extent : n)
    if (extent < 0) throw Error("affine_relu: negative extent");
  if (n[0] * n[1] * n[2] > 0 && (!z || !scale || !shift || !out || (gradient && (!sums || !partial))))
    throw Error("affine_relu: null pointer");
  table().affine_relu({pointer(z), pointer(gradient), pointer(scale), pointer(shift), pointer(out), pointer(sums), pointer(partial), n[0],
                       n[1], n[2], is_double, make_lane(lane)});
}

void check_pointers(const char* kernel, int64_t count, std::initializer_list<uintptr_t> addresses) {
  for (uintptr_t address : addresses)
    if (count > 0 && !address) throw Error(std::string(kernel) + ": null pointer");
}

// extents: images, tap images, D, H, W, radius
template <Table table>
void gaussian(uintptr_t x, uintptr_t low, uintptr_t high, uintptr_t taps, uintptr_t radii, uintptr_t scratch, std::array<int64_t, 6> n,
              int padding, bool adjoint, bool symmetric, int dtype, int64_t lane) {
  if (n[1] != 1 && n[1] != n[0]) throw Error("gaussian: taps of " + std::to_string(n[1]) + " images for " + std::to_string(n[0]));
  check_pointers("gaussian", n[0], {x, taps, radii, low | high});
  table().gaussian({pointer(x), pointer(low), pointer(high), pointer(taps), pointer<const int32_t>(radii), pointer(scratch), n[0], n[1],
                    n[2], n[3], n[4], n[5], static_cast<Padding>(padding), adjoint, symmetric, static_cast<DType>(dtype), make_lane(lane)});
}

// extents: images, D, H, W, radius
template <Table table>
void taps_gradient(uintptr_t x, uintptr_t gradient, uintptr_t out, uintptr_t partial, std::array<int64_t, 5> n, int axis, int padding,
                   int dtype, int64_t lane) {
  check_pointers("taps_gradient", n[0], {x, gradient, out});
  table().taps_gradient({pointer(x), pointer(gradient), pointer(out), pointer(partial), n[0], n[1], n[2], n[3], n[4], axis,
                         static_cast<Padding>(padding), static_cast<DType>(dtype), make_lane(lane)});
}

// extents: batch, channels of the condition, channels, points
GateParams gate_params(uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat, uintptr_t out, uintptr_t logits,
                       std::array<int64_t, 4> n, int dtype, int64_t lane) {
  check_pointers("gate", n[0], {low, cond, weight, bias, feat, logits});
  return {pointer(low), pointer(cond), pointer(weight),           pointer(bias),  pointer(feat), pointer(out), pointer(logits), n[0], n[1],
          n[2],         n[3],          static_cast<DType>(dtype), make_lane(lane)};
}

template <Table table>
void gate(uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat, uintptr_t out, uintptr_t logits,
          std::array<int64_t, 4> n, int dtype, int64_t lane) {
  check_pointers("gate", n[0], {out});
  table().gate(gate_params(low, cond, weight, bias, feat, out, logits, n, dtype, lane));
}

// results: dlow, dcond, dfeat, dlogits, dweight, dbias, partial
template <Table table>
void gate_backward(uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat, uintptr_t logits, uintptr_t gradient,
                   std::array<uintptr_t, 7> results, std::array<int64_t, 4> n, int dtype, int64_t lane) {
  for (uintptr_t result : results) check_pointers("gate_backward", n[0], {gradient, result});
  const GateParams forward = gate_params(low, cond, weight, bias, feat, 0, logits, n, dtype, lane);
  table().gate_backward({forward, pointer(gradient), pointer(results[0]), pointer(results[1]), pointer(results[2]), pointer(results[3]),
                         pointer(results[4]), pointer(results[5]), pointer(results[6])});
}

// extents: batch, channels, chunk; strides of the gain: batch, channel
void spectral_filter(const Transform& t, uintptr_t x, uintptr_t gain, uintptr_t y, uintptr_t seen, uintptr_t sums, std::array<int64_t, 3> n,
                     std::array<int64_t, 2> strides, int parts, bool conjugate, int dtype, int threads) {
  if (n[0] < 0 || n[1] < 0 || n[2] < 1 || (parts != 1 && parts != 2)) throw Error("spectral_filter: extents");
  if (!t.w.roots || t.d.size > 1) throw Error("spectral_filter: want two axes that the FFT serves");
  check_pointers("spectral_filter", n[0] * n[1], {x, y | seen, y ? gain : seen, seen ? sums : y});
  cpu_kernels().spectral_filter({t, pointer(x), pointer(gain), pointer(y), pointer(seen), pointer(sums), n[0], n[1], n[2], strides[0],
                                 strides[1], parts, conjugate, static_cast<DType>(dtype), make_lane(threads)});
}

// A whole spectral convolution in one call: on small tensors three calls from Python cost more than the arithmetic.
struct Convolution {
  Transform analysis, synthesis;
  int64_t groups, inputs, outputs, modes;  // channels of one group
  int dtype;

  int64_t points() const { return analysis.d.size * analysis.h.size * analysis.w.size; }
  bool is_double() const { return static_cast<DType>(dtype) == DType::kFloat64; }
  int64_t stored() const { return is_double() ? 8 : static_cast<DType>(dtype) == DType::kFloat32 ? 4 : 2; }  // bytes of a number
};

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

uintptr_t address(const Block& block) { return reinterpret_cast<uintptr_t>(block.get()); }

Block allocate_planes(const Transform& t, int64_t images, bool is_double) {
  return t.d.size == 1 ? Block() : allocate(images * t.d.size * round_up(t.h.kept() * t.w.kept(), 16) * 2, is_double);
}

// What a synthesis reads: the kept spectrum times the weights.
Block mix_spectrum(const Convolution& c, uintptr_t spectrum, uintptr_t weight, int64_t batch, int threads) {
  const int64_t i = c.inputs, o = c.outputs, m = c.modes, in = c.groups * i, out = c.groups * o;
  Block mixed = allocate(batch * out * m * 2, c.is_double());
  mix<cpu_kernels>(spectrum, weight, address(mixed), {c.groups, batch, o, i, m}, {i * m, in * m, m}, {o * m, out * m, m},
                   {o * m, out * m, m}, false, false, c.is_double(), threads);
  return mixed;
}

// The first two thirds of a convolution: kept spectrum, then what a synthesis reads.
Block mixed_spectrum(const Convolution& c, uintptr_t x, uintptr_t weight, uintptr_t spectrum, int64_t batch, int threads) {
  if (threads < 1) throw Error("convolve: threads must be positive");
  const int64_t in = c.groups * c.inputs;
  const Block planes = allocate_planes(c.analysis, batch * in, c.is_double());
  analysis<cpu_kernels>(c.analysis, x, spectrum, address(planes), batch * in, c.dtype, false, threads);
  return mix_spectrum(c, spectrum, weight, batch, threads);
}

void convolve(const Convolution& c, uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t spectrum, uintptr_t y, int64_t batch,
              int threads) {
  const Block kept = spectrum ? Block() : allocate(batch * c.groups * c.inputs * c.modes * 2, c.is_double());
  if (!spectrum) spectrum = address(kept);
  const Block mixed = mixed_spectrum(c, x, weight, spectrum, batch, threads);
  const int64_t out = c.groups * c.outputs;
  const Block planes = allocate_planes(c.synthesis, batch * out, c.is_double());
  synthesis<cpu_kernels>(c.synthesis, address(mixed), address(planes), bias, y, batch * out, out, c.dtype, false, threads);
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

int wide(const Convolution& c) { return int(c.is_double() ? DType::kFloat64 : DType::kFloat32); }

// The product of the skip over some samples; addresses are theirs.
PointwiseParams skip_product(const Convolution& c, uintptr_t x, uintptr_t skip, uintptr_t addend, uintptr_t out, int64_t samples,
                             Epilogue epilogue, int threads) {
  const DType dtype = static_cast<DType>(c.dtype);
  PointwiseParams p{};
  p.x = pointer(x), p.weight = pointer(skip), p.addend = pointer(addend), p.out = pointer(out);
  p.batch = samples, p.groups = c.groups, p.outputs = c.outputs, p.inputs = c.inputs, p.points = c.points();
  p.epilogue = epilogue, p.in_dtype = p.factor_dtype = p.out_dtype = dtype, p.lane = make_lane(threads);
  return p;
}

void convolve_block(const Convolution& c, uintptr_t x, uintptr_t weight, uintptr_t skip, uintptr_t bias, uintptr_t spectrum, uintptr_t y,
                    int64_t batch, int threads) {
  const Block mixed = mixed_spectrum(c, x, weight, spectrum, batch, threads);
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const Chunks chunks(c, batch, bytes);
  const bool in_place = c.dtype == wide(c);
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              convolved = in_place ? Block() : allocate(chunks.samples * out * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const uintptr_t target = y + first * out * c.points() * c.stored(), z = in_place ? target : address(convolved);
    synthesis<cpu_kernels>(c.synthesis, address(mixed) + first * out * c.modes * 2 * bytes, address(planes), bias, z, count * out, out,
                           wide(c), false, threads);
    cpu_kernels().pointwise(skip_product(c, x + first * in * c.stored(), skip, z, target, count, Epilogue::kGelu, threads));
  });
}

// What a block's backward reads, and writes: the gradients of x, of what the synthesis read and, a row a chunk, of the skip. Those of x
// and of the skip may be null.
struct BlockGradients {
  uintptr_t x, weight, skip, bias, mixed, gradient, dx, grad_mixed, dskip;
};

// dz = gelu'(z) · gradient, z computed again: while a chunk of it is near, its part of dskip and of the adjoint transform.
void preactivation_gradients(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, uintptr_t dz,
                             int threads) {
  const int64_t in = c.groups * c.inputs * c.points(), out = c.groups * c.outputs, bytes = c.is_double() ? 8 : 4;
  const int64_t weights = out * c.inputs;
  const Block planes = allocate_planes(c.synthesis, chunks.samples * out, c.is_double()),
              partial = allocate(chunks.samples * kGradientParts * weights, c.is_double());
  chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
    const uintptr_t z = dz + first * out * c.points() * bytes, kept = first * out * c.modes * 2 * bytes;
    synthesis<cpu_kernels>(c.synthesis, g.mixed + kept, address(planes), g.bias, z, count * out, out, wide(c), false, threads);
    PointwiseParams p = skip_product(c, g.x + first * in * c.stored(), g.skip, z, z, count, Epilogue::kGeluGradient, threads);
    p.factor = pointer(g.gradient + first * out * c.points() * c.stored()), p.out_dtype = static_cast<DType>(wide(c));
    if (g.dskip) p.weight_gradient = pointer(g.dskip + chunk * weights * bytes), p.partial = partial.get();
    cpu_kernels().pointwise(p);
    analysis<cpu_kernels>(adjoint.analysis, z, g.grad_mixed + kept, address(planes), count * out, wide(c), false, threads);
  });
}

// dx = adjoint synthesis of the gradient of the spectrum + skipᵀ · dz
void input_gradient(const Convolution& c, const Convolution& adjoint, const BlockGradients& g, const Chunks& chunks, uintptr_t dz,
                    int threads) {
  const int64_t i = c.inputs, o = c.outputs, m = c.modes, in = c.groups * i, out = c.groups * o, bytes = c.is_double() ? 8 : 4;
  const Block spectrum = allocate(chunks.batch * in * m * 2, c.is_double());
  mix<cpu_kernels>(g.grad_mixed, g.weight, address(spectrum), {c.groups, chunks.batch, i, o, m}, {o * m, out * m, m}, {o * m, m, out * m},
                   {i * m, in * m, m}, false, true, c.is_double(), threads);
  const bool in_place = c.dtype == wide(c);
  const Block planes = allocate_planes(adjoint.synthesis, chunks.samples * in, c.is_double()),
              through = in_place ? Block() : allocate(chunks.samples * in * c.points(), false);
  chunks.each([&](int64_t, int64_t first, int64_t count) {
    const uintptr_t target = g.dx + first * in * c.points() * c.stored(), z = in_place ? target : address(through);
    synthesis<cpu_kernels>(adjoint.synthesis, address(spectrum) + first * in * m * 2 * bytes, address(planes), 0, z, count * in, in,
                           wide(c), false, threads);
    PointwiseParams p = skip_product(c, dz + first * out * c.points() * bytes, g.skip, z, target, count, Epilogue::kNone, threads);
    std::swap(p.inputs, p.outputs);
    p.transposed = true, p.in_dtype = static_cast<DType>(wide(c));
    cpu_kernels().pointwise(p);
  });
}

// g: x, weight, skip, bias, spectrum, gradient, dx, grad_mixed, dskip [convolve_block_chunks, outputs, inputs]
void convolve_block_backward(const Convolution& c, const Convolution& adjoint, std::array<uintptr_t, 9> g, int64_t batch, int threads) {
  if (threads < 1) throw Error("convolve: threads must be positive");
  const int64_t points = c.groups * c.outputs * c.points();
  const Block mixed = mix_spectrum(c, g[4], g[1], batch, threads), dz = allocate(batch * points, c.is_double());
  const BlockGradients gradients{g[0], g[1], g[2], g[3], address(mixed), g[5], g[6], g[7], g[8]};
  const Chunks chunks(c, batch, c.is_double() ? 8 : 4);
  preactivation_gradients(c, adjoint, gradients, chunks, address(dz), threads);
  if (gradients.dx) input_gradient(c, adjoint, gradients, chunks, address(dz), threads);
}

int64_t convolve_block_chunks(const Convolution& c, int64_t batch) { return Chunks(c, batch, c.is_double() ? 8 : 4).count(); }

const py::call_guard<py::gil_scoped_release> no_gil;

template <Table table>
py::module_ bind(py::module_& parent, const char* name) {
  py::module_ m = parent.def_submodule(name);
  m.def("analysis", &analysis<table>, no_gil);
  m.def("synthesis", &synthesis<table>, no_gil);
  m.def("mix", &mix<table>, no_gil);
  m.def("pointwise", &pointwise<table>, no_gil);
  m.def("affine_relu", &affine_relu<table>, no_gil);
  m.def("gaussian", &gaussian<table>, no_gil);
  m.def("taps_gradient", &taps_gradient<table>, no_gil);
  m.def("gate", &gate<table>, no_gil);
  m.def("gate_backward", &gate_backward<table>, no_gil);
  return m;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_exception<Error>(m, "Error", PyExc_RuntimeError);
  py::class_<Transform>(m, "Transform")
      .def(py::init(&make_transform), py::arg("d"), py::arg("h"), py::arg("w"), py::arg("roots") = std::array<uintptr_t, 3>{},
           py::arg("scale") = 1.0, py::arg("weighted") = false);
  py::class_<Convolution>(m, "Convolution")
      .def(py::init([](const Transform& analysis, const Transform& synthesis, int64_t groups, int64_t inputs, int64_t outputs,
                       int64_t modes, int dtype) { return Convolution{analysis, synthesis, groups, inputs, outputs, modes, dtype}; }));
  py::module_ cpu = bind<cpu_kernels>(m, "cpu");
  cpu.def("spectral_filter", &spectral_filter, no_gil);
  cpu.def("convolve", &convolve, no_gil);
  cpu.def("convolve_block", &convolve_block, no_gil);
  cpu.def("convolve_block_backward", &convolve_block_backward, no_gil);
  cpu.def("convolve_block_chunks", &convolve_block_chunks);
#ifdef FASTSEG_CUDA
  bind<cuda_kernels>(m, "cuda").def("scratch", &cuda_scratch);
  // where the pointers it takes point to: host memory in the build that executes the kernels on the host
#ifdef FASTSEG_CUDA_HOST
  m.attr("cuda_device") = "cpu";
#else
  m.attr("cuda_device") = "cuda";
#endif
#endif
  m.def("use_openmp", &use_openmp);
  m.def("moment_blocks", &moment_blocks);
  m.def("taps_blocks", &taps_blocks);
  m.def("cpu_isa", [] { return std::string(cpu_kernels().name); });
  m.def("cpu_isas_built", [] { return std::string(cpu_kernels_built()); });
  m.attr("compiler") = FASTSEG_COMPILER;
  m.attr("cuda_architectures") = FASTSEG_CUDA_ARCHITECTURES;
}
