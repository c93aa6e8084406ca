// The only file that knows pybind11: integers (addresses, extents, codes) → Params → kernel, without the GIL.
//
// Python passes every argument of a kernel by its name, and every Params is filled by the names of its fields: of nine addresses, two that
// are exchanged are an error or can be read as one, never a wrong result that compiles. What shapes and dtypes decide of a kernel with many
// arguments is a struct that Python makes once and keeps (`Mix`, `Pointwise`, `Gaussian`): pybind11 looks for every name among all.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>

#include "cpu/convolution.h"
#include "ops.h"
#include "parallel.h"
#ifdef FASTSEG_CUDA
#include "cuda/convolution.h"
#endif

namespace py = pybind11;
using namespace fastseg;
using namespace py::literals;

namespace {

// An address that becomes the pointer a field wants.
struct At {
  uintptr_t address;
  template <class T>
  operator T*() const {
    return reinterpret_cast<T*>(address);
  }
};

DType make_dtype(int code) {
  if (code < 0 || code > int(DType::kBFloat16)) throw Error("unknown dtype code");
  return static_cast<DType>(code);
}

// `lane`: the number of threads on a CPU, the handle of a stream on a GPU.
Lane make_lane(int64_t lane) {
  if (lane < 0) throw Error("lane: threads must be positive");
  return {.threads = lane > 0 ? int(lane) : 1, .stream = reinterpret_cast<void*>(lane)};
}

void check_extents(const char* kernel, std::initializer_list<int64_t> extents) {
  for (int64_t extent : extents)
    if (extent < 0) throw Error(std::string(kernel) + ": negative extent");
}

void check_pointers(const char* kernel, int64_t count, std::initializer_list<uintptr_t> addresses) {
  for (uintptr_t address : addresses)
    if (count > 0 && !address) throw Error(std::string(kernel) + ": null pointer");
}

Axis make_axis(uintptr_t cos, uintptr_t sin, int64_t size, int64_t positive, int64_t negative, int64_t padded, uintptr_t roots,
               uintptr_t fragments, uintptr_t halves) {
  if (size < 1 || positive < 1 || negative < 0 || padded % 16)
    throw Error("axis: size " + std::to_string(size) + ", kept " + std::to_string(positive) + " + " + std::to_string(negative));
  return {.cos = At{cos},
          .sin = At{sin},
          .size = size,
          .positive = positive,
          .negative = negative,
          .padded = padded,
          .roots = At{roots},
          .fragments = At{fragments},
          .halves = At{halves}};
}

// The functions of a kernel table, as `_C.cpu` and `_C.cuda` show them; their arguments bear the names of the fields in ops.h.

// CUDA's scratch may be null: which kernels need some is for `scratch` to say.
void check_transform(const Kernels& kernels, const TransformParams& p) {
  if (p.images < 0 || p.channels < 1) throw Error("transform: images and channels must be positive");
  const bool scratch = p.planes || p.t.d.size == 1 || &kernels != &cpu_kernels();
  if (p.images > 0 && (!p.real || !p.spectrum || !scratch)) throw Error("transform: null pointer");
}

void analysis(const Kernels& kernels, const Transform& transform, uintptr_t real, uintptr_t spectrum, uintptr_t planes, int64_t images,
              int dtype, bool planar, int64_t lane) {
  const TransformParams p{.t = transform,
                          .real = At{real},
                          .spectrum = At{spectrum},
                          .planes = At{planes},
                          .bias = nullptr,
                          .images = images,
                          .channels = 1,
                          .dtype = make_dtype(dtype),
                          .planar = planar,
                          .lane = make_lane(lane)};
  check_transform(kernels, p);
  kernels.analysis(p);
}

void synthesis(const Kernels& kernels, const Transform& transform, uintptr_t spectrum, uintptr_t planes, uintptr_t bias, uintptr_t real,
               int64_t images, int64_t channels, int dtype, bool planar, int64_t lane) {
  const TransformParams p{.t = transform,
                          .real = At{real},
                          .spectrum = At{spectrum},
                          .planes = At{planes},
                          .bias = At{bias},
                          .images = images,
                          .channels = channels,
                          .dtype = make_dtype(dtype),
                          .planar = planar,
                          .lane = make_lane(lane)};
  check_transform(kernels, p);
  kernels.synthesis(p);
}

MixParams make_mix(int64_t groups, int64_t p, int64_t q, int64_t r, int64_t modes, int64_t a_group, int64_t a_p, int64_t a_r,
                   int64_t b_group, int64_t b_r, int64_t b_q, int64_t out_group, int64_t out_p, int64_t out_q, bool conj_a, bool conj_b,
                   bool is_double) {
  check_extents("mix", {groups, p, q, r, modes});
  return {.a = nullptr,
          .b = nullptr,
          .out = nullptr,
          .groups = groups,
          .p = p,
          .q = q,
          .r = r,
          .modes = modes,
          .a_group = a_group,
          .a_p = a_p,
          .a_r = a_r,
          .b_group = b_group,
          .b_r = b_r,
          .b_q = b_q,
          .out_group = out_group,
          .out_p = out_p,
          .out_q = out_q,
          .conj_a = conj_a,
          .conj_b = conj_b,
          .is_double = is_double,
          .lane = {}};
}

void mix(const Kernels& kernels, const MixParams& of, uintptr_t a, uintptr_t b, uintptr_t out, int64_t lane) {
  MixParams p = of;
  p.a = At{a}, p.b = At{b}, p.out = At{out}, p.lane = make_lane(lane);
  kernels.mix(p);
}

PointwiseParams make_pointwise(int64_t batch, int64_t groups, int64_t outputs, int64_t inputs, int64_t points, bool transposed,
                               int epilogue, int in_dtype, int out_dtype) {
  check_extents("pointwise", {batch, groups, outputs, inputs, points});
  PointwiseParams p{};
  p.batch = batch, p.groups = groups, p.outputs = outputs, p.inputs = inputs, p.points = points;
  p.transposed = transposed, p.epilogue = static_cast<Epilogue>(epilogue);
  p.in_dtype = make_dtype(in_dtype), p.out_dtype = make_dtype(out_dtype);
  return p;
}

void pointwise(const Kernels& kernels, const PointwiseParams& of, uintptr_t x, uintptr_t weight, uintptr_t addend, uintptr_t factor,
               uintptr_t scale, uintptr_t shift, uintptr_t out, uintptr_t moments, uintptr_t partial, int64_t lane) {
  PointwiseParams p = of;
  p.x = At{x}, p.weight = At{weight}, p.addend = At{addend}, p.factor = At{factor}, p.scale = At{scale}, p.shift = At{shift};
  p.out = At{out}, p.moments = At{moments}, p.partial = At{partial}, p.lane = make_lane(lane);
  const bool complete = (p.epilogue != Epilogue::kGeluGradient || factor) && (p.epilogue != Epilogue::kAffineRelu || (scale && shift)) &&
                        (p.epilogue != Epilogue::kMoments || (moments && partial));
  const bool empty = p.batch * p.groups * p.outputs * p.points == 0;
  if (!empty && (!out || !complete || (p.inputs > 0 && (!x || !weight)))) throw Error("pointwise: null pointer");
  kernels.pointwise(p);
}

void affine_relu(const Kernels& kernels, uintptr_t z, uintptr_t gradient, uintptr_t scale, uintptr_t shift, uintptr_t out, uintptr_t sums,
                 uintptr_t partial, int64_t batch, int64_t channels, int64_t points, bool is_double, int64_t lane) {
  check_extents("affine_relu", {batch, channels, points});
  check_pointers("affine_relu", batch * channels * points, {z, scale, shift, out});
  if (gradient) check_pointers("affine_relu", batch * channels * points, {sums, partial});
  kernels.affine_relu({.z = At{z},
                       .gradient = At{gradient},
                       .scale = At{scale},
                       .shift = At{shift},
                       .out = At{out},
                       .sums = At{sums},
                       .partial = At{partial},
                       .batch = batch,
                       .channels = channels,
                       .points = points,
                       .is_double = is_double,
                       .lane = make_lane(lane)});
}

GaussianParams make_gaussian(int64_t images, int64_t tap_images, int64_t d, int64_t h, int64_t w, int64_t radius, int padding, bool adjoint,
                             bool symmetric, int dtype) {
  if (tap_images != 1 && tap_images != images)
    throw Error("gaussian: taps of " + std::to_string(tap_images) + " images for " + std::to_string(images));
  GaussianParams p{};
  p.images = images, p.tap_images = tap_images, p.d = d, p.h = h, p.w = w, p.radius = radius;
  p.padding = static_cast<Padding>(padding), p.adjoint = adjoint, p.symmetric = symmetric, p.dtype = make_dtype(dtype);
  return p;
}

void gaussian(const Kernels& kernels, const GaussianParams& of, uintptr_t x, uintptr_t low, uintptr_t high, uintptr_t taps, uintptr_t radii,
              uintptr_t scratch, int64_t lane) {
  check_pointers("gaussian", of.images, {x, taps, radii, low | high});
  GaussianParams p = of;
  p.x = At{x}, p.low = At{low}, p.high = At{high}, p.taps = At{taps}, p.radii = At{radii}, p.scratch = At{scratch};
  p.lane = make_lane(lane);
  kernels.gaussian(p);
}

#ifdef FASTSEG_CUDA
MakeTapsParams make_make_taps(int64_t batch, int64_t channels, const std::array<int, 3>& sizes, int first_axis, int radius, int widest,
                              double truncate, double compact_sigma, double tail, int kind, int padding) {
  if (kind < 0 || kind > int(TapsKind::kErf)) throw Error("make_taps: unknown kind");
  check_extents("make_taps", {batch, channels, radius, widest});
  MakeTapsParams p{};
  p.batch = batch, p.channels = channels, p.first_axis = first_axis, p.radius = radius, p.widest = widest;
  std::copy(sizes.begin(), sizes.end(), p.sizes);
  p.truncate = truncate, p.compact_sigma = compact_sigma, p.tail = tail;
  p.kind = static_cast<TapsKind>(kind), p.padding = static_cast<Padding>(padding);
  return p;
}

ImageNumbers make_numbers(uintptr_t data, const std::array<int64_t, 3>& strides, int dtype) {
  return {.data = At{data}, .batch = strides[0], .channel = strides[1], .axis = strides[2], .dtype = make_dtype(dtype)};
}

void make_taps(const MakeTapsParams& of, const ImageNumbers& sigma, const ImageNumbers& offset, const std::array<uintptr_t, 3>& roots,
               uintptr_t taps, uintptr_t radii, int64_t lane) {
  check_pointers("make_taps", of.batch * of.channels, {taps, radii});
  MakeTapsParams p = of;
  p.sigma = sigma, p.offset = offset, p.taps = At{taps}, p.radii = At{radii}, p.lane = make_lane(lane);
  for (int axis = 0; axis < 3; ++axis) {
    if (of.kind == TapsKind::kExact && axis >= of.first_axis && !roots[axis]) throw Error("make_taps: no roots");
    p.roots[axis] = At{roots[axis]};
  }
  if (!sigma.data) throw Error("make_taps: null pointer");
  cuda_make_taps(p);
}
#endif

void taps_gradient(const Kernels& kernels, uintptr_t x, uintptr_t gradient, uintptr_t out, uintptr_t partial, int64_t images, int64_t d,
                   int64_t h, int64_t w, int64_t radius, int axis, int padding, int dtype, int64_t lane) {
  check_pointers("taps_gradient", images, {x, gradient, out});
  kernels.taps_gradient({.x = At{x},
                         .gradient = At{gradient},
                         .out = At{out},
                         .partial = At{partial},
                         .images = images,
                         .d = d,
                         .h = h,
                         .w = w,
                         .radius = radius,
                         .axis = axis,
                         .padding = static_cast<Padding>(padding),
                         .dtype = make_dtype(dtype),
                         .lane = make_lane(lane)});
}

void gate(const Kernels& kernels, uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat, uintptr_t out,
          uintptr_t logits, int64_t batch, int64_t cond_channels, int64_t channels, int64_t points, int dtype, int64_t lane) {
  check_pointers("gate", batch, {low, cond, weight, bias, feat, out, logits});
  kernels.gate({.low = At{low},
                .cond = At{cond},
                .weight = At{weight},
                .bias = At{bias},
                .feat = At{feat},
                .out = At{out},
                .logits = At{logits},
                .batch = batch,
                .cond_channels = cond_channels,
                .channels = channels,
                .points = points,
                .dtype = make_dtype(dtype),
                .lane = make_lane(lane)});
}

void gate_backward(const Kernels& kernels, uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat,
                   uintptr_t logits, uintptr_t gradient, uintptr_t dlow, uintptr_t dcond, uintptr_t dfeat, uintptr_t dlogits,
                   uintptr_t dweight, uintptr_t dbias, uintptr_t partial, int64_t batch, int64_t cond_channels, int64_t channels,
                   int64_t points, int dtype, int64_t lane) {
  check_pointers("gate_backward", batch, {low, cond, weight, bias, feat, logits, gradient});
  check_pointers("gate_backward", batch, {dlow, dcond, dfeat, dlogits, dweight, dbias, partial});
  kernels.gate_backward({.forward = {.low = At{low},
                                     .cond = At{cond},
                                     .weight = At{weight},
                                     .bias = At{bias},
                                     .feat = At{feat},
                                     .out = nullptr,
                                     .logits = At{logits},
                                     .batch = batch,
                                     .cond_channels = cond_channels,
                                     .channels = channels,
                                     .points = points,
                                     .dtype = make_dtype(dtype),
                                     .lane = make_lane(lane)},
                         .gradient = At{gradient},
                         .dlow = At{dlow},
                         .dcond = At{dcond},
                         .dfeat = At{dfeat},
                         .dlogits = At{dlogits},
                         .dweight = At{dweight},
                         .dbias = At{dbias},
                         .partial = At{partial}});
}

// Whole convolutions; a block has a skip weight.

using Convolve = void (*)(const Convolution&, const Convolved&, int64_t, Lane);

// Tensors of input channels, of both, of output channels; without channels they have no address.
void check_operands(const char* kernel, const Convolution& c, int64_t batch, std::initializer_list<uintptr_t> inputs,
                    std::initializer_list<uintptr_t> weights, std::initializer_list<uintptr_t> outputs) {
  check_pointers(kernel, batch * c.inputs, inputs);
  check_pointers(kernel, batch * c.inputs * c.outputs, weights);
  check_pointers(kernel, batch * c.outputs, outputs);
}

auto convolution_by(Convolve convolve) {
  return [convolve](const Convolution& convolution, uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t spectrum, uintptr_t y,
                    uintptr_t workspace, int64_t batch, int64_t lane) {
    check_operands("convolve", convolution, batch, {x}, {weight}, {y});
    const Convolved tensors{.x = At{x},
                            .weight = At{weight},
                            .skip = nullptr,
                            .bias = At{bias},
                            .spectrum = At{spectrum},
                            .y = At{y},
                            .workspace = At{workspace}};
    convolve(convolution, tensors, batch, make_lane(lane));
  };
}

auto block_by(Convolve convolve) {
  return [convolve](const Convolution& convolution, uintptr_t x, uintptr_t weight, uintptr_t skip, uintptr_t bias, uintptr_t spectrum,
                    uintptr_t y, uintptr_t workspace, int64_t batch, int64_t lane) {
    check_operands("convolve_block", convolution, batch, {x}, {weight, skip}, {y});
    const Convolved tensors{.x = At{x},
                            .weight = At{weight},
                            .skip = At{skip},
                            .bias = At{bias},
                            .spectrum = At{spectrum},
                            .y = At{y},
                            .workspace = At{workspace}};
    convolve(convolution, tensors, batch, make_lane(lane));
  };
}

Convolution make_convolution(const Transform& analysis, const Transform& synthesis, int64_t groups, int64_t inputs, int64_t outputs,
                             int64_t modes, int dtype) {
  check_extents("convolution", {groups, inputs, outputs, modes});
  return {.analysis = analysis,
          .synthesis = synthesis,
          .groups = groups,
          .inputs = inputs,
          .outputs = outputs,
          .modes = modes,
          .dtype = make_dtype(dtype)};
}

void spectral_filter(const Kernels& kernels, const Transform& transform, uintptr_t x, uintptr_t gain, uintptr_t y, uintptr_t seen,
                     uintptr_t sums, int64_t batch, int64_t channels, int64_t chunk, int64_t gain_batch, int64_t gain_channel, int parts,
                     bool conjugate, int dtype, int64_t lane) {
  if (batch < 0 || channels < 0 || chunk < 1 || (parts != 1 && parts != 2)) throw Error("spectral_filter: extents");
  if (!transform.w.roots || transform.d.size > 1) throw Error("spectral_filter: want two axes that the FFT serves");
  check_pointers("spectral_filter", batch * channels, {x, y | seen, y ? gain : seen, seen ? sums : y});
  kernels.spectral_filter({.t = transform,
                           .x = At{x},
                           .gain = At{gain},
                           .y = At{y},
                           .seen = At{seen},
                           .sums = At{sums},
                           .batch = batch,
                           .channels = channels,
                           .chunk = chunk,
                           .gain_batch = gain_batch,
                           .gain_channel = gain_channel,
                           .parts = parts,
                           .conjugate = conjugate,
                           .dtype = make_dtype(dtype),
                           .lane = make_lane(lane)});
}

// What only the CPU has.

void bound_convolve_block_backward(const Convolution& convolution, const Convolution& adjoint, uintptr_t x, uintptr_t weight,
                                   uintptr_t skip, uintptr_t bias, uintptr_t spectrum, uintptr_t gradient, uintptr_t dx,
                                   uintptr_t grad_mixed, uintptr_t dskip, int64_t batch, int64_t lane) {
  check_operands("convolve_block_backward", convolution, batch, {x, spectrum}, {weight, skip}, {gradient, grad_mixed});
  const BlockGradients gradients{.x = At{x},
                                 .weight = At{weight},
                                 .skip = At{skip},
                                 .bias = At{bias},
                                 .spectrum = At{spectrum},
                                 .gradient = At{gradient},
                                 .dx = At{dx},
                                 .grad_mixed = At{grad_mixed},
                                 .dskip = At{dskip}};
  convolve_block_backward(convolution, adjoint, gradients, batch, make_lane(lane));
}

const py::call_guard<py::gil_scoped_release> no_gil;

using Table = const Kernels& (*)();

// The function with the kernels of a table in front of its arguments; compiled once for all tables.
template <class... A>
auto with(Table table, void (*function)(const Kernels&, A...)) {
  return [table, function](A... arguments) { function(table(), arguments...); };
}

py::module_ bind(py::module_& parent, const char* name, Table table) {
  py::module_ m = parent.def_submodule(name);
  const py::kw_only named;
  m.def("analysis", with(table, analysis), no_gil, named, "transform"_a, "real"_a, "spectrum"_a, "planes"_a, "images"_a, "dtype"_a,
        "planar"_a, "lane"_a);
  m.def("synthesis", with(table, synthesis), no_gil, named, "transform"_a, "spectrum"_a, "planes"_a, "bias"_a, "real"_a, "images"_a,
        "channels"_a, "dtype"_a, "planar"_a, "lane"_a);
  m.def("mix", with(table, mix), no_gil, named, "of"_a, "a"_a, "b"_a, "out"_a, "lane"_a);
  m.def("pointwise", with(table, pointwise), no_gil, named, "of"_a, "x"_a, "weight"_a, "addend"_a, "factor"_a, "scale"_a, "shift"_a,
        "out"_a, "moments"_a, "partial"_a, "lane"_a);
  m.def("affine_relu", with(table, affine_relu), no_gil, named, "z"_a, "gradient"_a, "scale"_a, "shift"_a, "out"_a, "sums"_a, "partial"_a,
        "batch"_a, "channels"_a, "points"_a, "is_double"_a, "lane"_a);
  m.def("gaussian", with(table, gaussian), no_gil, named, "of"_a, "x"_a, "low"_a, "high"_a, "taps"_a, "radii"_a, "scratch"_a, "lane"_a);
  m.def("taps_gradient", with(table, taps_gradient), no_gil, named, "x"_a, "gradient"_a, "out"_a, "partial"_a, "images"_a, "d"_a, "h"_a,
        "w"_a, "radius"_a, "axis"_a, "padding"_a, "dtype"_a, "lane"_a);
  m.def("gate", with(table, gate), no_gil, named, "low"_a, "cond"_a, "weight"_a, "bias"_a, "feat"_a, "out"_a, "logits"_a, "batch"_a,
        "cond_channels"_a, "channels"_a, "points"_a, "dtype"_a, "lane"_a);
  m.def("gate_backward", with(table, gate_backward), no_gil, named, "low"_a, "cond"_a, "weight"_a, "bias"_a, "feat"_a, "logits"_a,
        "gradient"_a, "dlow"_a, "dcond"_a, "dfeat"_a, "dlogits"_a, "dweight"_a, "dbias"_a, "partial"_a, "batch"_a, "cond_channels"_a,
        "channels"_a, "points"_a, "dtype"_a, "lane"_a);
  m.def("spectral_filter", with(table, spectral_filter), no_gil, named, "transform"_a, "x"_a, "gain"_a, "y"_a, "seen"_a, "sums"_a,
        "batch"_a, "channels"_a, "chunk"_a, "gain_batch"_a, "gain_channel"_a, "parts"_a, "conjugate"_a, "dtype"_a, "lane"_a);
  return m;
}

void bind_convolutions(py::module_& m, Convolve convolve, Convolve block) {
  const py::kw_only named;
  m.def("convolve", convolution_by(convolve), no_gil, named, "convolution"_a, "x"_a, "weight"_a, "bias"_a, "spectrum"_a, "y"_a,
        "workspace"_a, "batch"_a, "lane"_a);
  m.def("convolve_block", block_by(block), no_gil, named, "convolution"_a, "x"_a, "weight"_a, "skip"_a, "bias"_a, "spectrum"_a, "y"_a,
        "workspace"_a, "batch"_a, "lane"_a);
}

void bind_cpu(py::module_& cpu) {
  const py::kw_only named;
  bind_convolutions(cpu, cpu_convolve, cpu_convolve_block);
  cpu.def("convolve_block_backward", &bound_convolve_block_backward, no_gil, named, "convolution"_a, "adjoint"_a, "x"_a, "weight"_a,
          "skip"_a, "bias"_a, "spectrum"_a, "gradient"_a, "dx"_a, "grad_mixed"_a, "dskip"_a, "batch"_a, "lane"_a);
  cpu.def("convolve_block_chunks", &convolve_block_chunks, named, "convolution"_a, "batch"_a);
}

#ifdef FASTSEG_CUDA
void bind_cuda(py::module_& cuda) {
  const py::kw_only named;
  bind_convolutions(cuda, cuda_convolve, cuda_convolve_block);
  cuda.def("scratch", &cuda_scratch, named, "transform"_a, "images"_a, "synthesis"_a);
  cuda.def("gaussian_scratch", &cuda_gaussian_scratch, named, "of"_a);
  cuda.def("make_taps", &make_taps, no_gil, named, "of"_a, "sigma"_a, "offset"_a, "roots"_a, "taps"_a, "radii"_a, "lane"_a);
  py::class_<ImageNumbers>(cuda, "ImageNumbers").def(py::init(&make_numbers), named, "data"_a, "strides"_a, "dtype"_a);
  py::class_<MakeTapsParams>(cuda, "MakeTaps")
      .def(py::init(&make_make_taps), named, "batch"_a, "channels"_a, "sizes"_a, "first_axis"_a, "radius"_a, "widest"_a, "truncate"_a,
           "compact_sigma"_a, "tail"_a, "kind"_a, "padding"_a);
  cuda.def("workspace", &cuda_workspace, named, "convolution"_a, "batch"_a, "keeps"_a, "block"_a);
}
#endif

void bind_structs(py::module_& m) {
  const py::kw_only named;
  py::class_<Axis>(m, "Axis").def(py::init(&make_axis), named, "cos"_a, "sin"_a, "size"_a, "positive"_a, "negative"_a, "padded"_a,
                                  "roots"_a = 0, "fragments"_a = 0, "halves"_a = 0);
  py::class_<Transform>(m, "Transform")
      .def(py::init([](const Axis& d, const Axis& h, const Axis& w, double scale, bool weighted, bool tf32) {
             return Transform{.d = d, .h = h, .w = w, .scale = scale, .weighted = weighted, .tf32 = tf32};
           }),
           named, "d"_a, "h"_a, "w"_a, "scale"_a = 1.0, "weighted"_a = false, "tf32"_a = false);
  py::class_<MixParams>(m, "Mix").def(py::init(&make_mix), named, "groups"_a, "p"_a, "q"_a, "r"_a, "modes"_a, "a_group"_a, "a_p"_a, "a_r"_a,
                                      "b_group"_a, "b_r"_a, "b_q"_a, "out_group"_a, "out_p"_a, "out_q"_a, "conj_a"_a, "conj_b"_a,
                                      "is_double"_a);
  py::class_<PointwiseParams>(m, "Pointwise")
      .def(py::init(&make_pointwise), named, "batch"_a, "groups"_a, "outputs"_a, "inputs"_a, "points"_a, "transposed"_a, "epilogue"_a,
           "in_dtype"_a, "out_dtype"_a);
  py::class_<GaussianParams>(m, "Gaussian")
      .def(py::init(&make_gaussian), named, "images"_a, "tap_images"_a, "d"_a, "h"_a, "w"_a, "radius"_a, "padding"_a, "adjoint"_a,
           "symmetric"_a, "dtype"_a);
  py::class_<Convolution>(m, "Convolution")
      .def(py::init(&make_convolution), named, "analysis"_a, "synthesis"_a, "groups"_a, "inputs"_a, "outputs"_a, "modes"_a, "dtype"_a);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_exception<Error>(m, "Error", PyExc_RuntimeError);
  bind_structs(m);
  py::module_ cpu = bind(m, "cpu", cpu_kernels);
  bind_cpu(cpu);
#ifdef FASTSEG_CUDA
  py::module_ cuda = bind(m, "cuda", cuda_kernels);
  bind_cuda(cuda);
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
