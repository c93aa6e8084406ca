// The only file that knows pybind11: integers (pointers, sizes, codes) → Params → kernel, without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <initializer_list>
#include <string>
#include <tuple>

#include "cpu/convolution.h"
#include "ops.h"
#include "parallel.h"

namespace py = pybind11;
using namespace fastseg;

namespace {

// cos, sin, size, positive, negative, padded
using AxisTuple = std::tuple<uintptr_t, uintptr_t, int64_t, int64_t, int64_t, int64_t>;

template <class T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

DType make_dtype(int code) {
  if (code < 0 || code > int(DType::kBFloat16)) throw Error("unknown dtype code");
  return static_cast<DType>(code);
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
          images, channels,      make_dtype(dtype), planar,          make_lane(lane)};
}

// The functions of a kernel table, as `_C.cpu` and `_C.cuda` show them.

void analysis(const Kernels& kernels, const Transform& t, uintptr_t x, uintptr_t spectrum, uintptr_t planes, int64_t images, int dtype,
              bool planar, int64_t lane) {
  kernels.analysis(transform_params(t, x, spectrum, planes, 0, images, 1, dtype, planar, lane));
}

void synthesis(const Kernels& kernels, const Transform& t, uintptr_t spectrum, uintptr_t planes, uintptr_t bias, uintptr_t y,
               int64_t images, int64_t channels, int dtype, bool planar, int64_t lane) {
  kernels.synthesis(transform_params(t, y, spectrum, planes, bias, images, channels, dtype, planar, lane));
}

using Strides = std::array<int64_t, 3>;

// extents: groups, p, q, r, modes; strides in complex numbers: a (group, p, r), b (group, r, q), out (group, p, q)
void mix(const Kernels& kernels, uintptr_t a, uintptr_t b, uintptr_t out, std::array<int64_t, 5> n, Strides sa, Strides sb, Strides so,
         bool conj_a, bool conj_b, bool is_double, int64_t lane) {
  for (int64_t extent : n)
    if (extent < 0) throw Error("mix: negative extent");
  kernels.mix({pointer(a), pointer(b), pointer(out), n[0],  n[1],  n[2],  n[3],   n[4],   sa[0],     sa[1],          sa[2],
               sb[0],      sb[1],      sb[2],        so[0], so[1], so[2], conj_a, conj_b, is_double, make_lane(lane)});
}

// extents: batch, groups, outputs, inputs, points; dtypes: in, factor, out
void pointwise(const Kernels& kernels, uintptr_t x, uintptr_t weight, uintptr_t addend, uintptr_t factor, uintptr_t scale, uintptr_t shift,
               uintptr_t out, uintptr_t moments, uintptr_t partial, std::array<int64_t, 5> n, bool transposed, int epilogue,
               std::array<int, 3> dtypes, int64_t lane) {
  for (int64_t extent : n)
    if (extent < 0) throw Error("pointwise: negative extent");
  const Epilogue kind = static_cast<Epilogue>(epilogue);
  if (kind == Epilogue::kGeluGradient && dtypes[1] != dtypes[0]) throw Error("pointwise: the factor has not the dtype of x");
  const bool complete = (kind != Epilogue::kGeluGradient || factor) && (kind != Epilogue::kAffineRelu || (scale && shift)) &&
                        (kind != Epilogue::kMoments || (moments && partial));
  const bool empty = n[0] * n[1] * n[2] * n[4] == 0;
  if (!empty && (!out || !complete || (n[3] > 0 && (!x || !weight)))) throw Error("pointwise: null pointer");
  kernels.pointwise({pointer(x),
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
                     make_dtype(dtypes[0]),
                     make_dtype(dtypes[2]),
                     make_lane(lane),
                     nullptr});
}

// extents: batch, channels, points
void affine_relu(const Kernels& kernels, uintptr_t z, uintptr_t gradient, uintptr_t scale, uintptr_t shift, uintptr_t out, uintptr_t sums,
                 uintptr_t partial, std::array<int64_t, 3> n, bool is_double, int64_t lane) {
  for (int64_t extent : n)
    if (extent < 0) throw Error("affine_relu: negative extent");
  if (n[0] * n[1] * n[2] > 0 && (!z || !scale || !shift || !out || (gradient && (!sums || !partial))))
    throw Error("affine_relu: null pointer");
  kernels.affine_relu({pointer(z), pointer(gradient), pointer(scale), pointer(shift), pointer(out), pointer(sums), pointer(partial), n[0],
                       n[1], n[2], is_double, make_lane(lane)});
}

