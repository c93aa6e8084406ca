// The native API: one Params struct a kernel. Pointers are to contiguous memory and validated by the caller.
#pragma once

#include "common.h"

namespace fastseg {

// One axis of a truncated transform. Kept frequencies are 0 … positive−1, then −negative … −1; with K = max(positive, negative + 1)
// distinct |k|, the even half of the samples (n = 0 … N/2) meets K cosine rows, the odd half (n = 1 … ⌈N/2⌉−1) meets K−1 sine rows.
struct Axis {
  // CUDA's outer axes have one table, `cos`, of K−1 frequencies in rows of `padded`: analysis [even][4 cosines, 4 sines of 4 frequencies]
  // …, synthesis [K−1][8 cosines, 8 sines of 8 samples] …, padded with zeros; the sines of n = 0 and N/2 are zero
  const void* cos;  // outer axes: analysis [even, K], synthesis [K, even]; last axis: analysis [even, padded], synthesis [K, padded]
  const void* sin;  // outer axes: analysis [odd, K−1], synthesis [K−1, odd]; last axis: analysis [odd, padded], synthesis [K, padded]
  int64_t size;
  int64_t positive;
  int64_t negative;
  int64_t padded;               // row length of the tables of the last axis, a multiple of 16, and of CUDA's tables
  const void* roots = nullptr;  // where the spectrum is whole and an FFT serves every axis: e^(−2πi·k/size), [size, 2]
  // CUDA's tensor cores, null where a device has none: tables in the order of mma fragments, as cuda/tensor/fragments.h says
  const void* fragments = nullptr;  // in TF32, big and small parts
  const void* halves = nullptr;     // outer axes of an analysis that reads 16 bits: in that dtype, several parts

