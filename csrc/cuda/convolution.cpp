#include "convolution.h"

#include <algorithm>

#include "block/block.h"

namespace fastseg {
namespace {

constexpr int64_t kAligned = 64;  // floats: kernels read and write packs of them

// A fused block takes so many samples at a time that the rows it reads stay in the second-level cache of an A100 or later.
constexpr int64_t kRowFloats = 4 << 20;

struct Chunks {
  int64_t samples;

  Chunks(const Convolution& c, int64_t batch) {
    const Transform& t = c.synthesis;
    const int64_t fit = kRowFloats / (cuda::rows_scratch(t, c.groups * c.outputs) + 1);
    samples = std::min(std::max<int64_t>(fit, 1), batch);
  }
};

// How the workspace is divided, in floats.
struct Rooms {
  int64_t spectrum, mixed, scratch, convolved;

  Rooms(const Convolution& c, int64_t batch, bool keeps, bool block) {
    const int64_t in = batch * c.groups * c.inputs, out = batch * c.groups * c.outputs;
    spectrum = keeps ? 0 : round_up(in * c.modes * 2, kAligned);
    mixed = round_up(out * c.modes * 2, kAligned);
    const bool fused = block && cuda::block_fuses(c.synthesis, c.outputs);
    const int64_t back =
        fused ? cuda::rows_scratch(c.synthesis, Chunks(c, batch).samples * c.groups * c.outputs) : cuda_scratch(c.synthesis, out, true);
    scratch = round_up(std::max(cuda_scratch(c.analysis, in, false), back), kAligned);
    convolved = block && !fused && c.dtype != DType::kFloat32 ? out * c.points() : 0;
  }
  int64_t total() const { return spectrum + mixed + scratch + convolved; }
};

// The rooms' addresses; the kept spectrum's may be the caller's.
struct Workspace {
  Address spectrum, mixed, scratch, convolved;

  Workspace(const Rooms& rooms, const Convolved& tensors) {
    if (rooms.total() && !tensors.workspace) throw Error("convolve: no workspace");
    const auto floats = [](Address from, int64_t count) { return from + count * int64_t{sizeof(float)}; };
    spectrum = tensors.spectrum ? tensors.spectrum : tensors.workspace;
    mixed = floats(tensors.workspace, rooms.spectrum);
    scratch = floats(mixed, rooms.mixed);
    convolved = floats(scratch, rooms.scratch);
  }
};

// The first two thirds of a convolution: kept spectrum, then what a synthesis reads.
void mix_analysed(const Stages& run, const Convolved& tensors, const Workspace& at, int64_t batch) {
  const Convolution& c = run.c;
  run.analysis(c.analysis, {.real = tensors.x, .spectrum = at.spectrum, .planes = at.scratch, .bias = nullptr}, batch * c.groups * c.inputs,
               c.dtype);
  run.mix(at.spectrum, tensors.weight, at.mixed, batch);
}

void synthesise(const Stages& run, const Convolved& tensors, const Workspace& at, int64_t batch, Address real, DType dtype) {
  const int64_t out = run.c.groups * run.c.outputs;
  run.synthesis(run.c.synthesis, {.real = real, .spectrum = at.mixed, .planes = at.scratch, .bias = tensors.bias}, batch * out,
                std::max<int64_t>(out, 1), dtype);
}

// gelu(synthesis + skip · x) of some samples from the `first` one on, y written once.
void fused_block(const Stages& run, const Convolved& tensors, const Workspace& at, int64_t first, int64_t count) {
  const Convolution& c = run.c;
  const int64_t in = c.groups * c.inputs, out = c.groups * c.outputs;
  TransformParams synthesis{};
  synthesis.t = c.synthesis, synthesis.images = count * out, synthesis.channels = out, synthesis.lane = run.lane;
  synthesis.spectrum = at.mixed + first * out * c.modes * 2 * int64_t{sizeof(float)}, synthesis.planes = at.scratch;
  cuda::block({.x = tensors.x + first * in * c.points() * c.stored(),
               .rows = cuda::synthesise_to_rows(synthesis),
               .skip = reinterpret_cast<const float*>(tensors.skip),
               .bias = reinterpret_cast<const float*>(tensors.bias),
               .y = tensors.y + first * out * c.points() * c.stored(),
               .h = c.synthesis.h,
               .batch = count,
               .groups = c.groups,
               .inputs = c.inputs,
               .outputs = c.outputs,
               .depth = c.synthesis.d.size,
               .width = c.synthesis.w.size,
               .dtype = c.dtype,
               .stream = run.lane.stream});
}

// The same by two kernels, the convolution in between.
void composed_block(const Stages& run, const Convolved& tensors, const Workspace& at, int64_t batch) {
  const Address z = run.c.dtype == DType::kFloat32 ? tensors.y : at.convolved;
  synthesise(run, tensors, at, batch, z, DType::kFloat32);
  PointwiseParams p = run.skip_product(tensors.skip, batch, Epilogue::kGelu);
  p.x = tensors.x, p.addend = z, p.out = tensors.y;
  run.kernels.pointwise(p);
}

}  // namespace

int64_t cuda_workspace(const Convolution& c, int64_t batch, bool keeps, bool block) { return Rooms(c, batch, keeps, block).total(); }

void cuda_convolve(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane) {
  const Stages run = {cuda_kernels(), c, lane};
  const Workspace at(Rooms(c, batch, tensors.spectrum, false), tensors);
  mix_analysed(run, tensors, at, batch);
  synthesise(run, tensors, at, batch, tensors.y, c.dtype);
}

void cuda_convolve_block(const Convolution& c, const Convolved& tensors, int64_t batch, Lane lane) {
  const Stages run = {cuda_kernels(), c, lane};
  const Workspace at(Rooms(c, batch, tensors.spectrum, true), tensors);
  mix_analysed(run, tensors, at, batch);
  if (batch * c.outputs == 0) return;
  if (!cuda::block_fuses(c.synthesis, c.outputs)) return composed_block(run, tensors, at, batch);
  const int64_t samples = Chunks(c, batch).samples;
  for (int64_t first = 0; first < batch; first += samples) fused_block(run, tensors, at, first, std::min(samples, batch - first));
}

}  // namespace fastseg