void check_pointers(const char* kernel, int64_t count, std::initializer_list<uintptr_t> addresses) {
  for (uintptr_t address : addresses)
    if (count > 0 && !address) throw Error(std::string(kernel) + ": null pointer");
}

// extents: images, tap images, D, H, W, radius
void gaussian(const Kernels& kernels, uintptr_t x, uintptr_t low, uintptr_t high, uintptr_t taps, uintptr_t radii, uintptr_t scratch,
              std::array<int64_t, 6> n, int padding, bool adjoint, bool symmetric, int dtype, int64_t lane) {
  if (n[1] != 1 && n[1] != n[0]) throw Error("gaussian: taps of " + std::to_string(n[1]) + " images for " + std::to_string(n[0]));
  check_pointers("gaussian", n[0], {x, taps, radii, low | high});
  kernels.gaussian({pointer(x), pointer(low), pointer(high), pointer(taps), pointer<const int32_t>(radii), pointer(scratch), n[0], n[1],
                    n[2], n[3], n[4], n[5], static_cast<Padding>(padding), adjoint, symmetric, make_dtype(dtype), make_lane(lane)});
}

// extents: images, D, H, W, radius
void taps_gradient(const Kernels& kernels, uintptr_t x, uintptr_t gradient, uintptr_t out, uintptr_t partial, std::array<int64_t, 5> n,
                   int axis, int padding, int dtype, int64_t lane) {
  check_pointers("taps_gradient", n[0], {x, gradient, out});
  kernels.taps_gradient({pointer(x), pointer(gradient), pointer(out), pointer(partial), n[0], n[1], n[2], n[3], n[4], axis,
                         static_cast<Padding>(padding), make_dtype(dtype), make_lane(lane)});
}

// extents: batch, channels of the condition, channels, points
GateParams gate_params(uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat, uintptr_t out, uintptr_t logits,
                       std::array<int64_t, 4> n, int dtype, int64_t lane) {
  check_pointers("gate", n[0], {low, cond, weight, bias, feat, logits});
  return {pointer(low), pointer(cond), pointer(weight),           pointer(bias),  pointer(feat), pointer(out), pointer(logits), n[0], n[1],
          n[2],         n[3],          make_dtype(dtype), make_lane(lane)};
}

void gate(const Kernels& kernels, uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat, uintptr_t out,
          uintptr_t logits, std::array<int64_t, 4> n, int dtype, int64_t lane) {
  check_pointers("gate", n[0], {out});
  kernels.gate(gate_params(low, cond, weight, bias, feat, out, logits, n, dtype, lane));
}

// results: dlow, dcond, dfeat, dlogits, dweight, dbias, partial
void gate_backward(const Kernels& kernels, uintptr_t low, uintptr_t cond, uintptr_t weight, uintptr_t bias, uintptr_t feat,
                   uintptr_t logits, uintptr_t gradient, std::array<uintptr_t, 7> results, std::array<int64_t, 4> n, int dtype,
                   int64_t lane) {
  for (uintptr_t result : results) check_pointers("gate_backward", n[0], {gradient, result});
  const GateParams forward = gate_params(low, cond, weight, bias, feat, 0, logits, n, dtype, lane);
  kernels.gate_backward({forward, pointer(gradient), pointer(results[0]), pointer(results[1]), pointer(results[2]), pointer(results[3]),
                         pointer(results[4]), pointer(results[5]), pointer(results[6])});
}

// extents: batch, channels, chunk; strides of the gain: batch, channel
void spectral_filter(const Transform& t, uintptr_t x, uintptr_t gain, uintptr_t y, uintptr_t seen, uintptr_t sums, std::array<int64_t, 3> n,
                     std::array<int64_t, 2> strides, int parts, bool conjugate, int dtype, int threads) {
  if (n[0] < 0 || n[1] < 0 || n[2] < 1 || (parts != 1 && parts != 2)) throw Error("spectral_filter: extents");
  if (!t.w.roots || t.d.size > 1) throw Error("spectral_filter: want two axes that the FFT serves");
  check_pointers("spectral_filter", n[0] * n[1], {x, y | seen, y ? gain : seen, seen ? sums : y});
  cpu_kernels().spectral_filter({t, pointer(x), pointer(gain), pointer(y), pointer(seen), pointer(sums), n[0], n[1], n[2], strides[0],
                                 strides[1], parts, conjugate, make_dtype(dtype), make_lane(threads)});
}