  constexpr int64_t kept() const { return positive + negative; }
  constexpr int64_t distinct() const { return positive > negative + 1 ? positive : negative + 1; }
  constexpr int64_t even() const { return size / 2 + 1; }
  constexpr int64_t odd() const { return (size - 1) / 2; }
};

struct Transform {
  Axis d, h, w;
  double scale = 1;       // what the last axis's tables carry: a factor, and
  bool weighted = false;  // Hermitian weights: the FFT has no tables to carry them
  bool tf32 = false;      // CUDA: a product may have TF32's 11 bits
};

// The processor's threads a CPU kernel may take, or the stream every launch of a CUDA kernel goes to.
struct Lane {
  int threads;
  void* stream;
};

struct TransformParams {
  Transform t;
  void* real;        // [images, D, H, W]         `dtype`: read by analysis, written by synthesis
  void* spectrum;    // [images, MD, MH, MW, 2]   float32 (float64 for float64): written by analysis, read by synthesis
  void* planes;      // [images, D, MH·MW up to a multiple of 16, 2]    scratch like spectrum, used when D > 1; CUDA: cuda_scratch floats
  const void* bias;  // [channels] like spectrum, or null: added by synthesis
  int64_t images, channels;
  DType dtype;
  bool planar;  // the spectrum is [images, 2, MD, MH, MW]: real parts, then imaginary parts
  Lane lane;
};

// out[p, q, m] (+)= Σ_r op(a[p, r, m]) · op(b[r, q, m]) for every mode m, per group; op is the identity or the conjugate.
struct MixParams {
  const void* a;
  const void* b;
  void* out;
  int64_t groups, p, q, r, modes;                                         // extents; modes are contiguous complex numbers
  int64_t a_group, a_p, a_r, b_group, b_r, b_q, out_group, out_p, out_q;  // strides in complex numbers
  bool conj_a, conj_b;
  bool is_double;
  Lane lane;
};

// A 1×1 convolution with an epilogue: z = weight · x + addend per group, out = epilogue(z). Points are contiguous.
enum class Epilogue : int {
  kNone = 0,
  kGelu = 1,          // gelu(z), the exact one
  kGeluGradient = 2,  // gelu'(z) · factor
  kAffineRelu = 3,    // max(scale · z + shift, 0), per output channel
  kMoments = 4,       // z, and Σz, Σz² of every output channel
};

// What the operators ask of a 1×1 convolution, from storage `in` (of x and the factor) to storage `out`; kernels exist for no more.
constexpr bool pointwise_serves(Epilogue epilogue, DType in, DType out) {
  const DType wide = in == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  if (epilogue == Epilogue::kGelu) return in == out;
  if (epilogue == Epilogue::kGeluGradient) return out == wide;
  if (epilogue == Epilogue::kNone) return in == wide && (in == out || (in == DType::kFloat32 && out != DType::kFloat64));
  return in == wide && in == out;
}

struct PointwiseParams {
  const void* x;       // [batch, groups·inputs, points] in_dtype
  const void* weight;  // [groups, outputs, inputs] compute type; [groups, inputs, outputs] where `transposed`
  const void* addend;  // [batch, groups·outputs, points] compute type, or null; may be `out`
  const void* factor;  // like out, in_dtype: kGeluGradient
  const void* scale;   // [groups·outputs] compute type: kAffineRelu
  const void* shift;
  void* out;      // [batch, groups·outputs, points] out_dtype
  void* moments;  // [2, groups·outputs] compute type: kMoments
  void* partial;  // [moment_blocks(batch, points), 2, groups·outputs] compute type, scratch: kMoments
  int64_t batch, groups, outputs, inputs, points;
  bool transposed;
  Epilogue epilogue;
  DType in_dtype, out_dtype;
  Lane lane;
  void* weight_gradient;  // [groups·outputs, inputs] compute type, or null: Σ out · xᵀ over batch and points; CPU and kGeluGradient only,
                          // with a `partial` of [batch · kGradientParts, groups·outputs·inputs]
};

// A gradient of weights is summed over so many parts of every image at most, then over those.
constexpr int64_t kGradientParts = 32;

// Sums over batch and points are taken in blocks of points, then over the blocks: their order never changes.
constexpr int64_t kMomentPoints = 128;
constexpr int64_t moment_blocks(int64_t batch, int64_t points) { return batch * ceil_div(points, kMomentPoints); }

// Forward (gradient null): out = max(scale · z + shift, 0). Backward: out = [scale · z + shift > 0] · scale · gradient and
// sums = Σ mask · gradient · z, Σ mask · gradient, the gradients of scale and shift.
struct AffineReluParams {
  const void* z;         // [batch, channels, points]
  const void* gradient;  // like z, or null
  const void* scale;     // [channels]
  const void* shift;
  void* out;      // like z
  void* sums;     // [2, channels]
  void* partial;  // [moment_blocks(batch, points), 2, channels], scratch
  int64_t batch, channels, points;
  bool is_double;
  Lane lane;
};

// A separable filter: low = T_D T_H T_W x with (T x)[n] = Σ_r taps[r + R] · x̃[n + r], x̃ being x extended by `padding` (reflect does not
// repeat the edge, R < N); high = x − low. `adjoint` is the exact transpose.
enum class Padding : int { kCircular = 0, kReflect = 1, kZeros = 2 };

struct GaussianParams {
  const void* x;     // [images, D, H, W] dtype
  void* low;         // like x, or null
  void* high;        // like x, or null
  const void* taps;  // [tap_images, 3, 2·radius + 1] compute type, axes D, H, W
  const int32_t*
      radii;  // [tap_images, 3]: taps further out are zero; ≤ N/2 where circular, else ≤ N − 1; 0 with a centre tap of 1 is the identity
  void* scratch;               // compute type; CUDA: cuda_gaussian_scratch floats; CPU: [D, gaussian_pitch(H, W)] where D > 1
  int64_t images, tap_images;  // tap_images is `images`, or 1
  int64_t d, h, w, radius;
  Padding padding;
  bool adjoint, symmetric;  // symmetric: taps[−r] = taps[r]
  DType dtype;
  Lane lane;
};

// The taps of Gaussians whose sigmas are on the device, as fastseg/ops/taps.py has them: of a DFT's response exp(−σ²ω²/2), of samples that
// sum to 1, or of integrals over voxels. CUDA.
enum class TapsKind : int { kExact = 0, kSampled = 1, kErf = 2 };

// A number of each image and axis: [batch, channels, axes] whose strides are 0 where several share one.
struct ImageNumbers {
  const void* data;
  int64_t batch, channel, axis;  // strides in numbers
  DType dtype;
};

struct MakeTapsParams {
  ImageNumbers sigma, offset;  // offset: the data may be null
  const double* roots[3];      // kExact: e^(−2πi·k/size) of the axes D, H, W, [size, 2]
  float* taps;                 // [batch·channels, 3, 2·widest + 1]
  int32_t* radii;              // [batch·channels, 3]
  int64_t batch, channels;
  int sizes[3], first_axis;    // axes before it are the identity
  int radius, widest;          // that a spatial kernel may have, or that an exact one needs; the largest that the axes have room for
  double truncate;             // a spatial kernel's own radius is that many sigmas; negative: `radius`
  double compact_sigma, tail;  // an exact kernel of a sigma from there on ends `tail` sigmas away, others are whole
  TapsKind kind;
  Padding padding;
  Lane lane;
};

// CUDA sums a taps gradient over blocks of so many voxels first.
constexpr int64_t kTapsVoxels = 4096;
constexpr int64_t taps_blocks(int64_t voxels) { return ceil_div(voxels, kTapsVoxels); }

// Planes a power of two apart would share cache sets.
constexpr int64_t gaussian_pitch(int64_t h, int64_t w) { return round_up(h * w, 16) + 16; }

// The gradient of one axis's taps: out[image, r + R] = Σ gradient[n] · x̃[n + r] over all voxels, r along `axis` (0, 1, 2 = D, H, W).
struct TapsGradientParams {
  const void* x;         // [images, D, H, W] dtype
  const void* gradient;  // like x
  void* out;             // [images, 2·radius + 1] compute type
  void* partial;         // CUDA: [images, taps_blocks(d·h·w), 2·radius + 1] compute type, scratch; CPU: null
  int64_t images, d, h, w, radius;
  int axis;
  Padding padding;
  DType dtype;
  Lane lane;
};

// The spatial gate of an anchor: logits = Σ_c weight[c] · max(low[c], cond[c]) + bias, out = feat · (1 + sigmoid(logits)).
struct GateParams {
  const void* low;     // [batch, cond_channels, points] dtype
  const void* cond;    // like low
  const void* weight;  // [cond_channels] compute type
  const void* bias;    // [1]
  const void* feat;    // [batch, channels, points] dtype
  void* out;           // like feat
  void* logits;        // [batch, points] compute type, kept for the backward
  int64_t batch, cond_channels, channels, points;
  DType dtype;
  Lane lane;
};

struct GateBackwardParams {
  GateParams forward;     // its `out` is not used
  const void* gradient;   // like feat
  void *dlow, *dcond;     // like low; where low = cond each gets half
  void* dfeat;            // like feat
  void* dlogits;          // [batch, points] compute type, scratch
  void *dweight, *dbias;  // [cond_channels], [1] compute type
  void* partial;          // [moment_blocks(batch, points), cond_channels + 1] compute type, scratch
};

// y = irfft(rfft(x) · gain) over H and W, every bin kept, where the FFT serves them. Backward: x is the gradient of y, `conjugate` is
// set, y becomes the gradient of x, and sums that of the gain, from `seen`, what the forward read.
struct FilterParams {
  Transform t;
  const void* x;     // [batch, channels, H, W] dtype
  const void* gain;  // [.., H, W/2 + 1, parts] compute type, batch entries gain_batch numbers apart and channels gain_channel
  void* y;           // like x, or null
  const void* seen;  // like x, or null
  void* sums;        // [chunks, channels, H, W/2 + 1, parts] compute type: each of `chunk` batch entries, which share a gain
  int64_t batch, channels, chunk, gain_batch, gain_channel;
  int parts;  // 1: a real gain, 2: a complex one
  bool conjugate;
  DType dtype;
  Lane lane;
};

// Everything one kind of processor can run; null where it has no kernel.
struct Kernels {
  const char* name;
  void (*analysis)(const TransformParams&);
  void (*synthesis)(const TransformParams&);
  void (*mix)(const MixParams&);
  void (*pointwise)(const PointwiseParams&);
  void (*affine_relu)(const AffineReluParams&);
  void (*gaussian)(const GaussianParams&);
  void (*taps_gradient)(const TapsGradientParams&);
  void (*gate)(const GateParams&);
  void (*gate_backward)(const GateBackwardParams&);
  void (*spectral_filter)(const FilterParams&);
};

// The widest instruction set this processor runs, or the one FASTSEG_CPU_ISA names (Error when it cannot run here).
const Kernels& cpu_kernels();
// Names of the sets built in, widest first, separated by spaces.
const char* cpu_kernels_built();

// In builds with CUDA (FASTSEG_CUDA).
const Kernels& cuda_kernels();
// How many floats `planes` of a CUDA transform must hold; none: it may be null.
int64_t cuda_scratch(const Transform& transform, int64_t images, bool synthesis);
// How many floats the scratch of a CUDA filter must hold on the current device; none: it may be null. Pointers are not read.
int64_t cuda_gaussian_scratch(const GaussianParams& p);
void cuda_make_taps(const MakeTapsParams& p);

}  // namespace fastseg
