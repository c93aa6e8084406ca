#include "convolution.h"

#include <algorithm>

namespace fastseg {
namespace {

constexpr int64_t kAligned = 64;  // floats: kernels read and write packs of them

// How the workspace is divided, in floats.
struct Rooms {
  int64_t spectrum, mixed, scratch, convolved;

  Rooms(const Convolution& c, int64_t batch, bool keeps, bool block) {
    const int64_t in = batch * c.groups * c.inputs, out = batch * c.groups * c.outputs;
    spectrum = keeps ? 0 : round_up(in * c.modes * 2, kAligned);
    mixed = round_up(out * c.modes * 2, kAligned);
    scratch = round_up(std::max(cuda_scratch(c.analysis, in, false), cuda_scratch(c.synthesis, out, true)), kAligned);
    convolved = block && c.dtype != DType::kFloat32 ? out * c.points() : 0;
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
  const Address z = c.dtype == DType::kFloat32 ? tensors.y : at.convolved;
  synthesise(run, tensors, at, batch, z, DType::kFloat32);
  PointwiseParams p = run.skip_product(tensors.skip, batch, Epilogue::kGelu);
  p.x = tensors.x, p.addend = z, p.out = tensors.y;
  run.kernels.pointwise(p);
}

}  // namespace fastseg