int checked(int threads) {
  if (threads < 1) throw Error("convolve: threads must be positive");
  return threads;
}

// Tensors of input channels, of both, of output channels; without channels they have no address.
void check_operands(const char* kernel, const Convolution& c, int64_t batch, std::initializer_list<uintptr_t> inputs,
                    std::initializer_list<uintptr_t> weights, std::initializer_list<uintptr_t> outputs) {
  check_pointers(kernel, batch * c.inputs, inputs);
  check_pointers(kernel, batch * c.inputs * c.outputs, weights);
  check_pointers(kernel, batch * c.outputs, outputs);
}

void bound_convolve(const Convolution& c, uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t spectrum, uintptr_t y, int64_t batch,
                    int threads) {
  check_operands("convolve", c, batch, {x}, {weight}, {y});
  convolve(c, pointer<char>(x), pointer<char>(weight), pointer<char>(bias), pointer<char>(spectrum), pointer<char>(y), batch,
           checked(threads));
}

void bound_convolve_block(const Convolution& c, uintptr_t x, uintptr_t weight, uintptr_t skip, uintptr_t bias, uintptr_t spectrum,
                          uintptr_t y, int64_t batch, int threads) {
  check_operands("convolve_block", c, batch, {x, spectrum}, {weight, skip}, {y});
  convolve_block(c, pointer<char>(x), pointer<char>(weight), pointer<char>(skip), pointer<char>(bias), pointer<char>(spectrum),
                 pointer<char>(y), batch, checked(threads));
}

// g: x, weight, skip, bias, spectrum, gradient, dx, grad_mixed, dskip [convolve_block_chunks, outputs, inputs]
void bound_convolve_block_backward(const Convolution& c, const Convolution& adjoint, std::array<uintptr_t, 9> g, int64_t batch,
                                   int threads) {
  check_operands("convolve_block_backward", c, batch, {g[0], g[4]}, {g[1], g[2]}, {g[5], g[7]});
  std::array<char*, 9> a;
  for (int i = 0; i < 9; ++i) a[i] = pointer<char>(g[i]);
  convolve_block_backward(c, adjoint, {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]}, batch, checked(threads));
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
  m.def("analysis", with(table, analysis), no_gil);
  m.def("synthesis", with(table, synthesis), no_gil);
  m.def("mix", with(table, mix), no_gil);
  m.def("pointwise", with(table, pointwise), no_gil);
  m.def("affine_relu", with(table, affine_relu), no_gil);
  m.def("gaussian", with(table, gaussian), no_gil);
  m.def("taps_gradient", with(table, taps_gradient), no_gil);
  m.def("gate", with(table, gate), no_gil);
  m.def("gate_backward", with(table, gate_backward), no_gil);
  return m;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_exception<Error>(m, "Error", PyExc_RuntimeError);
  py::class_<Transform>(m, "Transform")
      .def(py::init(&make_transform), py::arg("d"), py::arg("h"), py::arg("w"), py::arg("roots") = std::array<uintptr_t, 3>{},
           py::arg("scale") = 1.0, py::arg("weighted") = false);
  py::class_<Convolution>(m, "Convolution")
      .def(
          py::init([](const Transform& analysis, const Transform& synthesis, int64_t groups, int64_t inputs, int64_t outputs, int64_t modes,
                      int dtype) { return Convolution{analysis, synthesis, groups, inputs, outputs, modes, make_dtype(dtype)}; }));
  py::module_ cpu = bind(m, "cpu", cpu_kernels);
  cpu.def("spectral_filter", &spectral_filter, no_gil);
  cpu.def("convolve", &bound_convolve, no_gil);
  cpu.def("convolve_block", &bound_convolve_block, no_gil);
  cpu.def("convolve_block_backward", &bound_convolve_block_backward, no_gil);
  cpu.def("convolve_block_chunks", &convolve_block_chunks);
#ifdef FASTSEG_CUDA
  bind(m, "cuda", cuda_kernels).def("scratch", &cuda_scratch);
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
